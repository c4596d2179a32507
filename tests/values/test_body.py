"""Body bytes → values: content encodings, text, query strings and JSON objects."""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import math
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from scoring_runtime.errors import InputTooLarge, UndecodableInput, UnsupportedContentType
from scoring_runtime.values import body as conversion

ALL_BYTES = bytes(range(256)) * 3
LIMIT = 10_000


def bare_deflate(data: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(data) + squeezer.flush()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "bare deflate": bare_deflate,
}


# --- content encodings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ("gzip", b"x-gzip"),
        ("gzip", b" GZip "),
        ("deflate", b"deflate"),
        ("bare deflate", b"deflate"),
        ("gzip", b"deflate"),
    ],
)
def test_compressed_bodies_come_out_as_they_went_in(kind: str, encoding: bytes) -> None:
    """gzip; deflate with zlib's header (RFC 9110) and without, as some clients send it."""
    for data in (b"", b"x", ALL_BYTES):
        assert conversion.decompressed(COMPRESS[kind](data), encoding, LIMIT) == data
    assert conversion.decompressed(b"", encoding, 1) == b""


@pytest.mark.parametrize("encoding", [b"", b"identity", b"Identity", b" , ", b"identity, identity"])
def test_identity_changes_nothing(encoding: bytes) -> None:
    assert conversion.decompressed(ALL_BYTES, encoding, 1) == ALL_BYTES


def test_encodings_are_undone_from_the_last_to_the_first() -> None:
    body = gzip.compress(zlib.compress(ALL_BYTES))
    assert conversion.decompressed(body, b"deflate, identity, gzip", LIMIT) == ALL_BYTES
    with pytest.raises(UndecodableInput, match=r"^Content-Encoding is gzip but the body is not"):
        conversion.decompressed(
            zlib.compress(gzip.compress(b"x", mtime=0)), b"deflate, gzip", LIMIT
        )


@pytest.mark.parametrize("members", [[b"one", b"", b"two"], [ALL_BYTES] * 9, [b""] * 500])
def test_all_members_of_a_gzip_body_are_read(members: list[bytes]) -> None:
    """RFC 1952 §2.2: a gzip file is a series of members."""
    body = b"".join(map(gzip.compress, members))
    assert conversion.decompressed(body, b"gzip", LIMIT) == b"".join(members)


def test_a_large_body_comes_out_whole() -> None:
    data = b"".join(zlib.crc32(str(n).encode()).to_bytes(4, "big") for n in range(100_000))
    for compress in COMPRESS.values():
        assert conversion.decompressed(compress(data), b"deflate", len(data)) == data


@pytest.mark.parametrize(
    ("encoding", "body", "problem"),
    [
        (b"gzip", gzip.compress(ALL_BYTES, mtime=0)[:-1], "it ends too early"),
        (
            b"gzip",
            gzip.compress(b"x", mtime=0) + gzip.compress(b"y", mtime=0)[:-9],
            "it ends too early",
        ),
        (b"gzip", gzip.compress(b"x", mtime=0) + b"rest", "incorrect header check"),
        (b"gzip", gzip.compress(b"x", mtime=0)[:-8] + bytes(8), "incorrect data check"),
        (b"deflate", bare_deflate(ALL_BYTES)[:-4], "it ends too early"),
        (b"deflate", b"\xff\xff", "invalid block type"),
    ],
)
def test_a_body_that_is_not_in_its_encoding_is_the_clients_fault(
    encoding: bytes, body: bytes, problem: str
) -> None:
    with pytest.raises(UndecodableInput) as caught:
        conversion.decompressed(body, encoding, LIMIT)
    message = str(caught.value)
    assert message.startswith(f"Content-Encoding is {encoding.decode()} but the body is not: ")
    assert problem in message
    assert message.endswith(".")


@pytest.mark.parametrize("encoding", [b"br", b"gzip, br", b"gzip;q=1", b"\xe9"])
def test_an_unknown_encoding_is_refused(encoding: bytes) -> None:
    name = encoding.split(b",")[-1].strip().decode("latin-1")
    with pytest.raises(UnsupportedContentType) as caught:
        conversion.decompressed(gzip.compress(b"x", mtime=0), encoding, LIMIT)
    assert str(caught.value) == (
        f"Content-Encoding {name} cannot be read. Allowed: gzip, deflate, identity."
    )


@pytest.mark.parametrize("kind", list(COMPRESS))
@pytest.mark.parametrize("size", [1, 1000, 65_536, 70_001])
def test_the_limit_is_the_largest_size_that_is_taken(kind: str, size: int) -> None:
    encoding = b"gzip" if kind == "gzip" else b"deflate"
    body = COMPRESS[kind](bytes(size))
    assert conversion.decompressed(body, encoding, size) == bytes(size)
    with pytest.raises(InputTooLarge) as caught:
        conversion.decompressed(body, encoding, size - 1)
    assert str(caught.value) == (
        f"The body is larger than {size - 1} bytes once decompressed (SCORING_MAX_BODY_BYTES)."
    )


def test_the_limit_counts_all_members_together() -> None:
    body = gzip.compress(bytes(600)) * 2
    assert conversion.decompressed(body, b"gzip", 1200) == bytes(1200)
    with pytest.raises(InputTooLarge):
        conversion.decompressed(body, b"gzip", 1199)


def test_the_limit_holds_at_every_step_of_several_encodings() -> None:
    body = gzip.compress(gzip.compress(bytes(5000), compresslevel=0))
    with pytest.raises(InputTooLarge):
        conversion.decompressed(body, b"gzip, gzip", 4999)


def test_a_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(20_000_000), compresslevel=9)
    assert len(bomb) < 50_000
    tracemalloc.start()
    try:
        with pytest.raises(InputTooLarge):
            conversion.decompressed(bomb, b"gzip", 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_many_members_take_time_in_proportion_to_their_bytes() -> None:
    """200,000 empty members (4 MB) take well below a second, not one copy of the rest for each."""
    body = gzip.compress(b"", mtime=0) * 200_000
    began = time.process_time()
    assert conversion.decompressed(body, b"gzip", LIMIT) == b""
    assert time.process_time() - began < 4


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.keep
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        ("grüße, 世界, 😀".encode(), "grüße, 世界, 😀"),
        (b"\xef\xbb\xbfbom", "\ufeffbom"),
    ],
)
def test_text_is_utf8_with_its_byte_order_mark(body: bytes, text: str) -> None:
    """Row 22: decoded, never parsed; a BOM is kept."""
    assert conversion.text(body) == text


@pytest.mark.keep
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"ab\xc3", "'utf-8' codec can't decode byte 0xc3 in position 2: unexpected end of data"),
        (b"\xed\xa0\x80", "'utf-8' codec can't decode byte 0xed in position 0: invalid continu"),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_the_codecs_words(body: bytes, problem: str) -> None:
    """Row 22."""
    with pytest.raises(UndecodableInput) as caught:
        conversion.text(body)
    assert str(caught.value).startswith(f"Input cannot be decoded as UTF-8: {problem}")


# --- query strings --------------------------------------------------------------------------------

QUERIES: list[tuple[bytes, dict[str, Any]]] = [
    (b"", {}),
    (b"a=1", {"a": 1}),
    (b"a=01", {"a": "01"}),
    (b"a=", {"a": ""}),
    (b"a=null", {"a": None}),
    (b"a=True", {"a": "True"}),
    (b"a=%5B1%2C%202%5D", {"a": [1, 2]}),
    (b'a={"b":%20[1.5]}', {"a": {"b": [1.5]}}),
    (b'a="text"', {"a": "text"}),
    (b"a=1&a=2", {"a": [1, 2]}),
    (b"a=1&b=x&a=[2]&a=", {"a": [1, [2], ""], "b": "x"}),
    (b"a+b=c+d", {"a b": "c d"}),
    (b"a=1%2B1", {"a": "1+1"}),
    (b"a=1;b=2", {"a": "1;b=2"}),
    (b"=1", {"": 1}),
    (b"&&a=1&", {"a": 1}),
    (b"a=%FF", {"a": "%FF"}),
    (b"a=-0", {"a": 0}),
    (b"a=12345678901234567890123", {"a": 12345678901234567890123}),
    (b"a=" + b"9" * 5000, {"a": "9" * 5000}),
    (b"a=" + b"[" * 100_000, {"a": "[" * 100_000}),
]


@pytest.mark.keep
@pytest.mark.parametrize(("query", "values"), QUERIES, ids=[repr(q[:24]) for q, _ in QUERIES])
def test_query_values(query: bytes, values: dict[str, Any]) -> None:
    """Row 25: each value as JSON where it is JSON, else as text; repeated names a list."""
    found = conversion.query_values(query)
    assert found == values
    assert [type(each) for each in found.values()] == [type(each) for each in values.values()]


@pytest.mark.keep
@pytest.mark.parametrize(
    ("query", "text"),
    [
        (b"", "{}"),
        (b"a=1&b=[1]&c=&d=null", '{"a": 1, "b": [1], "c": "", "d": null}'),
        (b"a=x&a=1", '{"a": ["x", 1]}'),
        (b"a=%C3%BC", '{"a": "\\u00fc"}'),
        (b"a=NaN&b=-Infinity", '{"a": NaN, "b": -Infinity}'),
    ],
)
def test_query_text(query: bytes, text: str) -> None:
    """Row 25: the text is written as json.dumps writes it."""
    assert conversion.query_text(query) == text


def test_not_a_number_in_a_query() -> None:
    """Python's JSON takes the bare words, so the old server does."""
    values = conversion.query_values(b"a=NaN&b=Infinity")
    assert math.isnan(values["a"])
    assert values["b"] == math.inf


# --- JSON objects ---------------------------------------------------------------------------------


@pytest.mark.keep
@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", True),
        (b"application/json; charset=latin-1", True),
        (b" application/json ;x", True),
        (b"application/problem+json", True),
        (b"application/vnd.x+json;v=1", True),
        (b"", False),
        (b"application/jsonx", False),
        (b"text/plain, application/json", False),
    ],
)
def test_is_json_type(content_type: bytes, expected: bool) -> None:
    """Row 26: as Flask's is_json."""
    assert conversion.is_json_type(content_type) is expected


@pytest.mark.keep
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_a_json_object_in_any_unicode_encoding(encoding: str) -> None:
    """Row 26: UTF-8, -16 and -32, with and without a byte order mark."""
    body = '{"ü": ["世界", 1, null]}'.encode(encoding)
    assert conversion.json_object(body) == {"ü": ["世界", 1, None]}


@pytest.mark.keep
def test_bare_words_that_python_takes_for_numbers() -> None:
    """Row 26: NaN and Infinity are accepted."""
    found = conversion.json_object(b'{"a": NaN, "b": [Infinity, -Infinity]}')
    assert math.isnan(found["a"])
    assert found["b"] == [math.inf, -math.inf]


NUMBERS = (2**63, -(2**63) - 1, 2**64 - 1, 2**64, 10**400, "-0", "1e400", "12345678901234567890.5")


@pytest.mark.parametrize("number", [*map(str, NUMBERS)])
@pytest.mark.parametrize("template", ["[%s]", '{"a":%s}', '{"a": [1,%s]}', "%s", " %s", "[\n%s]"])
def test_numbers_are_what_python_reads(number: str, template: str) -> None:
    text = template % number
    found = conversion.parse_json(text.encode())
    assert repr(found) == repr(json.loads(text))


def test_digits_in_text_are_text() -> None:
    body = b'{"12345678901234567890": "12345678901234567890", "x": "1, 12345678901234567890"}'
    assert conversion.json_object(body) == {
        "12345678901234567890": "12345678901234567890",
        "x": "1, 12345678901234567890",
    }


def test_the_last_of_equal_keys_counts() -> None:
    """As in json.loads, on the fast way and on the exact one."""
    assert conversion.json_object(b'{"a": 1, "b": 2, "a": 3}') == {"a": 3, "b": 2}
    body = b'{"a": 1, "a": 12345678901234567890123}'
    assert conversion.json_object(body) == {"a": 12345678901234567890123}


def test_a_lone_surrogate_is_kept() -> None:
    assert conversion.json_object(b'{"a": "\\ud800"}') == {"a": "\ud800"}


@pytest.mark.keep
def test_an_empty_body() -> None:
    """Row 26."""
    with pytest.raises(UndecodableInput) as caught:
        conversion.json_object(b"")
    assert str(caught.value) == "POST body is empty. Expecting a JSON dictionary."


@pytest.mark.keep
@pytest.mark.parametrize("body", [b"[1]", b"null", b"NaN"])
def test_another_kind_of_value_is_refused(body: bytes) -> None:
    """Row 26."""
    with pytest.raises(UndecodableInput) as caught:
        conversion.json_object(body)
    assert str(caught.value) == "POST body should be a JSON dictionary."


@pytest.mark.keep
@pytest.mark.parametrize(
    "body", [b"{", b" ", b"{'a': 1}", b'{"a": 1} x', b'{"a": 01}', b'{"a": "\n"}']
)
def test_what_is_not_json_is_refused_with_pythons_words(body: bytes) -> None:
    """Row 26: the message is that of json.loads, position included."""
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(body)
    with pytest.raises(UndecodableInput) as caught:
        conversion.json_object(body)
    assert str(caught.value) == f"POST body could not be decoded as JSON: {expected.value}"


@pytest.mark.fix
@pytest.mark.parametrize("body", [b'{"a": "\xff"}', b"\xff\xfe{", b'{"\xc3": 1}'])
def test_invalid_unicode_in_json_is_the_clients_fault(body: bytes) -> None:
    """Row 26: it was a 500."""
    with pytest.raises(UndecodableInput, match=r"^POST body could not be decoded as JSON: '?utf"):
        conversion.json_object(body)


@pytest.mark.parametrize("body", [b'{"a":' + b"[" * 100_000, b'{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_the_clients_fault(body: bytes) -> None:
    with pytest.raises(UndecodableInput) as caught:
        conversion.json_object(body)
    assert str(caught.value) == "POST body could not be decoded as JSON: it is nested too deeply."


def test_a_number_with_more_digits_than_python_reads_is_the_clients_fault() -> None:
    """Python's own limit (4,300 digits) is a ValueError, not a crash."""
    with pytest.raises(UndecodableInput, match=r"^POST body could not be decoded as JSON: Exceeds"):
        conversion.json_object(b'{"a": ' + b"9" * 5000 + b"}")


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("end", [b"]", b""], ids=["whole", "cut short"])
def test_the_garbage_collector_is_as_it_was_after_a_large_body(end: bytes, enabled: bool) -> None:
    """It rests while one is parsed: looking at all that was made takes longer than making it."""
    body = b"[" + b"[1],".join([b""] * 300_000) + b"[1]" + end
    (gc.enable if enabled else gc.disable)()
    try:
        with contextlib.suppress(ValueError):
            assert len(conversion.parse_json(body)) == 300_000
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
