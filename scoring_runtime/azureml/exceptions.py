"""``azureml.exceptions``: what the old names raise.

::

    AzureMLException
    ├── ComputeTargetException       there are no clusters here
    ├── RunEnvironmentException      never raised here, scripts name it
    ├── UserErrorException
    │   └── WorkspaceException       a workspace is not there, or cannot be made
    └── WebserviceException          also a PackagingError
        └── ModelNotFoundException   also a ModelNotFound
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ..errors import ModelNotFound, PackagingError, ScoringRuntimeError


class AzureMLException(ScoringRuntimeError):
    """The root of what the old names raise; ``message`` is its sentence."""

    def __init__(
        self,
        exception_message: str = "",
        inner_exception: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(exception_message)
        self.message = exception_message
        self.inner_exception = inner_exception


class ComputeTargetException(AzureMLException):
    """A cluster is not there; there are none here."""


class RunEnvironmentException(AzureMLException):
    """A run is not there; there are none here."""


class UserErrorException(AzureMLException):
    """Something that was passed, or is in a file, is wrong."""


class WorkspaceException(UserErrorException):
    """A workspace is not there, or cannot be made."""


class WebserviceException(AzureMLException, PackagingError):
    """A model cannot be registered, packaged or deployed; the message says what was wrong."""


class ModelNotFoundException(WebserviceException, ModelNotFound):
    """No such model or version in the workspace; the message lists what there is."""


def refusing(text: str, kind: type[Exception] = WebserviceException) -> Callable[..., NoReturn]:
    """A function that always raises: its text says what to do instead."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise kind(text)

    return refuse


@contextmanager
def as_webservice_exceptions() -> Iterator[None]:
    """Raise ModelNotFound as ModelNotFoundException, and any other error of this package as
    WebserviceException."""
    try:
        yield
    except AzureMLException:
        raise
    except ModelNotFound as error:
        raise ModelNotFoundException(str(error), error) from error
    except ScoringRuntimeError as error:
        raise WebserviceException(str(error), error) from error
