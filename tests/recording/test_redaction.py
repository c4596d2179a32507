"""What is hidden in headers, queries and bodies: secrets by name, and what settings name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring_runtime.messages import ScoringRequest
from scoring_runtime.recording.records import Entry, Record, Unusable, line_of, read
from scoring_runtime.recording.redaction import SECRETS, LeftOut, Redaction

HUNTER = "hunter2hunter2"
PLAIN = Redaction()


def spelled(name: str) -> list[str]:
    """The ways in which people write a name of several words."""
    words = name.split()
    camel = words[0] + "".join(word.title() for word in words[1:])
    return [*(sep.join(words) for sep in ("_", "-", "", " ")), camel, name.upper(), f"my_{name}1"]


NAMES = sorted({each for name in (*SECRETS, "pwd", "sas") for each in spelled(name)})


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_by_its_name_is_in_no_body(name: str) -> None:
    """As member, column, tensor, in JSON Lines, UTF-16, escaped, deep down; CSV is left out."""
    escaped = "".join(f"\\u{ord(c):04x}" for c in name)
    bodies = [
        json.dumps({"a": [{"b": {name: HUNTER}}], "x": 1}).encode(),
        json.dumps({name: {"deep": [HUNTER]}}).encode(),
        f'{{"{escaped}": "{HUNTER}"}}'.encode(),
        json.dumps({name: HUNTER}).encode("utf-16"),
        json.dumps({name: HUNTER}).encode("utf-32"),
        json.dumps({"columns": ["a", name], "data": [[1, HUNTER], [2, HUNTER]]}).encode(),
        json.dumps({"inputs": [{"name": name, "shape": [1], "data": [HUNTER]}]}).encode(),
        json.dumps({"a": 1}).encode() + b"\n" + json.dumps({name: HUNTER}).encode() + b"\n",
        json.dumps({"text": f"{name}={HUNTER}"}).encode(),
        json.dumps(f'{{"{name}": "{HUNTER}"}}').encode(),
        f'{{"a": {{"{name}": "{HUNTER}"}}, "a": 1}}'.encode(),
        f'{{"a": {{"{escaped}": "{HUNTER}"}}, "a": 1}}'.encode(),
    ]
    for body in bodies:
        kept, hidden = PLAIN.body(body)
        assert hidden, body
        assert HUNTER.encode() not in kept.replace(b"\0", b""), body
    torn = f'{{"{name}": "{HUNTER}"', f'{{"{escaped}": "{HUNTER}"}}\n\x01'
    for other in (f"a,{name}\n1,{HUNTER}\n", f"a=1&{name}={HUNTER}", *torn):
        for codec in ("utf-8", "utf-16"):
            with pytest.raises(LeftOut, match="it is no JSON"):
                PLAIN.body(other.encode(codec))


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [[1, 2.50, 3e5]], "tokens": [1], "keys": ["a"], "key": 3, "tokenizer": "b"}',
        b'{"text": "the password is not said here", "secretary": "Ann", "sasquatch": 1}',
        b"a,b\n1,2\n",
        b"\x93NUMPY\x01\x00" + bytes(range(256)),
        b"",
        b"not JSON {",
        b"[" * 3000,
    ],
)
def test_what_is_no_secret_stays_byte_for_byte(body: bytes) -> None:
    """Numbers as they are written too, and what is not valid."""
    assert PLAIN.body(body) == (body, False)


def test_only_the_secret_is_hidden() -> None:
    """The other values stay, big integers, NaN and letters beyond ASCII too."""
    body = '{"a": 123456789012345678901234567890, "b": [NaN, "ü"], "password": 1}'.encode()
    kept, hidden = PLAIN.body(body)
    assert hidden
    assert kept.decode() == body.decode().replace('"password": 1', '"password": "***"')


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "x-functions-key", "ocp-apim-subscription-key", "cookie", "set-cookie",
        "x-api-key", "apikey", "x-ms-token-aad-access-token", "x-ms-client-principal",
        "proxy-authorization", "x-zumo-auth", "x-arr-clientcert", "x-client-cert", "x-secret",
    ],
)  # fmt: skip
def test_a_header_that_carries_a_secret_is_hidden(name: str) -> None:
    """By its name, however long its value."""
    for value in (HUNTER, HUNTER * 50):
        assert PLAIN.headers([(name.encode(), value.encode())]) == [(name, "***")]


def test_other_headers_stay_but_for_keys_in_them() -> None:
    """A key in a URL, as Referer has it."""
    said = [("x-input-key", "case-1"), ("traceparent", "00-1-2-01"), ("content-type", "text/csv")]
    assert PLAIN.headers([(n.encode(), v.encode()) for n, v in said]) == said
    url = f"http://h/score?code={HUNTER}&a=1"
    [(_, shown)] = PLAIN.headers([(b"referer", url.encode())])
    assert HUNTER not in shown
    assert shown.endswith("&a=1")


def test_keys_in_a_query_are_hidden() -> None:
    """As the access log has it; and what a setting names."""
    query = f"code={HUNTER}&sig={HUNTER}&api_key={HUNTER}&method=predict&User=ann".encode()
    assert PLAIN.query(query) == "code=***&sig=***&api_key=***&method=predict&User=ann"
    assert Redaction(["user"]).query(query).endswith("&method=predict&User=***")


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_by_its_name_is_in_no_query(name: str) -> None:
    """Nor in JSON that is the value of a parameter; percent-encoded too."""
    for query in (
        f"a=1&{quote_plus(name)}={HUNTER}",
        f"data={quote_plus(json.dumps({name: HUNTER}))}&a=1",
        f"{''.join(f'%{ord(c):02x}' for c in name)}={HUNTER}",
    ):
        assert HUNTER not in PLAIN.query(query.encode())


PATHS: list[tuple[str, Any, Any]] = [
    ("ssn", {"a": [{"SSN": 1, "ssns": 2}]}, {"a": [{"SSN": "***", "ssns": 2}]}),
    ("$.a.name", {"a": {"name": 1}, "name": 2}, {"a": {"name": "***"}, "name": 2}),
    ("$..b", {"a": {"b": 1, "c": [{"b": 2}]}}, {"a": {"b": "***", "c": [{"b": "***"}]}}),
    ("$.rows[*].id", {"rows": [{"id": 1}, {"id": 2}]}, {"rows": [{"id": "***"}, {"id": "***"}]}),
    ("$.data[*][1]", {"data": [[1, 2], [3]]}, {"data": [[1, "***"], [3]]}),
    ("$['odd name'].*", {"odd name": {"a": 1, "b": [2]}}, {"odd name": {"a": "***", "b": "***"}}),
    ("$[0]", [1, 2], ["***", 2]),
    ("$..größe", {"größe": 3}, {"größe": "***"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "before", "after"), PATHS)
def test_a_field_is_hidden_by_name_or_path(field: str, before: Any, after: Any) -> None:
    """Nothing beside it; a body without it stays as it is."""
    redaction = Redaction([field])
    kept, hidden = redaction.body(json.dumps(before).encode())
    assert (hidden, json.loads(kept)) == (True, after)
    assert redaction.body(b'{"z": [1.50]}') == (b'{"z": [1.50]}', False)


def test_a_body_that_is_no_json_is_left_out_where_a_named_field_may_be_in_it() -> None:
    """By a name that occurs; always where a path ends without one."""
    redaction = Redaction(["$..ssn", "x-customer"])
    assert redaction.body(b"a,b\n1,2") == (b"a,b\n1,2", False)
    with pytest.raises(LeftOut, match=r"it is no JSON, and ssn may be in it"):
        redaction.body(b"a,SSN\n1,2")
    with pytest.raises(LeftOut, match="may be in it"):
        Redaction(["$.rows[*]"]).body(b"a,b\n1,2")
    assert redaction.headers([(b"x-customer", b"Ann")]) == [("x-customer", "***")]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(NAMES), inner),
    ),
    st.sampled_from(NAMES),
)
def test_no_json_has_a_value_under_a_secret_name(value: Any, name: str) -> None:
    """Whatever else is in it: read again, each is hidden."""
    body = json.dumps({"outer": value, "list": [{name: HUNTER}]}).encode()
    kept, hidden = PLAIN.body(body)
    assert hidden
    assert HUNTER not in kept.decode()
    json.loads(kept)


def test_columns_of_collected_rows_are_hidden_by_name() -> None:
    """By the last name of a path too."""
    redaction = Redaction(["ssn", "$.customer.Name"])
    names = ["a", "SSN", "name", "api_key", "$aml_dc_correlation_id"]
    assert redaction.row(names, [1, 2, 3, 4, "id"]) == [1, "***", "***", "***", "id"]


# --- records --------------------------------------------------------------------------------------


def entry(body: bytes, answer: bytes | None = b"1", size: int | None = None, **more: Any) -> Entry:
    request = ScoringRequest(body, [(b"content-type", b"application/json")], request_id="r1")
    headers = ((b"content-type", b"application/json"),)
    made = Entry(
        1.5e9, "http", request, len(body) if size is None else size, 200, headers, answer, 0.002, 1
    )
    return made._replace(**more)


def written(path: Path, *entries: Entry) -> list[Record | Unusable]:
    lines = (line_of(each, "iris:2", PLAIN, 1000) for each in entries)
    path.write_bytes(b"".join(lines))
    return list(read(path))


@pytest.mark.parametrize("body", [b"", b'{"a":1}', "ü\n\x00".encode(), bytes(range(256)), b"\xff"])
def test_a_record_is_read_as_it_was_written(body: bytes, tmp_path: Path) -> None:
    """Any bytes, of the request and of the answer."""
    [record] = written(tmp_path / "a.jsonl", entry(body, body))
    assert isinstance(record, Record)
    assert (record.request.body, record.answer, record.status) == (body, body, 200)
    assert record.request.headers == [(b"content-type", b"application/json")]
    assert record.request.request_id == "r1"
    assert not record.request.patient


def test_a_compressed_body_is_kept_plain(tmp_path: Path) -> None:
    """And searched for secrets; one that cannot be read is left out."""
    plain = json.dumps({"password": HUNTER, "a": 1}).encode()
    headers = ((b"content-encoding", b"gzip"), (b"content-type", b"application/json"))
    first, second, third = (
        ScoringRequest(body, headers)
        for body in (gzip.compress(b'{"a": 1}'), gzip.compress(plain), b"no gzip")
    )
    found = written(
        tmp_path / "a.jsonl",
        *(entry(r.body, request=r, size=len(r.body)) for r in (first, second, third)),
    )
    assert isinstance(found[0], Record)
    assert found[0].request.body == b'{"a": 1}'
    assert found[0].request.header(b"content-encoding") == b""
    assert [each.why for each in found[1:] if isinstance(each, Unusable)] == [
        "something in a body is hidden", "a body was left out",
    ]  # fmt: skip
    assert HUNTER not in (tmp_path / "a.jsonl").read_text()


def test_what_is_too_large_or_streamed_is_left_out_with_the_reason(tmp_path: Path) -> None:
    """The size is said where it is known; a bomb is not unpacked."""
    path = tmp_path / "a.jsonl"
    bomb = ScoringRequest(gzip.compress(b" " * 5000), ((b"content-encoding", b"gzip"),))
    found = written(
        path,
        entry(b"", size=1001),
        entry(b"1", None),
        entry(bomb.body, request=bomb, size=len(bomb.body)),
    )
    assert [each.why for each in found if isinstance(each, Unusable)] == ["a body was left out"] * 3
    said = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert (
        said[0]["left_out"] == "it has 1001 bytes, and 1000 are kept (SCORING_RECORD_MAX_BODY_KB)"
    )
    assert said[1]["answer"]["left_out"].startswith("it was streamed, or is larger")
    assert said[2]["left_out"].startswith("decompressed it has more bytes, and 1000 are kept")


def test_a_query_with_something_hidden_is_no_input_any_more(tmp_path: Path) -> None:
    """Of a GET, whose input it is; the key of a POST does not matter."""
    asked = [
        ScoringRequest(b"", (), "GET", query=b"a=1&b=2"),
        ScoringRequest(b"", (), "GET", query=b"a=1&token=2"),
        ScoringRequest(b"1", (), "POST", query=b"code=abc"),
    ]
    found = written(tmp_path / "a.jsonl", *(entry(each.body, request=each) for each in asked))
    assert [type(each) for each in found] == [Record, Unusable, Record]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"1", b"null", b"[]", b'"a"', b'{"a": 1}', b'{"answer": 1}', b'{"answer": {}}',
        b'{"time":"2026","trigger":"http","answer":{"status":200',
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named(line: bytes, tmp_path: Path) -> None:
    """As that of a process that was killed; those around it are read."""
    path = tmp_path / "a.jsonl"
    good = line_of(entry(b"1"), "", PLAIN, 1000)
    path.write_bytes(good + line + b"\n" + good + line)
    found = list(read(path))
    assert [type(each) for each in found[:3]] == [Record, Unusable, Record]
    assert found[1] == Unusable(
        f"{path}:2", "no whole record, as the last line of a killed process"
    )
