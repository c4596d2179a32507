"""scikit-learn models as they are: ``predict``, ``predict_proba``, ``decision_function``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputTooLarge, ModelUnusable, SchemaMismatch
from ..values.arrays import array, of_plain_rows
from ..values.content import (
    DATATYPES,
    Columns,
    Content,
    Limits,
    NoCodeModel,
    PerOutput,
    Rows,
    Spec,
    Tensors,
)
from ..values.inputs import column, matrix, tensors
from ..values.named_outputs import rows_first
from ..values.wording import listed, short
from . import input_frame
from .fitted import Booster, attribute, reads_text, receivers
from .sample import Sample

METHODS = ("predict", "predict_proba", "decision_function")
INPUT = "X"
_CHECKS = ("check_input", "validate_features")  # nothing that clients may turn off


class ScikitLearnModel(NoCodeModel):
    """A fitted estimator or pipeline, or a booster of XGBoost or LightGBM.

    With feature names (``feature_names_in_``), or text among its columns, its inputs are the
    columns of a table; rows are taken to have them in that order. Otherwise the input is one array,
    ``X``: of numbers, or of texts when a vectorizer of text gets it.

    Raises:
        ModelUnusable: it has no ``predict``, was not fitted, or lacks a part of its own.
    """

    platform = "sklearn"
    is_bound = False
    joins_rows = True

    def __init__(self, estimator: Any, limits: Limits, sample: Sample | None = None) -> None:
        estimator = Booster(estimator) if type(estimator).__name__ == "Booster" else estimator
        self.methods = tuple(each for each in METHODS if callable(attribute(estimator, each)))
        if "predict" not in self.methods or isinstance(estimator, type):
            raise ModelUnusable(_no_model(estimator))
        self._estimator = estimator
        self._limits = limits
        self._calls = {name: getattr(estimator, name) for name in self.methods}
        self._defaults = {
            name: _parameters(call, estimator, name) for name, call in self._calls.items()
        }
        self.params: Mapping[str, Collection[str]] | None = self._defaults
        width = attribute(estimator, "n_features_in_")
        self._matrix = Spec(INPUT, "FP64", (-1, -1 if width is None else int(width)))
        if width is None and any(map(reads_text, receivers(estimator))):
            self._matrix = Spec(INPUT, "BYTES", (-1,))
        self._sample = sample
        self._describe(input_frame.of(estimator, sample and sample.frame, limits))
        self.example: Mapping[str, Any] = sample.body if sample else {"data": [self._example()]}
        self.outputs = tuple(self._output(name) for name in self.methods)

    def call(self, given: Any, params: Mapping[str, Any], method: str) -> Any:
        """What ``method`` (default ``predict``) gives: an array with one row for each row.

        With ``params`` that ask for more, as ``return_std`` does, an object: what the method gives,
        and the rest by what it is called without ``return_``.

        Raises:
            SchemaMismatch: the estimator raises ValueError or TypeError, as it does for NaN and
                categories that it does not know, or OverflowError for a whole number of 400 digits.
            InputTooLarge: the answer is sparse, and too large to be written.
        """
        method = method or "predict"
        if params:
            _check_flags(params, self._defaults[method])
        try:
            result = self._calls[method](given, **params)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._refused(error, given) from error
        except AttributeError as error:
            # Of a value, as when a number is where text is expected: not of the model's own parts.
            of_a_value = isinstance(error.obj, str | int | float | None)
            if not of_a_value and not hasattr(error.obj, "dtype"):
                raise
            raise self._refused(error, given) from error
        if isinstance(result, np.ndarray):
            return result
        return self._named(result, params, method)

    def _named(self, result: Any, params: Mapping[str, Any], method: str) -> Any:
        if isinstance(result, tuple) and params:
            more = [name.removeprefix("return_") for name, value in params.items() if value]
            return dict(zip((method, *more), result, strict=False))
        if isinstance(result, list) and result and getattr(result[0], "ndim", 0) == 2:
            return PerOutput(result)
        if hasattr(result, "toarray"):
            if np.prod(result.shape, dtype=np.int64) > self._limits.values:
                raise InputTooLarge(
                    f"The answer is sparse, of the shape {list(result.shape)}; at most "
                    f"{self._limits.values} values are written (SCORING_MAX_VALUES). Send fewer "
                    "rows at once."
                )
            return result.toarray()
        return result

    def _refused(self, error: Exception, given: Any) -> SchemaMismatch:
        """What the estimator says, without its advice for who trains it, and where it may be."""
        said = " ".join(str(error).split()).partition(" For supervised learning")[0]
        said = said.partition(" Stack trace:")[0][:500]  # XGBoost's, of its library
        text = f"The model refuses the input: {(said or type(error).__name__).rstrip('.')}."
        if hasattr(given, "columns"):
            others = [n for n in given if given[n].dtype.kind not in "biuf"]
            known = self._table.columns if self._table else {}
            others = [n for n in others if n not in known or known[n].dtype is None]
            gone = [name for name in given if given[name].isna().any()]
            text += f" No numbers are in: {listed(others)}." if others else ""
            text += f" Values are missing in: {listed(gone)}." if gone else ""
        elif getattr(given, "ndim", 0) == 2 and given.dtype.kind == "f" and np.isnan(given).any():
            row, place = np.argwhere(np.isnan(given))[0]
            text += f" The first value that is missing is at [{row}][{place}]."
        return SchemaMismatch(text)

    # --- what it takes --------------------------------------------------------------------------

    def _describe(self, table: input_frame.InputFrame | None) -> None:
        self._table: Any = table
        self.tabular = table is not None
        self.reads_text = table is not None and table.reads_text
        self.inputs = (self._matrix,) if table is None else table.specs
        self.quick: Callable[[list[Any]], Any] | None = None
        if table is None and self._matrix.datatype != "BYTES":
            self.quick = of_plain_rows(self._matrix, self._limits, lambda rows: rows)

    def given(self, content: Content, params: Mapping[str, Any]) -> tuple[Any, Any]:
        """An array or table as the estimator takes it."""
        if self._table is not None:
            return self._table(content), params
        if self._matrix.datatype == "BYTES":
            return _texts(content, self._matrix, self._limits), params
        if isinstance(content, Columns) and self._matrix.shape[1] == -1:
            return input_frame.as_sent(content, self._limits), params
        return matrix(content, self._matrix, self._limits), params

    def _example(self) -> Any:
        if self._table is not None:
            return self._table.example
        return "text" if self._matrix.datatype == "BYTES" else [0.0] * max(1, self._matrix.shape[1])

    # --- what it gives --------------------------------------------------------------------------

    def _output(self, method: str) -> Spec:
        """As the example's answer shows it; where there is none, as its classes say."""
        try:
            answer = self.predict(self._example_content(), {}, method)
        except Exception as error:
            _check_usable(self._estimator, error.__cause__ or error, method)
            return _declared_output(self._estimator, method)
        answer = rows_first(answer) if isinstance(answer, PerOutput) else np.asarray(answer)
        rows = 1 if self._sample is None else self._sample.rows
        by_rows = answer.ndim > 0 and answer.shape[0] == rows
        shape = (-1, *answer.shape[1:]) if by_rows else (-1,) * max(1, answer.ndim)
        return Spec(method, DATATYPES.get(answer.dtype.name, "BYTES"), shape)

    def _example_content(self) -> Content:
        if self._sample is not None:
            return self._sample.content
        row = self._example()
        if self._table is not None:
            return Columns({name: [value] for name, value in row.items()})
        return Rows([row])


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


def _check_usable(estimator: Any, error: BaseException, method: str) -> None:
    """Refuse a model that can score nothing, whatever the input."""
    kind = type(estimator).__qualname__
    if type(error).__name__ == "NotFittedError":  # sklearn.exceptions
        raise ModelUnusable(
            f"The model, a {kind}, was not fitted: call its fit(), then save it again."
        ) from None
    lacks = isinstance(error, AttributeError) and hasattr(error.obj, "get_params")
    if method == METHODS[0] and (lacks or isinstance(error, ImportError)):
        raise ModelUnusable(
            f"The model, a {kind}, cannot score anything here: {type(error).__name__}: {error}. "
            "Install the versions of its libraries that it was saved with."
        ) from error


def _parameters(call: Any, estimator: Any, method: str) -> dict[str, Any]:
    """What a method takes beside the input, with the defaults; a pipeline's goes to its last."""
    try:
        signature = inspect.signature(call).parameters.values()
    except (ValueError, TypeError):
        return {}
    found = {
        each.name: each.default
        for each in signature
        if each.default is not each.empty and each.name not in _CHECKS
    }
    steps = attribute(estimator, "steps")
    if steps and any(each.kind is each.VAR_KEYWORD for each in signature):
        last = steps[-1][1]
        found |= _parameters(attribute(last, method), last, method)
    return found


def _check_flags(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    for name, value in params.items():
        if isinstance(defaults[name], bool) and not isinstance(value, bool):
            raise SchemaMismatch(
                f"The parameter {name} is {short(value)}; expected is true or false."
            )


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


def _declared_output(estimator: Any, method: str) -> Spec:
    """``predict`` of classifiers gives their classes, everything else numbers."""
    classes = attribute(estimator, "classes_")
    if method != "predict":
        return Spec(method, "FP64", (-1,) if classes is None else (-1, -1))
    return Spec(
        method, DATATYPES.get(getattr(classes, "dtype", np.dtype(float)).name, "BYTES"), (-1,)
    )
