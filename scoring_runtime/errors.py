"""What can go wrong, as one tree.

::

    ScoringRuntimeError
    ├── StartError                  the process cannot start
    │   ├── ConfigurationError      a setting has a wrong value
    │   ├── ModelUnusable           a model without a script cannot be loaded
    │   │   └── ModelDamaged        its files are not those that were registered
    │   └── EntryScriptError        the entry script cannot be used
    │       ├── EntryScriptNotFound
    │       ├── EntryScriptFailed   importing it, or its init(), raised
    │       └── EntryScriptContract init() or run() is missing or cannot be called
    ├── InputError                  the client's fault: sending it again cannot help
    │   ├── UndecodableInput        not text, not JSON, not the encoding it says it has
    │   ├── SchemaMismatch          JSON, but not what the entry script declares
    │   ├── UnsupportedContentType
    │   ├── NotAcceptable           Accept names no format that the result can have
    │   ├── UnknownModel            no model of that name or version is served here
    │   ├── UnsupportedMethod
    │   ├── InputTooLarge
    │   ├── RequestIdTooLong
    │   ├── InputNotFound           no input is kept under the key that was named
    │   ├── KeyRefused              the caller's key, or token, is none that is known here
    │   │   └── KeyMissing          none was sent
    │   └── KeyTooWeak              it opens other routes, not this one
    ├── RunError                    run() was called, or waited for, and gave no result
    │   ├── RunFailed
    │   ├── RunTimeout
    │   │   └── NotBegun            it passed while the request still waited
    │   ├── WrongBatchLength        a batch has not one result for each of its inputs
    │   ├── ResultNotSerializable
    │   └── ResponseNotSendable     its status or a header has no place in an HTTP response
    ├── NotServing                  not now; later, or elsewhere, it can succeed
    │   ├── QueueFull
    │   ├── Stopping
    │   ├── NotStarted
    │   └── StoreAway               the store of results and inputs does not answer
    ├── TriggerTrouble              what a trigger depends on is away, or refuses
    ├── InputTrouble                one input of a trigger, or its document, cannot be used
    ├── ModelNotFound
    ├── RegistrationError           a model cannot be registered or deleted
    ├── PackagingError              a build context or an image cannot be made
    └── LocalServiceError           a local service cannot be started, found or asked
        └── ServiceExists           one of its name runs already

No error here knows an HTTP status: each trigger turns them into its own outcome at one edge.
"""

from __future__ import annotations


class ScoringRuntimeError(Exception):
    """The root. ``str(error)`` is always a sentence for the person who has to act on it."""


class StartError(ScoringRuntimeError):
    """The process cannot start."""


class ConfigurationError(StartError):
    """A setting has a wrong value; the message names it, its value and what is allowed."""


class ModelUnusable(StartError):
    """A model without a script cannot be loaded; the message names its file and what is wrong."""


class ModelDamaged(ModelUnusable):
    """A model's files are not those that were registered; nothing of it was loaded."""


class EntryScriptError(StartError):
    """The entry script cannot be used."""


class EntryScriptNotFound(EntryScriptError):
    """There is no entry script where it is expected."""


class EntryScriptFailed(EntryScriptError):
    """Importing the entry script, or its ``init()``, raised; ``__cause__`` says what."""


class EntryScriptContract(EntryScriptError):
    """``init()`` or ``run()`` is missing, or ``run()`` cannot be called as scripts are called."""


class InputError(ScoringRuntimeError):
    """The client's fault: the same input can never be scored."""


class UndecodableInput(InputError):
    """The body is not text, not JSON, or not in the encoding it claims."""


class SchemaMismatch(InputError):
    """The input is JSON but not what the entry script declares with ``@input_schema``."""


class UnsupportedContentType(InputError):
    """The Content-Type or Content-Encoding is not one that can be read."""


class NotAcceptable(InputError):
    """Accept names no format that the result can have; the message lists those it can."""


class UnknownModel(InputError):
    """No model of that name or version is served here; the message lists those that are."""


class UnsupportedMethod(InputError):
    """The HTTP method is not one that scores; ``allowed`` are those that do."""

    def __init__(self, message: str, allowed: str = "POST") -> None:
        super().__init__(message)
        self.allowed = allowed


class InputTooLarge(InputError):
    """The body is larger than ``SCORING_MAX_BODY_BYTES``, as sent or after decompression."""


class RequestIdTooLong(InputError):
    """A request id header is longer than 100 characters."""


class InputNotFound(InputError):
    """No input is kept under the key that was named; the message says which."""


class KeyRefused(InputError):
    """The caller's key, or token, is none that is known here; the message never has it."""


class KeyMissing(KeyRefused):
    """No key was sent."""


class KeyTooWeak(InputError):
    """The key is known, but only an administrator's opens this route."""


class RunError(ScoringRuntimeError):
    """``run()`` was called, or waited for, and gave no result."""


class RunFailed(RunError):
    """``run()`` raised; ``__cause__`` is what it raised."""


class RunTimeout(RunError):
    """The deadline passed before ``run()`` answered."""


class NotBegun(RunTimeout):
    """The deadline passed while the request waited: ``run()`` has not seen it."""


class WrongBatchLength(RunError):
    """A batch has not given one result for each of its inputs; the message says both numbers."""


class ResultNotSerializable(RunError):
    """The result of ``run()`` has no JSON form; the message says which type at which path."""


class ResponseNotSendable(RunError, ValueError):
    """The status or a header that ``run()`` chose is none of HTTP; the message says which."""


class NotServing(ScoringRuntimeError):
    """Not now: later, or in another process, the same input can be scored."""


class QueueFull(NotServing):
    """More requests wait than ``SCORING_QUEUE_SIZE``."""


class Stopping(NotServing):
    """The process is shutting down and takes nothing new."""


class NotStarted(NotServing):
    """The entry script's ``init()`` has failed, so nothing can be scored here."""


class StoreAway(NotServing):
    """The store of results and inputs does not answer."""


class TriggerTrouble(ScoringRuntimeError):
    """What a trigger depends on is away, or refuses; the message names the setting to look at."""

    is_out_of_reach = False
    """Whether nothing answers, so that no lock is renewed either."""


class InputTrouble(ScoringRuntimeError):
    """One input of a trigger cannot be taken or read, or its document not be written.

    The others may well be scored; the message names it and says why.
    """


class ModelNotFound(ScoringRuntimeError):
    """No model of that name, version or file below ``AZUREML_MODEL_DIR``."""


class RegistrationError(ScoringRuntimeError):
    """A model cannot be registered or deleted; the message says what was wrong."""


class PackagingError(ScoringRuntimeError):
    """A build context or an image cannot be made; the message says what was wrong."""


class LocalServiceError(ScoringRuntimeError):
    """A local service cannot be started, found or asked; the message says why."""


class ServiceExists(LocalServiceError):
    """A service of this name runs already."""
