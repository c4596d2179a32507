"""What an estimator was fitted on: its columns, and what their values were.

It is found by the conventions that scikit-learn's estimators share (attributes with an underscore
at the end: https://scikit-learn.org/stable/developers/develop.html) instead of a list of their
names, so that it holds for meta-estimators that nobody here knows.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..errors import ModelUnusable
from ..telemetry.logs import log

# These get something else than the input: what other estimators say, or the target.
_OF_OTHERS = ("final_estimator", "final_estimator_", "transformer", "transformer_", "calibrators")
_DOES = ("fit", "predict", "predict_proba", "transform")
# What only computes with numbers takes doubles for integers; other code may look at the types.
_OF_NUMBERS = ("sklearn", "xgboost", "lightgbm", "imblearn", "scoring_runtime")
_DEEPEST, _MOST_PARTS = 12, 10_000


class Column(NamedTuple):
    """A column of the input.

    ``dtype`` is a dtype of pandas or NumPy, ``object`` for text, None where nothing decides.
    ``missing`` stands for a missing text. With ``closed`` categories another value is refused, else
    it is a missing one. A ``seen`` column comes to code that may look at its type, or change it.
    """

    name: str
    dtype: Any = None
    example: Any = 0.0
    missing: Any = np.nan
    optional: bool = False
    closed: bool = False
    seen: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its values are text, those of categories included."""
        dtype = getattr(getattr(self.dtype, "categories", None), "dtype", self.dtype)
        return getattr(dtype, "name", "") in ("object", "str", "string")


class Booster:
    """A booster of XGBoost or LightGBM, saved as it is, as an estimator."""

    def __init__(self, booster: Any) -> None:
        self.booster = booster
        self._is_xgboost = library(booster) == "xgboost"
        names = booster.feature_names if self._is_xgboost else booster.feature_name()
        self.n_features_in_ = booster.num_features() if self._is_xgboost else len(names)
        unnamed = names == [f"Column_{place}" for place in range(self.n_features_in_)]
        self.feature_names_in_ = None if unnamed else names

    def predict(self, values: Any) -> Any:
        """As the booster's own ``predict``."""
        if self._is_xgboost:
            from xgboost import DMatrix

            values = DMatrix(values, enable_categorical=True)
        return self.booster.predict(values)


def attribute(estimator: Any, name: str) -> Any:
    """An attribute, or None: of a pipeline some raise when its last step has none."""
    try:
        return getattr(estimator, name, None)
    except Exception:
        return None


def library(estimator: Any) -> str:
    """The package that its class comes from."""
    return type(estimator).__module__.partition(".")[0]


def receivers(estimator: Any, depth: int = 0) -> Iterator[Any]:
    """Those in it that get the input itself: the first steps, all of a union, and so on."""
    inner = _given_on(estimator) if depth < _DEEPEST else []
    for each in inner:
        yield from receivers(each, depth + 1)
    if not inner:
        yield estimator


def feature_names(estimator: Any) -> list[str] | None:
    """The names of the columns that it was fitted on; not of what other code gives on."""
    names = attribute(estimator, "feature_names_in_")
    if names is not None:
        return [str(name) for name in names]
    given_on = _given_on(estimator) if library(estimator) in _OF_NUMBERS else []
    return next((names for each in given_on if (names := feature_names(each)) is not None), None)


def chooses(estimator: Any) -> bool:
    """Whether it chooses columns, and so leaves others alone."""
    return hasattr(estimator, "transformers") and hasattr(estimator, "remainder")


def reads_text(estimator: Any) -> bool:
    """Whether it is a vectorizer, which takes texts."""
    return callable(attribute(estimator, "build_analyzer"))


def record_columns(vectorizer: Any) -> list[Column]:
    """What a DictVectorizer was fitted on: ``name`` is a number, ``name=value`` a text."""
    found: dict[str, Column] = {}
    for feature in attribute(vectorizer, "feature_names_") or ():
        name, is_text, value = str(feature).partition(vectorizer.separator)
        column = Column(name, np.dtype(object), value) if is_text else Column(name)
        found.setdefault(name, column._replace(optional=True))
    return list(found.values())


def used(transformer: Any, names: Sequence[str]) -> set[str]:
    """The columns that a ColumnTransformer looks at; the others may be missing."""
    choices = attribute(transformer, "transformers_") or ()
    kept = (choice for _, each, choice in choices if each != "drop")
    return {name for choice in kept for name in _chosen(names, choice)}


def known(estimator: Any, columns: Sequence[str]) -> dict[str, Column]:
    """What the estimators in it were fitted on, by the column's name."""
    found: dict[str, Column] = {}
    for each, own in _all(estimator, list(columns), set()):
        for column in _decided(each, own):
            before = found.get(column.name, column)
            if before.dtype is None or column.dtype is not None:
                found[column.name] = column._replace(seen=before.seen)
        function = attribute(each, "func")  # of a FunctionTransformer
        own_code = callable(function) and not isinstance(function, np.ufunc)
        if own_code or library(each) not in _OF_NUMBERS:
            found |= {name: found.get(name, Column(name))._replace(seen=True) for name in own}
    return found


# --- the parts of an estimator --------------------------------------------------------------------


def _all(estimator: Any, columns: list[str], seen: set[int]) -> Iterator[tuple[Any, list[str]]]:
    """Every estimator in it, itself the last, each with the columns that it gets."""
    if id(estimator) in seen or len(seen) > _MOST_PARTS:
        return
    seen.add(id(estimator))
    names = attribute(estimator, "feature_names_in_")
    columns = columns if names is None else [str(name) for name in names]
    for inner, own in _inner(estimator, columns):
        yield from _all(inner, own, seen)
    yield estimator, columns


def _given_on(estimator: Any) -> list[Any]:
    """The estimators in it that get its own input as it is."""
    if chooses(estimator) or reads_text(estimator):
        return []
    inner = islice(_inner(estimator, []), 1 if attribute(estimator, "steps") else None)
    return [each for each, _ in inner if each is not estimator]


def _inner(estimator: Any, columns: list[str]) -> Iterator[tuple[Any, list[str]]]:
    """The estimators in it, each with the columns that it gets."""
    choices = attribute(estimator, "transformers_")
    if steps := attribute(estimator, "steps"):
        for step in _estimators([each[1] for each in steps]):
            yield step, columns
            columns = _after(step, columns)
    elif choices is not None:
        for _, inner, choice in choices:
            yield from ((each, _chosen(columns, choice)) for each in _estimators(inner))
    else:
        for name, value in getattr(estimator, "__dict__", {}).items():
            if name not in _OF_OTHERS:
                yield from ((each, columns) for each in _estimators(value))


def _estimators(value: Any, depth: int = 0) -> Iterator[Any]:
    """Those in a value, which may be a list of them, or of pairs with names."""
    if _is_estimator(value):
        yield value
        return
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = value.ravel().tolist()
    values = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(values, list | tuple) and depth < 3:
        for each in islice(values, _MOST_PARTS):
            yield from _estimators(each, depth + 1)


def _is_estimator(value: Any) -> bool:
    if isinstance(value, type | str) or all(attribute(value, each) is None for each in _DOES):
        return False
    try:
        return next(iter(inspect.signature(value.fit).parameters), "") != "y"  # of the target
    except (AttributeError, ValueError, TypeError):
        return True


def _after(step: Any, columns: list[str]) -> list[str]:
    """The columns that a step gives on, where it says so; what it makes anew is none of them."""
    try:
        given = step.get_feature_names_out(np.array(columns, dtype=object))
    except Exception:  # of one that has none, or other names: most keep them as they are
        return columns
    there = set(columns)
    return [name if name in there else name.rpartition("__")[2] for name in map(str, given)]


def _chosen(names: Sequence[str], choice: Any) -> list[str]:
    """By name, position, slice of either, or mask, as ColumnTransformer has it once fitted."""
    places = {name: place for place, name in enumerate(names)}
    if isinstance(choice, slice):  # of names, the last is in it
        start = places.get(choice.start, choice.start)
        stop = places[choice.stop] + 1 if choice.stop in places else choice.stop
        return list(names[slice(start, stop, choice.step)])
    several: list[Any] = [choice] if isinstance(choice, str | int | np.integer) else list(choice)
    wanted: Any = [places.get(each, each) for each in several]
    try:
        return [names[place] for place in np.arange(len(names))[wanted]] if wanted else []
    except IndexError:  # of a transformer that was fitted on other columns
        return []


# --- what a part was fitted on --------------------------------------------------------------------


def _decided(estimator: Any, columns: Sequence[str]) -> Iterator[Column]:
    if reads_text(estimator):
        yield from (Column(name, np.dtype(object), "text") for name in columns)
    for name in ("statistics_", "categories_"):  # of imputers, of encoders
        values = attribute(estimator, name)
        if isinstance(values, list | np.ndarray) and len(values) == len(columns):
            for column, each in zip(columns, values, strict=True):
                yield from _of_values(column, np.atleast_1d(np.asarray(each, dtype=object)))
    if attribute(estimator, "pandas_categorical"):
        yield from _of_lightgbm(estimator, columns)
    if "c" in (attribute(estimator, "feature_types") or ()):
        yield from _of_xgboost(estimator)


def _of_values(name: str, values: Any) -> Iterator[Column]:
    """The column whose values these are: text if one is, else numbers, which need no dtype."""
    present = [value for value in values if value is not None and value == value]
    texts = [value for value in present if isinstance(value, str)]
    if texts:
        missing = None if any(value is None for value in values) else np.nan
        yield Column(name, np.dtype(object), str(texts[0]), missing)
    elif present and isinstance(present[0], int | float | np.number | np.bool_):
        example = present[0].item() if isinstance(present[0], np.generic) else present[0]
        yield Column(name, np.dtype(bool) if isinstance(example, bool) else None, example)


def _of_lightgbm(booster: Any, columns: Sequence[str]) -> Iterator[Column]:
    """LightGBM keeps the categories of a table's columns, and their places among its parameters."""
    text = booster.model_to_string(num_iteration=1)
    places = re.findall(r"\d+", "".join(re.findall(r"\[categorical_feature: (.*)\]", text)))
    lists = booster.pandas_categorical
    if len(places) == len(lists) and len(columns) == booster.num_feature():
        for place, values in zip(places, lists, strict=True):
            yield _of_categories(columns[int(place)], values, closed=False)


def _of_xgboost(booster: Any) -> Iterator[Column]:
    """XGBoost keeps them from version 3.1 on; before, only a sample tells them."""
    if hasattr(booster, "get_categories"):
        try:
            found = booster.get_categories(export_to_arrow=True).to_arrow()
        except ImportError as error:
            raise ModelUnusable(
                "The model was fitted on columns of categories, for which XGBoost needs pyarrow: "
                "pip install pyarrow."
            ) from error
        for name, values in found:
            if values is not None and (known := _as_fitted(name, values)) is not None:
                yield _of_categories(name, known, closed=True)


def _as_fitted(column: str, values: Any) -> list[Any] | None:
    """The categories that XGBoost keeps; None where they are not those it was fitted on: 3.1 and
    3.2 count characters and store bytes (https://github.com/dmlc/xgboost/pull/12371)."""
    wrong = sys.modules["xgboost"].__version__.startswith(("3.1.", "3.2."))
    try:
        found: list[Any] = values.to_pylist()
        wrong = wrong and not all(str(each).isascii() for each in found)
    except UnicodeDecodeError:
        wrong = True
    if not wrong:
        return found
    log.warning(
        "The categories of the column %r are not all ASCII, which XGBoost 3.1 and 3.2 keep wrongly "
        "in the model: only a sample beside the model that has them all tells them.",
        column,
    )
    return None


def _of_categories(name: str, values: Sequence[Any], *, closed: bool) -> Column:
    import pandas

    dtype = pandas.CategoricalDtype(list(values))
    return Column(name, dtype, values[0] if len(values) else "", closed=closed)
