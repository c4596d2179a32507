"""Content → the arrays that a model declares, or a message that says what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SchemaMismatch
from .arrays import array, checked, empty_batch, shape_text
from .content import Columns, Content, Limits, Rows, Spec, Tensors, TextRows
from .wording import listed, short, uneven

_SHOWN = 10


def tensors(content: Content, specs: Sequence[Spec], limits: Limits) -> dict[str, NDArray[Any]]:
    """The inputs by name, each with its datatype and a shape that fits.

    Rows feed the only input, or one input for each value of a row. A table feeds inputs of one
    value a row by name, or a single input of two dimensions with its columns in order. An input
    without dimensions takes any, since onnxruntime shows an unknown rank as none.

    Raises:
        SchemaMismatch: names the input, what it is and what is expected.
        InputTooLarge: more rows than allowed.
    """
    if isinstance(content, Tensors):
        return _by_name(content.tensors, specs, limits)
    if len(specs) == 1 and len(specs[0].shape) == 1:
        return {specs[0].name: _only_column(content, specs[0], limits)}
    if isinstance(content, Columns):
        if (
            len(specs) == 1
            and len(specs[0].shape) == 2
            and list(content.columns) != [specs[0].name]
        ):
            return {specs[0].name: matrix(content, specs[0], limits)}
        return _by_name(content.columns, specs, limits, typed=content.typed)
    if len(specs) == 1 and specs[0].shape[1:] == (-1,):
        return {specs[0].name: array(content.values, specs[0], limits)}
    if len(specs) == 1:
        return _by_name({specs[0].name: content.values}, specs, limits)
    parts = split(content.values, [spec.name for spec in specs])
    _check_wide(parts, specs)
    return _by_name(parts, specs, limits)


def _only_column(content: Rows | Columns, spec: Spec, limits: Limits) -> NDArray[Any]:
    """Rows of one value, or a table of one column, whatever its name, as an array without rows."""
    if isinstance(content, Columns):
        if len(content.columns) != 1:
            check_names(content.columns, [spec.name], "input")
        return column(next(iter(content.columns.values())), spec, limits, content.typed)
    values = content.values
    if isinstance(values, list) and all(isinstance(v, list) and len(v) == 1 for v in values):
        values = [value[0] for value in values]
    return column(values, spec, limits)


def matrix(content: Content, spec: Spec, limits: Limits) -> NDArray[Any]:
    """Rows of as many values as the second length of ``spec``'s shape says (-1: any), in C order.

    A table's columns are taken in their order. With one order in memory for every format, sums over
    a row add up in the same order too, so that no format changes the last bit of an answer.
    """
    return np.ascontiguousarray(_matrix(content, spec, limits))


def _matrix(content: Content, spec: Spec, limits: Limits) -> NDArray[Any]:
    if isinstance(content, Tensors):
        return _by_name(content.tensors, [spec], limits)[spec.name]
    if isinstance(content, Rows):
        return array(content.values, spec, limits)
    columns = content.columns
    width = spec.shape[1]
    if width not in (-1, len(columns)):
        raise SchemaMismatch(
            f"The table has {len(columns)} columns ({listed(columns)}); {width} are expected."
        )
    one = Spec("", spec.datatype, (-1,))
    parts = {
        name: column(values, one._replace(name=name), limits, content.typed)
        for name, values in columns.items()
    }
    _check_lengths(parts, "column")
    return checked(np.stack([*parts.values()], 1) if parts else np.empty((0, 0)), spec, limits)


def column(values: Any, spec: Spec, limits: Limits, typed: bool = True) -> NDArray[Any]:
    """One column: like :func:`array`, and a column of one value a row is made flat."""
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    return array(values, spec, limits, typed=typed)


def frame_columns(
    content: Content,
    specs: Sequence[Spec],
    limits: Limits,
    others: bool = False,
    convert: Callable[[Any, Spec, Limits, bool], Any] | None = None,
) -> dict[str, Any]:
    """The columns of a table, in the order of ``specs``; a column that is not known is refused, or
    left out where there may be ``others``.

    Rows are taken to have the columns in this order. In a column of FP64 text stays text, and what
    is no number stays as it is: models keep the names of their columns, not their types. Text from
    CSV is read as numbers where all of a column is. Missing text is None. That is unless
    ``convert`` makes a column of its values, its spec, the limits, and whether they have types.
    """
    flat = [spec._replace(shape=(-1,)) for spec in specs]
    if isinstance(content, Tensors) and (rows := _only_matrix(content, flat)) is not None:
        content = Rows(rows)
    if isinstance(content, Tensors):
        found, typed = dict(content.tensors), True
    elif isinstance(content, Columns):
        found, typed = content.columns, content.typed
    else:
        # An array of text has no types: where there are numbers too, numpy made text of them.
        typed = not isinstance(content, TextRows) and not _is_text_array(content.values)
        found = split(content.values, [spec.name for spec in flat])
    if others:
        there = {spec.name for spec in flat}
        found = {name: values for name, values in found.items() if name in there} or found
    _check_names(found, flat, "column")
    convert = convert or loose_column
    made = {s.name: convert(found[s.name], s, limits, typed) for s in flat if s.name in found}
    _check_lengths(made, "column")
    return made


def _is_text_array(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "OUS"


def _only_matrix(content: Tensors, specs: Sequence[Spec]) -> Any:
    """The one array that holds all columns, under a name that none of them has."""
    [name, *others] = content.tensors or [""]
    values: Any = content.tensors.get(name)
    wide = getattr(values, "ndim", 0) == 2 and values.shape[1] == len(specs)
    named = any(spec.name == name for spec in specs)
    return values if wide and not others and not named else None


def number_columns(
    content: Columns, names: Sequence[str], limits: Limits
) -> NDArray[np.float64] | None:
    """The columns of a table of numbers all at once, ``(columns, rows)``: what
    :func:`frame_columns` gives, in a tenth of the time; None when that has to look at each."""
    lists = [content.columns.get(name) for name in names]
    if not content.typed or len(content.columns) != len(names):
        return None
    if not all(isinstance(each, list) and not _holds_text(each) for each in lists):
        return None
    try:
        made = np.array(lists, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return made if made.ndim == 2 and 0 < made.shape[1] <= limits.rows else None


def loose_column(values: Any, spec: Spec, limits: Limits, typed: bool) -> NDArray[Any]:
    """One column as :func:`frame_columns` has it."""
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if isinstance(values, np.ndarray) and values.dtype.kind in "mM":
        return checked(values, spec, limits)
    if not isinstance(values, list | np.ndarray) or spec.datatype not in ("FP64", "BYTES"):
        return column(values, spec, limits, typed)
    if spec.datatype == "BYTES":
        return texts(values, spec, limits, typed)
    if not (typed and _holds_text(values)):
        try:
            return column(values, spec, limits, typed)
        except SchemaMismatch:
            if not len(values):
                raise
    return checked(_as_they_are(values, spec, limits, typed), spec, limits)


def _holds_text(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "US" or (values.dtype.kind == "O" and _holds_text([*values]))
    return str in {*map(type, values)}


def texts(values: Any, spec: Spec, limits: Limits, typed: bool = True) -> NDArray[Any]:
    """Text, where a missing value is None; raises as :func:`array`."""
    gone = np.fromiter((_is_missing(value, typed) for value in values), bool, len(values))
    made = array(["" if no else each for each, no in zip(values, gone, strict=True)], spec, limits)
    made[gone] = None
    return made


def _as_they_are(values: Any, spec: Spec, limits: Limits, typed: bool) -> NDArray[Any]:
    """Values of any types, each a single one."""
    given = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        if isinstance(value, list | dict | np.ndarray):
            raise SchemaMismatch(
                f"The column {spec.name!r} has {short(value)} at [{index}]; one value in a row is "
                "expected."
            )
        given[index] = None if value == "" and not typed else value
    only = [value if isinstance(value, str) else "" for value in values]
    array(only, spec._replace(datatype="BYTES"), limits)  # refuses what is no Unicode
    return given


def _is_missing(value: Any, typed: bool) -> bool:
    if isinstance(value, str):
        return not value and not typed
    return value is None or (isinstance(value, float) and value != value)


def _by_name(
    found: dict[str, Any], specs: Sequence[Spec], limits: Limits, *, typed: bool = True
) -> dict[str, NDArray[Any]]:
    _check_names(found, specs, "input")
    made = {}
    for spec in specs:
        if spec.name not in found:
            continue
        values = found[spec.name]
        if len(spec.shape) == 2 and spec.shape[1] in (1, -1) and _is_flat(values):
            values = column(values, spec._replace(shape=(-1,)), limits, typed)[:, np.newaxis]
        if not spec.shape:
            values = _unwrapped(values)
            spec = spec._replace(shape=(-1,) * depth_of(values))
        made[spec.name] = array(values, spec, limits, typed=typed)
    return made


def _unwrapped(values: Any) -> Any:
    """A single value is written as a list of one where formats have rows."""
    if isinstance(values, np.ndarray):
        return values.reshape(()) if values.shape in ((1,), (1, 1)) else values
    single = isinstance(values, list) and len(values) == 1 and not isinstance(values[0], list)
    return values[0] if single else values


def depth_of(values: Any) -> int:
    """The dimensions of an array; how deeply lists are nested, by the first of each."""
    depth = values.ndim if isinstance(values, np.ndarray) else 0
    while isinstance(values, list):
        values, depth = values[0] if values else None, depth + 1
    return depth


def _check_names(found: dict[str, Any], specs: Sequence[Spec], what: str) -> None:
    expected = [spec.name for spec in specs]
    if not found and not all(spec.optional for spec in specs):
        raise SchemaMismatch(
            f"The batch is empty: at least one row is expected, with {listed(expected, 100)}."
        )
    check_names(found, expected, what, [spec.name for spec in specs if spec.optional])


def check_names(
    found: Collection[str], expected: Sequence[str], what: str, optional: Collection[str] = ()
) -> None:
    """Refuse names that are missing or not known; ``what`` is what they name.

    Raises:
        SchemaMismatch: it lists both, and what is expected.
    """
    missing = [name for name in expected if name not in found and name not in optional]
    known = {*expected}
    unknown = [name for name in found if name not in known]
    said = [f"Missing {what}s: {listed(missing)}."] if missing else []
    said += [f"Unknown {what}s: {listed(unknown)}."] if unknown else []
    if said:
        raise SchemaMismatch(f"{' '.join(said)} Expected: {listed(expected, 100)}.")


def _check_lengths(made: dict[str, NDArray[Any]], what: str) -> None:
    if wrong := uneven({name: len(values) for name, values in made.items()}):
        raise SchemaMismatch(f"The {what}s are {wrong}.")


def split(values: Any, names: Sequence[str]) -> dict[str, Any]:
    """Rows cut into columns of these names.

    Raises:
        SchemaMismatch: it names the first row that has another number of values.
    """
    if isinstance(values, np.ndarray):
        if values.ndim != 2 or values.shape[1] != len(names):
            raise _rows_expected(f"shape {values.shape}", names)
        return {name: values[:, index] for index, name in enumerate(names)}
    if not isinstance(values, list):
        raise _rows_expected(short(values), names)
    for number, row in enumerate(values):
        if not isinstance(row, list):
            raise _rows_expected(f"{short(row)} as row {number}", names)
        if len(row) != len(names):
            raise _rows_expected(f"{len(row)} values in row {number}", names)
    if not values:
        raise empty_batch(", ".join(names[:_SHOWN]))
    return dict(zip(names, map(list, zip(*values, strict=True)), strict=True))


def _check_wide(parts: dict[str, Any], specs: Sequence[Spec]) -> None:
    """Single values are none of an input that has several for each row."""
    for spec in specs:
        values = parts[spec.name]
        single = not isinstance(values, np.ndarray) and any(
            not isinstance(each, list) for each in values
        )
        if single and spec.shape not in ((), (-1,), (-1, 1)):
            raise SchemaMismatch(
                f"The model has several inputs: {listed([each.name for each in specs])}. Send each "
                f'by its name, as in {{"inputs": {{name: values}}}}; {spec.name!r} takes '
                f"{shape_text(spec)}."
            )


def _rows_expected(got: str, names: Sequence[str]) -> SchemaMismatch:
    return SchemaMismatch(f"Got {got}; rows of {len(names)} values are expected: {listed(names)}.")


def _is_flat(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 1
    return isinstance(values, list) and not (values and isinstance(values[0], list))
