"""The result of run() → JSON: every type, every NaN policy, what is refused and what it says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
import subprocess
import sys
import types
from collections import Counter, UserDict, namedtuple
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from scoring_runtime.errors import ResultNotSerializable
from scoring_runtime.values.json_results import encoder

NAN = float("nan")
INFINITY = float("inf")
UTC = dt.UTC
EVERY_WAY = {
    "null": encoder("null"),
    "string": encoder("string"),
    "error": encoder("error"),
    "raw": encoder("raw"),
    "strict": encoder("raw", strict=True),
}
fast = EVERY_WAY["null"]


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)
    NESTED = {"deep": [Decimal("1.5")]}  # noqa: RUF012


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    ONE = "one"


class Point(NamedTuple):
    x: int
    y: float


Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Box:
    name: str
    sizes: list[float]
    _hidden: int = 7
    shared: dataclasses.InitVar[int] = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    box: Box | None
    when: dt.date


class Model:
    def __init__(self, **values: Any) -> None:
        self.values = values

    def model_dump(self) -> dict[str, Any]:
        return self.values


class Tensor:
    def tolist(self) -> list[list[float]]:
        return [[1.0, 2.0]]


class Column:
    def to_pylist(self) -> list[int | None]:
        return [1, None]


class Listed:
    def to_list(self) -> list[str]:
        return ["a"]


class TextOfOwn(str): ...


class FloatOfOwn(float): ...


class ListOfOwn(list[int]): ...


box = Box("b", [1.0, 2.5])
frame = pd.DataFrame(
    {
        "n": [1, 2],
        "x": [0.5, 1.5],
        "s": ["a", "b"],
        "t": pd.to_datetime(["2024-01-02 03:04:05", None]),
        "c": pd.Categorical(["u", "v"]),
    }
)

# Values without NaN, and what json.loads() gives back, whatever the policy.
VALUES: dict[str, tuple[Any, Any]] = {
    "None": (None, {}),
    "bool": ([True, False], [True, False]),
    "int of 64 bits": ([2**64 - 1, -(2**63)], [2**64 - 1, -(2**63)]),
    "int beyond 64 bits": ([2**64, -(2**63) - 1, 10**40], [2**64, -(2**63) - 1, 10**40]),
    "float": ([0.1, -0.0, 1e300, 5e-324], [0.1, -0.0, 1e300, 5e-324]),
    "text": ("grüße 😀 \" \\ \n\x00\x7f</script>", "grüße 😀 \" \\ \n\x00\x7f</script>"),
    "half of a surrogate pair": (["\ud800", "a\udfffb"], ["\ud800", "a\udfffb"]),
    "empty": ([[], {}, (), "", set()], [[], {}, [], "", []]),
    "subclasses": (
        [TextOfOwn("t"), FloatOfOwn(1.5), ListOfOwn([1])],
        ["t", 1.5, [1]],
    ),
    # keys
    "keys": (
        {7: "i", 2.5: "f", True: "t", None: "n", "s": "s"},
        {"7": "i", "2.5": "f", "true": "t", "null": "n", "s": "s"},
    ),
    "keys of numpy": (
        {np.int64(7): 1, np.float64(1.5): 2, np.str_("s"): 3, np.bool_(True): 4},
        {"7": 1, "1.5": 2, "s": 3, "true": 4},
    ),
    "key int beyond 64 bits": ({2**70: 1}, {str(2**70): 1}),
    "key datetime": ({dt.datetime(2024, 1, 2, 3): 1}, {"2024-01-02T03:00:00": 1}),
    "key enum": ({Colour.RED: 1, Level.HIGH: 2, Name.ONE: 3}, {"red": 1, "3": 2, "one": 3}),
    "key bytes": ({b"ab": 1}, {"YWI=": 1}),
    # the standard library
    "datetime": (dt.datetime(2024, 1, 2, 3, 4, 5, 678), "2024-01-02T03:04:05.000678"),
    "date": (dt.date(2024, 1, 2), "2024-01-02"),
    "timedelta": (dt.timedelta(days=1, milliseconds=500), 86400.5),
    "UUID": (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    "Path": (PurePosixPath("a/b"), "a/b"),
    "bytes": (b"\x00\xff", "AP8="),
    "set": ({3, 1, 2}, [1, 2, 3]),
    "set of many kinds": ({"a", 1, (2,)}, ["a", [2], 1]),
    "enum": ([Colour.RED, Level.HIGH, Name.ONE], ["red", 3, "one"]),
    "enum of a dict": (Colour.NESTED, {"deep": [1.5]}),
    "named tuple": ([Point(1, 2.5), Pair("l", None)], [[1, 2.5], ["l", None]]),
    "dataclasses nested": (
        Slotted(box, dt.date(2024, 1, 2)),
        {"box": {"name": "b", "sizes": [1.0, 2.5], "_hidden": 7}, "when": "2024-01-02"},
    ),
    "dict views": ([{"a": 1}.keys(), {"a": 1}.items()], [["a"], [["a", 1]]]),
    "mappings": (
        [Counter("aab"), UserDict(a=1), types.MappingProxyType({"a": 1})],
        [{"a": 2, "b": 1}, {"a": 1}, {"a": 1}],
    ),
    # numpy
    "numpy integers": (
        [np.int8(-1), np.int16(-2), np.int32(-3), np.int64(-4), np.uint8(1), np.uint64(2**64 - 1)],
        [-1, -2, -3, -4, 1, 2**64 - 1],
    ),
    "numpy floats": ([np.float16(0.5), np.float32(0.25), np.float64(0.1)], [0.5, 0.25, 0.1]),
    "numpy long double": ([np.longdouble(1.5), np.array([2.5], np.longdouble)], [1.5, [2.5]]),
    "array of float16": (np.array([0.5, 1], dtype=np.float16), [0.5, 1.0]),
    "array of objects": (np.array([Decimal("1.5"), None, b"ab"], object), [1.5, None, "YWI="]),
    "array with no dimension": (np.array(3), 3),
    "array in the other byte order": (np.array([1, 2], dtype=">i4"), [1, 2]),
    "array not contiguous": (np.arange(6).reshape(2, 3)[:, ::2], [[0, 2], [3, 5]]),
    "masked array": (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    "record array": (np.array([(1, 2.5)], dtype=[("a", int), ("b", float)]), [[1, 2.5]]),
    "arrays inside": ({"a": [np.array([1]), (np.array([2.5]),)]}, {"a": [[1], [[2.5]]]}),
    **{
        f"datetime64[{unit}]": (np.datetime64("2024-01-02", unit), "2024-01-02T00:00:00")
        for unit in ("D", "s", "us", "ns")
    },
    "array of datetime64[ns] not contiguous": (
        np.array(["2024-01-02", "2024-01-03", "2024-01-04"], dtype="datetime64[ns]")[::2],
        ["2024-01-02T00:00:00", "2024-01-04T00:00:00"],
    ),
    **{
        f"NaT in datetime64[{unit}]": (
            [np.array(["2024-01-02", "NaT"], f"M8[{unit}]"), np.datetime64("NaT", unit)],
            [["2024-01-02T00:00:00", None], None],
        )
        for unit in ("D", "s", "us", "ns")
    },
    "the moment that NaT looks like": (
        np.array(["1970-01-01", "NaT"], dtype="datetime64[h]"),
        ["1970-01-01T00:00:00", None],
    ),
    "timedelta64": ([np.timedelta64(1500, "ms"), np.timedelta64(2, "s")], [1.5, 2.0]),
    # pandas
    "DataFrame": (
        frame,
        [
            {"n": 1, "x": 0.5, "s": "a", "t": "2024-01-02T03:04:05", "c": "u"},
            {"n": 2, "x": 1.5, "s": "b", "t": None, "c": "v"},
        ],
    ),
    "DataFrame without rows": (pd.DataFrame({"a": []}), []),
    "Series of moments": (
        pd.Series(pd.to_datetime(["2024-01-02", None])),
        ["2024-01-02T00:00:00", None],
    ),
    "Series with NA": (pd.Series([1, None], dtype="Int64"), [1, None]),
    "Categorical": (pd.Categorical(["b", "a", "b"]), ["b", "a", "b"]),
    "Timestamp": (pd.Timestamp("2024-01-02T03:04:05"), "2024-01-02T03:04:05"),
    "Timedelta": (pd.Timedelta("90s"), 90.0),
    "NaT and NA": ([pd.NaT, pd.NA], [None, None]),
    # what knows its own plain form
    "model_dump": ([Model(a=1, b=Model(c=np.int64(2)))], [{"a": 1, "b": {"c": 2}}]),
    "tolist": (Tensor(), [[1.0, 2.0]]),
    "to_pylist": ({"c": Column()}, {"c": [1, None]}),
    "to_list": ([Listed()], [["a"]]),
}  # fmt: skip


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("case", VALUES)
def test_every_type_has_one_json_form(case: str, way: str) -> None:
    value, expected = VALUES[case]
    found = json.loads(EVERY_WAY[way](value))
    assert found == expected
    assert repr(found) == repr(json.loads(json.dumps(expected)))


@pytest.mark.parametrize("way", ["null", "string", "error", "raw"])
def test_the_bytes_are_compact_utf8(way: str) -> None:
    """Outside strict compatibility: no spaces, no escapes that JSON does not ask for."""
    body = EVERY_WAY[way]({"ü": [1, 2.0, "😀", None, True]})
    assert body == '{"ü":[1,2.0,"😀",null,true]}'.encode()


@pytest.mark.parametrize("way", ["null", "string", "error", "raw"])
@pytest.mark.parametrize("digits", ["1.10", "0.1000000000000000000000000000000001", "-0", "1E+3"])
def test_a_decimal_keeps_its_digits(way: str, digits: str) -> None:
    assert EVERY_WAY[way]([Decimal(digits)]) == f"[{digits}]".encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        'text "quoted"',
        {7: 2, None: 3, True: 4, 2.5: 5, NAN: 6},
        [NAN, INFINITY, -INFINITY],
        [2**100, -(2**100), 1e22, 1e16, 5e-324],
        [TextOfOwn("t"), FloatOfOwn(2.5), Point(1, 2.0), Level.HIGH],
    ],
)
def test_strict_compatibility_writes_what_json_dumps_writes(value: Any) -> None:
    """Byte for byte; None is {}, as the old server has it."""
    expected = json.dumps({} if value is None else value).encode()
    assert EVERY_WAY["strict"](value) == expected


# --- NaN and Infinity -----------------------------------------------------------------------------

NOT_FINITE: dict[str, tuple[Any, str]] = {
    "float": ([1.5, NAN, INFINITY, -INFINITY], "[1.5,{nan},{inf},{-inf}]"),
    "numpy float64": ([np.float64("nan"), np.float64("-inf")], "[{nan},{-inf}]"),
    "numpy float16": ([np.float16("nan")], "[{nan}]"),
    "array": (np.array([[1.5, NAN], [INFINITY, -INFINITY]]), "[[1.5,{nan}],[{inf},{-inf}]]"),
    "array of float16": (np.array([0.5, INFINITY], dtype=np.float16), "[0.5,{inf}]"),
    "array not contiguous": (np.array([NAN, 1.5, INFINITY])[::2], "[{nan},{inf}]"),
    "array of objects": (np.array([NAN, None], dtype=object), "[{nan},null]"),
    "Decimal": ([Decimal("NaN"), Decimal("inf"), Decimal("-inf")], "[{nan},{inf},{-inf}]"),
    "DataFrame": (pd.DataFrame({"a": [0.5, None]}), '[{{"a":0.5}},{{"a":{nan}}}]'),
    "float of own": ([FloatOfOwn("nan")], "[{nan}]"),
    "in a dataclass": (Box("b", [NAN]), '{{"name":"b","sizes":[{nan}],"_hidden":7}}'),
    "in a model": (Model(a=NAN), '{{"a":{nan}}}'),
    "from a generator": ((each for each in [NAN]), "[{nan}]"),
}  # fmt: skip
WORDS = {
    "null": {"nan": "null", "inf": "null", "-inf": "null"},
    "string": {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'},
    "raw": {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"},
}


def fresh(case: str) -> Any:
    """A generator is read once: a new one for each test."""
    value = NOT_FINITE[case][0]
    return (each for each in [NAN]) if case == "from a generator" else value


@pytest.mark.fix
@pytest.mark.parametrize("policy", WORDS)
@pytest.mark.parametrize("case", NOT_FINITE)
def test_what_is_not_finite_goes_by_the_policy(case: str, policy: str) -> None:
    """Row 33: null, the name as text, or the bare word, wherever it stands."""
    expected = NOT_FINITE[case][1].format(**WORDS[policy])
    assert EVERY_WAY[policy](fresh(case)) == expected.encode()


@pytest.mark.parametrize("policy", WORDS)
def test_strict_compatibility_has_the_policies_too(policy: str) -> None:
    expected = "[{nan}, {inf}]".format(**WORDS[policy])
    assert encoder(policy, strict=True)([NAN, INFINITY]) == expected.encode()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("case", NOT_FINITE)
def test_what_is_not_finite_can_be_an_error(case: str, strict: bool) -> None:
    with pytest.raises(ResultNotSerializable) as caught:
        encoder("error", strict=strict)(fresh(case))
    assert str(caught.value).startswith("The result of run() cannot be sent as JSON: result")
    assert str(caught.value).endswith(
        ", which JSON does not have, and SCORING_NAN is error. "
        "Return a finite number or None, or set SCORING_NAN to null, string or raw."
    )


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (NAN, "result is NaN,"),
        ({"a": [{"b": -INFINITY}]}, "result['a'][0]['b'] is -Infinity,"),
        (np.array([[1.0, 2.0], [3.0, NAN]]), "result[1][1] is NaN,"),
        (pd.DataFrame({"a": [1.0, NAN]}), "result[1]['a'] is NaN,"),
        (Model(scores=[NAN]), "result['scores'][0] is NaN,"),
    ],
)
def test_the_error_says_the_path(value: Any, where: str) -> None:
    with pytest.raises(ResultNotSerializable) as caught:
        encoder("error")(value)
    assert f"cannot be sent as JSON: {where} which" in str(caught.value)


# --- what has no JSON form ------------------------------------------------------------------------


class Opaque:
    pass


class Broken:
    def tolist(self) -> Any:
        raise RuntimeError("no device")


class Endless:
    def tolist(self) -> Any:
        return Endless()


OPAQUE = f"{__name__}.Opaque"


@pytest.mark.fix
@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize(
    ("value", "where", "kind"),
    [
        (Opaque(), "result", OPAQUE),
        ([1, {"a": (Opaque(),)}], "result[1]['a'][0]", OPAQUE),
        ({"a": Model(b=[Opaque()])}, "result['a']['b'][0]", OPAQUE),
        (Slotted(box=Opaque(), when=dt.date.min), "result['box']", OPAQUE),  # type: ignore[arg-type]
        (np.array([Opaque()], dtype=object), "result[0]", OPAQUE),
        ({"f": print}, "result['f']", "builtin_function_or_method"),
        ([Box], "result[0]", "type"),
        (1j, "result", "complex"),
        ([np.clongdouble(1)], "result[0]", "numpy.clongdouble"),
        (np.array([1j]), "result[0]", "complex"),
        ([Broken()], "result[0]", f"{__name__}.Broken"),
        ([Decimal("sNaN")], "result[0]", "decimal.Decimal"),
        ({(1, 2): 3}, "result (a key)", "tuple"),
        ([{"a": {frozenset({1}): 3}}], "result[0]['a'] (a key)", "frozenset"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_named_with_its_type_and_path(
    value: Any, where: str, kind: str, way: str
) -> None:
    """Row 32: not a bare 500, and the same whatever the policy."""
    with pytest.raises(ResultNotSerializable) as caught:
        EVERY_WAY[way](value)
    assert str(caught.value) == (
        f"The result of run() cannot be sent as JSON: {where} is of type {kind}, which has no JSON "
        "form. Return lists, dicts, numbers, text, numpy or pandas values, or an AMLResponse."
    )


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_failing_method_is_the_cause(way: str) -> None:
    with pytest.raises(ResultNotSerializable) as caught:
        EVERY_WAY[way]([Broken()])
    assert repr(caught.value.__cause__) == "RuntimeError('no device')"


def circular_list() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def circular_dict() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["me"] = {"you": found}
    return found


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("make", [circular_list, circular_dict, Endless, lambda: nested(10_000)])
def test_a_result_that_contains_itself_or_is_too_deep_is_refused(way: str, make: Any) -> None:
    with pytest.raises(ResultNotSerializable) as caught:
        EVERY_WAY[way](make())
    message = str(caught.value)
    assert message.startswith("The result of run() cannot be sent as JSON: result")
    assert message.endswith(" is nested deeper than 254 levels, or contains itself.")
    assert len(message) < 400


@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("depth", range(252, 257))
@pytest.mark.parametrize("wrap", [list, tuple, set, lambda inner: {"a": inner[0]}])
def test_at_the_deepest_level_a_result_goes_out_or_is_refused(
    wrap: Any, depth: int, way: str
) -> None:
    value: Any = 1
    for _ in range(depth):
        value = wrap([frozenset(value) if isinstance(value, set) else value])
    try:
        body = EVERY_WAY[way](value)
    except ResultNotSerializable as error:
        assert "nested deeper than 254 levels" in str(error)
    else:
        assert json.loads(body) == json.loads(json.dumps(value, default=list))


def test_the_same_value_twice_does_not_contain_itself() -> None:
    shared = [1]
    for encode in EVERY_WAY.values():
        assert json.loads(encode([shared, {"a": shared}, (shared, shared)])) == [
            [1],
            {"a": [1]},
            [[1], [1]],
        ]


def test_a_long_path_is_shortened_in_the_middle() -> None:
    value: Any = Opaque()
    for number in range(60):
        value = {f"key{number}": value}
    with pytest.raises(ResultNotSerializable) as caught:
        fast(value)
    message = str(caught.value)
    assert "result['key59']['key58']" in message
    assert "]['key1']['key0'] is of type" in message
    assert " … " in message
    assert len(message) < 450


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_table_with_columns_of_the_same_name_is_refused(way: str) -> None:
    """pandas would leave all but one out."""
    table = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(ResultNotSerializable, match=r"result\['t'\] has columns of the same name"):
        EVERY_WAY[way]({"t": table})


# --- generators -----------------------------------------------------------------------------------


def counted(log: list[int]) -> Iterator[int]:
    for number in range(3):
        log.append(number)
        yield number


@pytest.mark.parametrize("way", EVERY_WAY)
def test_an_iterator_is_read_once(way: str) -> None:
    """What follows may need the careful way: nothing read before is lost or read again."""
    log: list[int] = []
    value = {
        "generator": counted(log),
        "map": map(str, [1, 2]),
        "big": 2**70,
        "late": {np.int64(1): "\ud800"},
    }
    assert json.loads(EVERY_WAY[way](value)) == {
        "generator": [0, 1, 2],
        "map": ["1", "2"],
        "big": 2**70,
        "late": {"1": "\ud800"},
    }
    assert log == [0, 1, 2]


@pytest.mark.parametrize("way", EVERY_WAY)
def test_an_iterator_before_a_key_that_needs_escaping_is_read_once(way: str) -> None:
    value = {"g": iter([1, 2]), "\ud800": Decimal("1.5")}
    assert json.loads(EVERY_WAY[way](value)) == {"g": [1, 2], "\ud800": 1.5}


@pytest.mark.parametrize("way", EVERY_WAY)
def test_what_an_iterator_raises_goes_through(way: str) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone") as caught:
        EVERY_WAY[way]({"a": failing()})
    assert caught.value.__context__ is None


# --- order, and what is not imported --------------------------------------------------------------


def test_sets_are_in_the_same_order_in_every_process() -> None:
    """Hashes of text differ from process to process; answers of equal results must not."""
    code = (
        "from scoring_runtime.values.json_results import encoder\n"
        "values = [{'b', 'a', 'c'}, {1, 'a', None, 2.5, ('t',)}, frozenset({b'x', b'y'})]\n"
        "print(*(encoder(p)(values).decode() for p in ('null', 'string')))"
    )
    answers = set()
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", f"import os\n{code}"],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
        )
        answers.add((done.stdout, done.stderr))
    expected = '[["a","b","c"],["a",["t"],1,2.5,null],["eA==","eQ=="]]'
    assert answers == {(f"{expected} {expected}\n", "")}


def test_neither_numpy_nor_pandas_is_imported_to_encode() -> None:
    """A script whose results are plain does not pay for them."""
    code = (
        "import sys, datetime, uuid\n"
        "from scoring_runtime.values.json_results import encoder\n"
        "values = [{'a': [1, 2.5, None]}, uuid.UUID(int=0), 'x', datetime.datetime.min]\n"
        "for policy in ('null', 'raw'): print(len(encoder(policy)(values)))\n"
        "print({'numpy', 'pandas'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("85\n85\nset()\n", "")


def test_a_float_goes_out_and_comes_back_exactly() -> None:
    values = [0.1, 1 / 3, math.pi, 2.0**-1074, 1.7976931348623157e308, 123456789.123456789]
    for encode in EVERY_WAY.values():
        assert json.loads(encode(values)) == values


def test_a_float32_goes_out_as_a_number_that_reads_as_it() -> None:
    values = np.array([0.1, 1 / 3, 3.4e38], dtype=np.float32)
    for encode in EVERY_WAY.values():
        assert np.array_equal(np.array(json.loads(encode(values)), dtype=np.float32), values)
