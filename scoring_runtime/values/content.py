"""What a body holds once it is read, and what a model declares: plain data, the same for each
format.

A format reads a body into :class:`Rows`, :class:`Columns` or :class:`Tensors`; a model takes any of
them, as far as they fit its inputs. The datatypes are those of the Open Inference Protocol, V2
(https://github.com/kserve/open-inference-protocol, "Tensor Data Types").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

NUMPY_TYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
"""Datatype → name of the numpy dtype. BYTES is text (or bytes), an array of ``str`` objects."""

DATATYPES: Mapping[str, str] = {numpy: name for name, numpy in NUMPY_TYPES.items()}
"""The other way round."""


class Rows(NamedTuple):
    """Values without names, the batch first: an array, or (nested) lists as JSON has them."""

    values: Any


class TextRows(Rows):
    """Rows of text whose types only the model knows, as in CSV; see :class:`Columns`."""

    __slots__ = ()


class Columns(NamedTuple):
    """A table: name → values (a one-dimensional array or a list), in order, all equally long.

    ``typed`` is False when every value is text whose type only the model knows, as in CSV; an
    empty text is then a missing value.
    """

    columns: dict[str, Any]
    typed: bool = True


class Tensors(NamedTuple):
    """Arrays by name."""

    tensors: dict[str, Any]


Content: TypeAlias = Rows | Columns | Tensors


class PerOutput(list[Any]):
    """An array ``(rows, classes)`` for each output of a model, as scikit-learn's ``predict_proba``
    gives for several; formats whose arrays have rows first make one array of them."""


class Spec(NamedTuple):
    """One input or output of a model: a tensor, or a column (then the shape is ``(-1,)``).

    ``shape`` has -1 where any length goes. An ``optional`` input may be left out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


class Limits(NamedTuple):
    """How much a body may hold: rows, values (rows times columns), bytes as sent or decompressed,
    and columns (or other values) by name."""

    rows: int
    values: int
    bytes: int
    columns: int = 10_000

    def for_inputs(self, inputs: int) -> Limits:
        """The same for a model that itself declares so many inputs."""
        return self._replace(columns=max(self.columns, inputs))


UNLIMITED = Limits(2**62, 2**62, 2**62, 2**62)
"""For what was counted already."""


class NoCodeModel(Protocol):
    """A model that scores without a script. Made in the scoring thread, and used there."""

    platform: str
    """Framework and kind as in V2 metadata, such as ``onnxruntime_onnx``."""
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    tabular: bool
    """Whether ``inputs`` are the columns of one table."""
    methods: tuple[str, ...]
    """What ``?method=`` may name; the first is the default. Empty: nothing to choose."""
    example: Mapping[str, Any]
    """A JSON body that scores."""
    params: Mapping[str, Collection[str]] | None
    """The parameters that each method takes beside the input; a method that is not named takes
    none. None: the model checks them itself."""
    reads_text: bool
    """Whether numbers in a text format have to come as text: ``01`` is not always 1."""
    quick: Callable[[list[Any]], Any] | None
    """The shortest way from rows as JSON has them to what :meth:`call` takes; it gives None for
    rows that have to be looked at more closely."""
    is_bound: bool
    """Whether all calls have to come from the thread that loaded it: it holds a user's own code."""
    joins_rows: bool
    """Whether rows of several requests may be given together."""

    def given(self, content: Content, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """What :meth:`call` takes for a content and its params; raises as :meth:`predict`."""
        ...

    def call(self, given: Any, params: Any, method: str) -> Any:
        """What the model itself gives for them; SchemaMismatch when it refuses them."""
        ...

    def predict(self, content: Content, params: Mapping[str, Any], method: str) -> Any:
        """:meth:`given` and :meth:`call` in one: an array, a table, arrays by name, or lists.

        Args:
            content: what the body holds.
            params: what the body gives next to its data, by name.
            method: one of ``methods``, or empty.

        Raises:
            SchemaMismatch: the content does not fit; the message names the cause and what is
                expected. Or the model itself refuses it.
            InputTooLarge: more of it, or of the answer, than the limits allow.
        """
        return self.call(*self.given(content, params), method)
