"""scikit-learn models as they are: ``predict``, ``predict_proba``, ``decision_function``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..array_values import array
from ..coercion import column, frame_columns, matrix, number_columns, tensors
from ..errors import ModelUnusable, SchemaMismatch
from ..payloads import DATATYPES, Columns, Content, Limits, Rows, Spec, Tensors
from ..value_texts import listed

METHODS = ("predict", "predict_proba", "decision_function")
INPUT = "X"
_DEEPEST = 8


class ScikitLearnModel:
    """A fitted estimator or pipeline.

    With feature names (``feature_names_in_``) its inputs are the columns of a table; rows are
    taken to have them in that order. Without, the input is one array, ``X``: of numbers, or of
    texts when the first step is a vectorizer of text.

    Args:
        estimator: what was unpickled.
        limits: how much one request may hold.

    Raises:
        ModelUnusable: it has no ``predict``, or was not fitted.
    """

    platform = "sklearn"

    def __init__(self, estimator: Any, limits: Limits) -> None:
        self.methods = tuple(each for each in METHODS if callable(_attribute(estimator, each)))
        if "predict" not in self.methods or isinstance(estimator, type):
            raise ModelUnusable(_no_model(estimator))
        self._estimator = estimator
        self._limits = limits
        self._calls = {name: getattr(estimator, name) for name in self.methods}
        width = _attribute(estimator, "n_features_in_")
        self._matrix = Spec(INPUT, "FP64", (-1, -1 if width is None else int(width)))
        if width is None and _reads_text(estimator):
            self._matrix = Spec(INPUT, "BYTES", (-1,))
        self._known = _known_values(estimator)
        self._columns = _columns(estimator, self._known)
        self._names = [spec.name for spec in self._columns]
        self._all_numbers = all(spec.datatype == "FP64" for spec in self._columns)
        self.tabular = bool(self._columns)
        self.inputs = self._columns or (self._matrix,)
        row = self._example_row()
        named = dict(zip(self._names, row, strict=True)) if self._columns else row
        self.example: Mapping[str, Any] = {"data": [named]}
        example = Rows([row])
        self.outputs = tuple(self._output(estimator, name, example) for name in self.methods)

    def predict(self, content: Content, params: Mapping[str, Any], method: str) -> Any:
        """What ``method`` (default ``predict``) gives: an array with one row for each row.

        Raises:
            SchemaMismatch: the content does not fit, or the estimator raises ValueError or
                TypeError, as it does for NaN and categories that it does not know.
        """
        call = self._calls[method or "predict"]
        given = self._given(content)
        try:
            return call(given)
        except (ValueError, TypeError) as error:
            raise self._refused(error, given) from error
        except AttributeError as error:
            # Of a value, as when a number is where text is expected: not of the model's own parts.
            if not isinstance(error.obj, str | int | float | None):
                raise
            raise self._refused(error, given) from error

    def _refused(self, error: Exception, given: Any) -> SchemaMismatch:
        """What the estimator says, without its advice for who trains it, and where it may be."""
        said = " ".join(str(error).split()).partition(" For supervised learning")[0][:500]
        text = f"The model refuses the input: {(said or type(error).__name__).rstrip('.')}."
        if self._columns:
            others = [n for n in self._names if given[n].dtype.kind not in "biuf"]
            others = [name for name in others if name not in self._known]
            gone = [name for name in self._names if given[name].isna().any()]
            text += f" No numbers are in: {listed(others)}." if others else ""
            text += f" Values are missing in: {listed(gone)}." if gone else ""
        elif given.dtype.kind == "f" and np.isnan(given).any():
            row, place = np.argwhere(np.isnan(given))[0]
            text += f" The first value that is missing is at [{row}][{place}]."
        return SchemaMismatch(text)

    def _given(self, content: Content) -> Any:
        if not self._columns and self._matrix.datatype == "BYTES":
            return _texts(content, self._matrix, self._limits)
        if not self._columns:
            return matrix(content, self._matrix, self._limits)
        import pandas

        if self._all_numbers and isinstance(content, Rows) and not _starts_with_text(content):
            with contextlib.suppress(SchemaMismatch):
                return self._frame(matrix(content, self._matrix, self._limits))
        if self._all_numbers and isinstance(content, Columns):
            numbers = number_columns(content, self._names, self._limits)
            if numbers is not None:
                return self._frame(numbers.T)
        columns = frame_columns(content, self._columns, self._limits)
        if all(values.dtype == np.float64 for values in columns.values()):
            return self._frame(np.stack([*columns.values()]).T)
        return pandas.DataFrame(columns, copy=False)

    def _frame(self, values: NDArray[Any]) -> Any:
        """Column by column in memory, as pandas makes tables: with the order of the sums over a
        row, the last bit of a linear model's answer would change."""
        import pandas

        return pandas.DataFrame(np.asfortranarray(values), columns=self._names, copy=False)

    def _output(self, estimator: Any, method: str, example: Rows) -> Spec:
        """As the example's answer shows it; where there is none, as its classes say."""
        try:
            answer = np.asarray(self._calls[method](self._given(example)))
        except Exception as error:
            if type(error).__name__ == "NotFittedError":  # sklearn.exceptions
                raise ModelUnusable(
                    f"The model, a {type(estimator).__qualname__}, was not fitted: call its fit(), "
                    "then save it again."
                ) from None
            return _declared_output(estimator, method)
        rows_first = answer.ndim > 0 and answer.shape[0] == 1
        shape = (-1, *answer.shape[1:]) if rows_first else (-1,) * max(1, answer.ndim)
        return Spec(method, DATATYPES.get(answer.dtype.name, "BYTES"), shape)

    def _example_row(self) -> Any:
        if self._matrix.datatype == "BYTES":
            return "text"
        if not self._columns:
            return [0.0] * max(1, self._matrix.shape[1])
        empty = {"BYTES": "", "FP64": 0.0, "INT64": 0, "BOOL": False}
        return [self._known.get(s.name, empty[s.datatype]) for s in self._columns]


def _no_model(value: Any) -> str:
    if isinstance(value, type):
        return (
            f"The model is the class {value.__qualname__} itself, not an instance of it: call its "
            "fit(), then save what that gives."
        )
    return (
        f"The model is a {type(value).__qualname__}, which has no predict(). Models that score "
        "without a script have one; for another write an entry script."
    )


def _starts_with_text(content: Rows) -> bool:
    first = content.values[0] if isinstance(content.values, list) and content.values else None
    return isinstance(first, list) and any(isinstance(value, str) for value in first)


def _texts(content: Content, spec: Spec, limits: Limits) -> NDArray[Any]:
    """One text for each row; it may be in a row or a column of its own."""
    if isinstance(content, Tensors):
        return tensors(content, [spec], limits)[spec.name]
    if isinstance(content, Columns) and len(content.columns) != 1:
        raise SchemaMismatch(
            f"The table has {len(content.columns)} columns ({listed(content.columns)}); one of "
            "text is expected."
        )
    values = content.values if isinstance(content, Rows) else next(iter(content.columns.values()))
    if isinstance(values, list) and values and isinstance(values[0], list):
        return array(values, spec._replace(shape=(-1, 1)), limits)[:, 0]
    return column(values, spec, limits)


def _reads_text(estimator: Any) -> bool:
    """Whether its first step is a vectorizer of text, which takes texts, not a table."""
    for _ in range(_DEEPEST):
        steps = _attribute(estimator, "steps")
        inner = steps[0][1] if steps else _attribute(estimator, "best_estimator_")
        if inner is None:
            break
        estimator = inner
    return callable(_attribute(estimator, "build_analyzer"))


def _columns(estimator: Any, known: Mapping[str, Any]) -> tuple[Spec, ...]:
    """The columns by name; text where an encoder was fitted on text, else numbers."""
    names = _attribute(estimator, "feature_names_in_")
    if names is None:
        return ()
    if find_spec("pandas") is None:
        raise ModelUnusable(
            "The model was fitted on a table and goes by the names of its columns, which needs "
            "pandas: pip install pandas."
        )
    return tuple(
        Spec(str(name), "BYTES" if isinstance(known.get(name), str) else "FP64", (-1,))
        for name in names
    )


def _known_values(estimator: Any, columns: Sequence[Any] = (), depth: int = 0) -> dict[str, Any]:
    """A value that an encoder of text or a vectorizer knows, by the name of its column."""
    names = _attribute(estimator, "feature_names_in_")
    columns = list(columns) if names is None else list(names)
    found: dict[str, Any] = {}
    if depth < _DEEPEST:
        for inner, own in _inner(estimator):
            found |= _known_values(inner, columns if own is None else own, depth + 1)
    categories = _attribute(estimator, "categories_")
    if isinstance(categories, list) and len(categories) == len(columns):
        for name, values in zip(columns, categories, strict=True):
            texts = [value for value in values if isinstance(value, str)]
            found |= {name: str(texts[0])} if texts else {}
    if callable(_attribute(estimator, "build_analyzer")):
        found |= {name: "text" for name in columns}
    return found


def _inner(estimator: Any) -> Iterator[tuple[Any, Sequence[Any] | None]]:
    """The estimators in it, with the columns that they are given where those are named."""
    for step in _attribute(estimator, "steps") or ():
        yield step[1], None
    for _, inner, columns in _attribute(estimator, "transformers_") or ():
        named = [columns] if isinstance(columns, str) else columns
        if isinstance(named, list) and all(isinstance(each, str) for each in named):
            yield inner, named
    for name in ("best_estimator_", "estimator_", "regressor_"):
        inner = _attribute(estimator, name)
        if inner is not None:
            yield inner, None


def _declared_output(estimator: Any, method: str) -> Spec:
    """``predict`` of classifiers gives their classes, everything else numbers."""
    classes = _attribute(estimator, "classes_")
    if isinstance(classes, list) or _attribute(estimator, "n_outputs_") not in (None, 1):
        return Spec(method, "FP64", (-1, -1))
    if method != "predict":
        binary = method == "decision_function" and classes is not None and len(classes) == 2
        wide = classes is not None and not binary
        return Spec(method, "FP64", (-1, len(classes)) if wide else (-1,))
    if classes is not None:
        return Spec(method, DATATYPES.get(np.asarray(classes).dtype.name, "BYTES"), (-1,))
    clusters = _attribute(estimator, "labels_") is not None
    return Spec(method, "INT32" if clusters else "FP64", (-1,))


def _attribute(estimator: Any, name: str) -> Any:
    """An attribute, or None: of a pipeline some raise when its last step has none."""
    try:
        return getattr(estimator, name, None)
    except Exception:
        return None
