"""npy: what numpy.save writes is read to the bit, and nothing else."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from scoring_runtime.errors import (
    InputError,
    InputTooLarge,
    NotAcceptable,
    SchemaMismatch,
    UndecodableInput,
)
from scoring_runtime.formats import npy
from scoring_runtime.values.content import Limits, Rows
from tests.fuzz.mutations import mutated, only_input_errors

LIMITS = Limits(rows=1_000, values=10_000, bytes=1_000_000)


def saved(values: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    """As numpy writes it."""
    out = io.BytesIO()
    np.lib.format.write_array(out, values, version, allow_pickle=False)
    return out.getvalue()


def body_of(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + data


def claim(descr: str, shape: str, data: bytes = b"", order: str = "False") -> bytes:
    return body_of(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}", data)


def rows(body: bytes, limits: Limits = LIMITS) -> NDArray[Any]:
    content = npy.decode(body, limits)
    assert type(content) is Rows
    values: NDArray[Any] = content.values
    return values


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """To the bit: NaN payloads and signs of zeros too."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


NUMBERS = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
DTYPES = [*NUMBERS, "U7", "S7", "M8[s]", "M8[ns]", "m8[us]"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_type_is_read_as_numpy_saved_it(dtype: str) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    assert same(rows(saved(values)), values)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)], ids=["1.0", "2.0"])
def test_each_version_is_read(version: tuple[int, int]) -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert same(rows(saved(values, version)), values)


@pytest.mark.parametrize("dtype", ["i2", "u8", "f2", "f8", "c16", "U7", "M8[ns]", "m8[us]"])
def test_big_endian_values_are_converted(dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    assert same(rows(saved(values.astype(values.dtype.newbyteorder(">")))), values)


def test_fortran_order_is_read_as_the_same_array() -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    read = rows(saved(np.asfortranarray(values)))
    assert np.array_equal(read, values) and read.flags.f_contiguous


def test_the_values_are_not_copied() -> None:
    body = saved(np.arange(6.0).reshape(2, 3))
    read = rows(body)
    assert not read.flags.owndata and not read.flags.writeable
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))


def test_values_that_are_not_aligned_are_copied_to_where_they_are() -> None:
    values = np.arange(3.0)
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}"
    read = [rows(body_of(text + " " * pad, values.tobytes())) for pad in range(8)]
    assert all(each.flags.aligned and same(each, values) for each in read)


BAD: dict[str, tuple[bytes, type[InputError], str]] = {
    "empty": (b"", UndecodableInput, "The npy body is empty."),
    "magic only": (b"\x93NUMPY", UndecodableInput, "The npy version is missing; 1.0 and 2.0 are"),
    "version 3": (body_of("{}", version=3), UndecodableInput, "The npy version is 3.0"),
    "no length": (b"\x93NUMPY\1\0", UndecodableInput, "it has 8 bytes of 10"),
    "cut header": (saved(np.zeros(3))[:50], UndecodableInput, "it has 50 bytes of 128"),
    "cut values": (saved(np.zeros(3))[:-1], UndecodableInput, r"24 bytes; the body has 23 bytes"),
    "long header": (
        b"\x93NUMPY\2\0\xff\xff\xff\x7f",
        UndecodableInput,
        "claims 2147483647 bytes; at most 2000 are read",
    ),
    "objects": (claim("'|O'", "(1,)", b"x" * 8), SchemaMismatch, "pickles are never read"),
    "void": (claim("'|V8'", "(1,)", b"x" * 8), SchemaMismatch, "'|V8', which is not read"),
    "long double": (claim("'<f16'", "(1,)", b"x" * 16), SchemaMismatch, "'<f16', which is not"),
    "no width": (claim("'<U0'", "(9,)"), SchemaMismatch, "'<U0', which is not read"),
    "text of 4 GB": (claim("'<U999999999'", "(1,)"), UndecodableInput, "cannot be read"),
    "several types": (claim("'f8,f8'", "(1,)", b"x" * 16), SchemaMismatch, "Allowed: booleans"),
    "generic date": (claim("'<M8'", "(1,)", b"x" * 8), SchemaMismatch, "'<M8', which is not"),
    "type is a number": (claim("8", "(1,)"), UndecodableInput, "cannot be read"),
    "fields": (claim("[('a', '<f8')]", "(1,)", b"x" * 8), SchemaMismatch, "'|V8', which is not"),
    "scalar": (saved(np.array(1.0)), SchemaMismatch, "a single value; rows are expected"),
    "list as shape": (claim("'<f8'", "[1]"), UndecodableInput, "shape is not valid: [1]"),
    "negative": (claim("'<f8'", "(-1,)"), UndecodableInput, "a length that no array has"),
    "boolean": (claim("'<f8'", "(True,)", b"x" * 8), UndecodableInput, "length that no array has"),
    "a call": (claim("'<f8'", "(exit(),)"), UndecodableInput, "cannot be read"),
    "names": (body_of("{'descr': '<f8'}"), UndecodableInput, "does not contain the correct keys"),
    "unhashable": (body_of("{[]: 1}"), UndecodableInput, "header cannot be read"),
    "unclosed": (body_of("{'descr': '<f8'"), UndecodableInput, "header cannot be read"),
    "deep": (body_of("[" * 1_900), UndecodableInput, "header cannot be read"),
    "minus signs": (body_of("-" * 1_900 + "1"), UndecodableInput, "header cannot be read"),
    "20 digits": (claim("'<f8'", f"({'9' * 20},)"), UndecodableInput, "no array has"),
    "many quotes": (body_of("'" * 1_901), UndecodableInput, "header cannot be read"),
    "33 dimensions": (claim("'<f8'", f"({'1,' * 33})", b"x" * 8), SchemaMismatch, "at most 32"),
    "rows": (
        saved(np.zeros(1_001, "i1")),
        InputTooLarge,
        "has 1001 rows; at most 1000 are taken at once (SCORING_MAX_ROWS)",
    ),
    "values": (
        saved(np.zeros((100, 101), "i1")),
        InputTooLarge,
        "has 10100 values; at most 10000 are taken at once (SCORING_MAX_VALUES)",
    ),
    "claimed values": (claim("'<f8'", f"(1, {10**18})"), InputTooLarge, "at most 10000"),
    "claimed behind 0": (claim("'<f8'", f"(0, {10**18})"), InputTooLarge, "at most 10000"),
    "boolean of 2": (claim("'|b1'", "(2,)", b"\1\2"), UndecodableInput, "neither 0 nor 1"),
    "beyond Unicode": (claim("'<U1'", "(1,)", b"\0\0\x11\0"), UndecodableInput, "not Unicode"),
    "half a pair": (claim("'<U1'", "(1,)", b"\0\xd8\0\0"), UndecodableInput, "not Unicode"),
    "big-endian half": (claim("'>U1'", "(1,)", b"\0\0\xd8\0"), UndecodableInput, "not Unicode"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_with_its_cause_and_takes_no_memory(name: str) -> None:
    body, error, message = BAD[name]
    tracemalloc.start()
    with pytest.raises(error) as refused:
        npy.decode(body, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in str(refused.value)
    assert peak < 2_000_000


def test_a_pickle_is_never_loaded(tmp_path: Any) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "sprung"), "w"))

    out = io.BytesIO()
    np.save(out, np.array([Trap()], dtype=object), allow_pickle=True)
    for body in (out.getvalue(), pickle.dumps(Trap())):
        with pytest.raises(InputError):
            npy.decode(body, LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_limits_hold_for_headers_that_were_seen_before() -> None:
    body = saved(np.zeros((5, 4)))
    assert rows(body).shape == (5, 4)
    with pytest.raises(InputTooLarge, match="5 rows; at most 4"):
        npy.decode(body, LIMITS._replace(rows=4))
    with pytest.raises(InputTooLarge, match="20 values; at most 19"):
        npy.decode(body, LIMITS._replace(values=19))
    with pytest.raises(UndecodableInput, match="159 bytes after the header"):
        npy.decode(body[:-1], LIMITS)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2), (0, 4)], ids=str)
def test_what_is_written_is_what_numpy_writes(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    assert npy.encode({"predict": values}) == saved(values)


def test_a_view_is_written_in_its_own_order() -> None:
    values = np.arange(12.0).reshape(3, 4).T
    assert np.load(io.BytesIO(npy.encode({"y": values}))).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("values", "written"),
    [
        pytest.param(["a", "żółw", ""], np.array(["a", "żółw", ""]), id="text"),
        pytest.param(["a", None], np.array(["a", ""]), id="text and None"),
        pytest.param([b"a", b"\xff"], np.array([b"a", b"\xff"]), id="bytes"),
    ],
)
def test_objects_that_are_text_or_bytes_get_a_fixed_width(
    values: list[Any], written: NDArray[Any]
) -> None:
    body = npy.encode({"label": np.array(values, dtype=object)})
    assert same(np.load(io.BytesIO(body), allow_pickle=False), written)


def test_extended_floats_are_written_as_doubles() -> None:
    body = npy.encode({"y": np.array([0.5], dtype=np.longdouble)})
    assert same(np.load(io.BytesIO(body)), np.array([0.5]))


TWO = {"label": np.zeros(1), "score": np.zeros(1)}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "the result has 0 outputs"),
        (TWO, "the result has 2 outputs: label, score."),
        ({"x": np.array([{}], object)}, "of the types dict, which only pickle"),
        ({"x": np.array(["a", 1], object)}, "types int, str, which"),
        ({"x": np.zeros(1, [("a", "f8")])}, "'x' is a structured array"),
    ],
    ids=["none", "two", "dict", "mixed", "structured"],
)
def test_what_npy_cannot_hold_is_not_acceptable(outputs: Any, message: str) -> None:
    with pytest.raises(NotAcceptable) as refused:
        npy.encode(outputs)
    assert message in str(refused.value)


# --- any array, any body --------------------------------------------------------------------------

ANY_DTYPE = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="=")
    | hnp.unsigned_integer_dtypes(endianness="=")
    | hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64))
    | hnp.datetime64_dtypes(endianness="=")
)
ANY_ARRAY = hnp.arrays(ANY_DTYPE, hnp.array_shapes(max_dims=3, min_side=0, max_side=8))
ANY_TEXT = hnp.arrays(
    "U5",
    hnp.array_shapes(max_dims=2, max_side=4),
    elements=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(ANY_ARRAY | ANY_TEXT)
def test_any_array_comes_back_to_the_bit(values: NDArray[Any]) -> None:
    read = rows(npy.encode({"y": values}))
    assert same(read, values)


SEEDS = [
    saved(np.arange(12).reshape(3, 4).astype(dtype)) for dtype in ("?", ">f8", "U2", "S3", "M8[s]")
] + [saved(np.zeros(2, [("a", "i1"), ("b", "U1")])), saved(np.asfortranarray(np.eye(3)), (2, 0))]


@settings(max_examples=400, deadline=None)
@given(mutated(SEEDS))
def test_a_changed_body_is_read_or_refused_within_memory(body: bytes) -> None:
    only_input_errors(lambda each: npy.decode(each, LIMITS), body, 2_000_000)
