"""The old server and the standalone host answer the same requests; every difference has a name.

Both serve the same entry scripts and get the same table of requests. What differs in status line,
headers or body must be explained by exactly one entry of DIFFERENCES, and every entry must explain
something. `make docs-parts` writes the entries into docs/migrate-azureml.md.
"""

from __future__ import annotations

import functools
import gzip
import http.client
import itertools
import json
import math
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hosts.peer import PeerHost
from tests.hosts.standalone import StandaloneHost

SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
ID_HEADERS = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")

# --- requests --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One request; a body of None has no Content-Length, a chunked one is sent in three chunks."""

    name: str
    method: str = "POST"
    target: str = "/score"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = b""
    chunked: bool = False

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")


class Answer(NamedTuple):
    """One response: header names in lower case, what must differ per call normalised."""

    status: int
    reason: str
    headers: dict[str, list[str]]
    body: bytes


def send(port: int, case: Case) -> Answer:
    """The answer to ``case`` on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(case.method, case.target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", "scoring.example")
        for name, value in case.headers:
            connection.putheader(name, value.encode("latin-1"))
        if case.chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif case.body is not None:
            connection.putheader("Content-Length", str(len(case.body)))
        connection.endheaders()
        connection.send(_chunks(case.body or b"") if case.chunked else case.body or b"")
        response = connection.getresponse()
        body = response.read()
        return _normalised(case, response, body)
    finally:
        connection.close()


def _chunks(body: bytes) -> bytes:
    third = len(body) // 3
    parts = [part for part in (body[:third], body[third : 2 * third], body[2 * third :]) if part]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def _normalised(case: Case, response: http.client.HTTPResponse, body: bytes) -> Answer:
    headers: dict[str, list[str]] = {}
    for name, value in response.getheaders():
        headers.setdefault(name.lower(), []).append(value)
    if "date" in headers:
        date = r"^\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT$"
        headers["date"] = [re.sub(date, "now", each) for each in headers["date"]]
    if headers.get("content-length") == [str(len(body))]:
        headers["content-length"] = ["that of the body"]
    if "x-ms-run-fn-exec-ms" in headers:
        times = headers["x-ms-run-fn-exec-ms"]
        headers["x-ms-run-fn-exec-ms"] = [re.sub(r"^\d+\.\d{3}$", "ms", each) for each in times]
    if "allow" in headers:
        headers["allow"] = sorted(", ".join(headers["allow"]).split(", "))
    _name_new_ids({value for _, value in case.headers}, headers)
    return Answer(response.status, response.reason, headers, body)


def _name_new_ids(sent: set[str], headers: dict[str, list[str]]) -> None:
    new: dict[str, str] = {}
    for name in ID_HEADERS:
        for index, value in enumerate(headers.get(name, ())):
            if value not in sent and _is_uuid4(value):
                headers[name][index] = new.setdefault(value, f"new id {len(new) + 1}")


def _is_uuid4(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value and uuid.UUID(value).version == 4
    except ValueError:
        return False


JSON = ("Content-Type", "application/json")
MULTIPART = (
    b'--cut\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--cut\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n'
    b"Content-Type: application/x-thing\r\n\r\n\x00\xff\r\n--cut--\r\n"
)
CONTENT_TYPES = (
    "", "application/json", "application/json; charset=utf-8", "application/json; charset=utf-16",
    "application/vnd.api+json", "APPLICATION/JSON", "text/json", "text/plain", "image/svg+json",
    "text/csv; charset=latin-1", "image/png", "application/octet-stream", "nonsense", ";;", "a/b/c",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=cut", "multipart/form-data",
    "application/json, text/plain",
)  # fmt: skip


def bodies(good: bytes) -> dict[str, bytes]:
    """Bodies of every kind; ``good`` is a JSON object that the script takes."""
    text = good.decode()
    return {
        "empty": b"",
        "good": good,
        "spaced": b" \r\n" + good + b"\n\t ",
        "utf-8": '{"größe": "\U0001f600"}'.encode(),
        "bom": b"\xef\xbb\xbf" + good,
        "not-utf-8": b'{"data": "\xff\xfe"}',
        "cut-utf-8": b'{"data": "\xc3',
        "utf-16": text.encode("utf-16"),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-32-be": text.encode("utf-32-be"),
        "nul": b"\x00",
        "all-bytes": bytes(range(256)),
        "nan": b'{"data": [NaN, Infinity, -Infinity]}',
        "big-integers": b'{"data": [18446744073709551616, -9223372036854775809, 1e400]}',
        "form": b"a=1&b=%C3%BC&a=2",
        "multipart": MULTIPART,
        "array": b"[1, 2]",
        "number": b"1",
        "null": b"null",
        "true": b"true",
        "text": b'"data"',
        "cut": b'{"data": [1, 2',
        "trailing-comma": b'{"data": [1, 2,]}',
        "two-values": b"{} {}",
        "twice-the-key": b'{"data": 1, "data": [[1, 2, 3]]}',
        "lone-surrogate": b'{"data": "\\ud800"}',
        "control-character": b'{"data": "\x01"}',
        "deep": b"[" * 100_000,
        "unknown-key": b'{"other": 1}',
        "no-key": b"{}",
        "300-kB": b'{"data": "' + b"x" * 300_000 + b'"}',
    }


def surface() -> Iterator[Case]:
    """Every method on every path, swagger versions, ids on every route: the same for any script."""
    paths = ("/", "/score", "/score/", "/swagger.json", "/nope", "/SCORE", "//score")
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        for path in (*paths, "/?a=1", "/health/live", "/health/ready"):
            yield Case(f"{method} {path}", method, path, (JSON,), None if method == "GET" else b"")
    odd = ("/score%20", "/sc%6fre", "///score", "/score//", "/./score", "/score;a", "/score?")
    for target in odd:
        yield Case(f"target {target}", target=target, headers=(JSON,))
    for target in ("http://scoring.example/score?a=1", "/score#a", "//", "//?a=1", "/score?#"):
        yield Case(f"target {target}", "GET", target, (), None)
    yield Case("target *", "OPTIONS", "*", (), None)
    yield from documents()
    for path in ("/", "/score", "/swagger.json", "/nope"):
        method = "POST" if path == "/score" else "GET"
        for name in (*ID_HEADERS, "TraceId"):
            yield Case(f"{name} on {path}", method, path, ((name, "given"), JSON))
    yield Case("ids on 405", "PUT", "/score", (("x-request-id", "given"),))


def documents() -> Iterator[Case]:
    """The descriptions of a script in every version."""
    for query in (
        "version=2", "version=2.0", "version=3", "version=3.0", "version=3.1", "version=3.1.0",
        "version=4", "version=", "version", "version=3&version=2", "version=2&version=9",
        "Version=3", "version=%33", "version=+3", "version=%C3%BC", "version=%FF", "other=1", "",
    ):  # fmt: skip
        yield Case(f"swagger ?{query}", "GET", f"/swagger.json?{query}", (), None)


def ids() -> Iterator[Case]:
    """All combinations of the id headers: absent, empty, short, of 100 and of 101 characters."""
    for request, legacy, client in itertools.product(*[_id_values(n) for n in "rmc"]):
        values = zip(ID_HEADERS, (request, legacy, client), strict=True)
        given = tuple((name, value) for name, value in values if value is not None)
        lengths = "/".join("-" if v is None else str(len(v)) for v in (request, legacy, client))
        yield Case(f"ids {lengths}", headers=given, body=b"x")
    yield Case("trace id", headers=(("TraceId", "t" * 500),), body=b"x")
    yield Case("trace id in lower case", headers=(("traceid", "t"),), body=b"x")
    yield Case("empty trace id", headers=(("TraceId", ""),), body=b"x")
    yield Case("trace id on 431", headers=(("TraceId", "t"), ("x-request-id", "r" * 101)))
    yield Case("id beyond ascii", headers=(("x-request-id", "\xfc\xff"),), body=b"x")
    yield Case("id twice", headers=(("x-request-id", "a"), ("X-Request-Id", "b")), body=b"x")


def _id_values(letter: str) -> tuple[str | None, ...]:
    return (None, "", letter, letter * 100, letter * 101)


def inputs(good: bytes, types: tuple[str, ...] = CONTENT_TYPES) -> Iterator[Case]:
    """Every body with three content types, three bodies with every content type, and codings."""
    shapes = bodies(good)
    for (name, body), kind in itertools.product(shapes.items(), ("", "application/json", "text/x")):
        headers = (("Content-Type", kind),) if kind else ()
        yield Case(f"{name} as {kind or 'nothing'}", headers=headers, body=body)
    for kind, name in itertools.product(types, ("good", "empty", "form", "multipart", "utf-16")):
        yield Case(f"{kind!r} {name}", headers=(("Content-Type", kind),), body=shapes[name])
    for name in ("good", "empty", "all-bytes", "300-kB"):
        yield Case(f"{name} chunked", headers=(JSON,), body=shapes[name], chunked=True)
    yield Case("no length", headers=(JSON,), body=None)
    yield from _compressed(good)


def _compressed(good: bytes) -> Iterator[Case]:
    packed = gzip.compress(good, mtime=0)
    for coding in ("gzip", "identity", "br"):
        body = packed if coding == "gzip" else good
        yield Case(f"coding {coding}", headers=(JSON, ("Content-Encoding", coding)), body=body)
    chunked = Case("gzip chunked", headers=(JSON, ("Content-Encoding", "gzip")), body=packed)
    yield Case(chunked.name, headers=chunked.headers, body=packed, chunked=True)
    yield Case("not gzip", headers=(JSON, ("Content-Encoding", "gzip")), body=good)
    yield Case("gzip not announced", headers=(JSON,), body=packed)


QUERIES = (
    "", "a=1", "a=01", "a=1.50", "a=1e3", "a=", "a", "=1", "a=null", "a=true", "a=[1,2]",
    "a=%22x%22", 'a={"b":%20[1]}', "a=x&a=1", "a=1&b=2&a=3", "a=%C3%BC", "a=%FF", "a=%", "a=%zz",
    "a=+x+", "a=1;b=2", "a=NaN", "a=Infinity", "a=1&&b=2", "a%5B%5D=1", "A=1&a=2", "a=%00",
    "a=12345678901234567890", "a==", "data=[[1,2,3]]", "first=1", "first=1&second=x",
    "first=[1]&first=2", "other=1", "&", "a=%F0%9F%98%80", "count=2&ratio=1.5&many=[1]",
    'data=[{"size":1.5,"petals":3,"name":"x"}]',
)  # fmt: skip


def queries(path: str = "/score") -> Iterator[Case]:
    for query in QUERIES:
        yield Case(f"query {query}", "GET", f"{path}?{query}", (), None)
    yield Case("query and body", "POST", f"{path}?a=1", (JSON,), b'{"data": [[1, 2, 3]]}')
    yield Case("body of GET", "GET", path, (JSON,), b'{"data": [[1, 2, 3]]}')


def requests_for_headers() -> Iterator[Case]:
    lines = (
        (("X-One", "1"),),
        (("x-one", "1"), ("X-ONE", "2"), ("X-Two", "a, b")),
        (("X_Under_Score", "1"),),
        (("Cookie", "a=1"), ("Cookie", "b=2")),
        (("X-Text", "Gr\xfc\xdfe"),),
        (("X-Empty", ""),),
        (("x-mixed-CASE-1a", " padded "),),
        (("Accept", "text/csv;q=0.5, */*"), ("User-Agent", "me/1"), ("Connection", "close")),
        (("Content-Encoding", "identity"), ("Content-Language", "de")),
        (("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=x")),
        (("Expect", "100-continue"),),
        (("X-Long", "x" * 8000),),
        (("Authorization", "Bearer abc"),),
        *((("X-" + "n" * 60 + str(n), "v"),) for n in range(2)),
    )
    for number, each in enumerate(lines):
        yield Case(f"header lines {number}", headers=each, body=b"x")
        yield Case(f"header lines {number} on GET", "GET", headers=each, body=None)
    yield Case("80 header lines", headers=tuple((f"X-{n}", str(n)) for n in range(80)), body=b"x")
    yield Case("chunked headers", body=b"abcdef", chunked=True)


STANDARD = {
    "count": 1,
    "ratio": 2.5,
    "flower": {"name": "x", "petals": [1, 2], "day": "2026-03-04 05:06:07"},
    "many": [1],
}
STANDARD_CHANGES: tuple[dict[str, object], ...] = (
    {"count": "1"}, {"count": 1.5}, {"count": None}, {"count": True}, {"ratio": 1}, {"ratio": "x"},
    {"flower": None}, {"flower": {}}, {"flower": {"name": "x"}}, {"flower": [1]}, {"many": "x"},
    {"flower": {"name": 1, "petals": [1], "day": "2026-03-04 05:06:07"}},
    {"flower": {"name": "x", "petals": "no", "day": "2026-03-04 05:06:07"}},
    {"flower": {"name": "x", "petals": [[1, 2], [3]], "day": "2026-03-04 05:06:07"}},
    {"flower": {"name": "x", "petals": [1, 2, 3], "day": "soon"}},
    {"flower": {"name": "x", "petals": [1], "day": "2026-03-04 05:06:07", "more": 1}},
    {"many": [1, "x", 2.5, None]}, {"many": {}}, {"unknown": 1}, {"request_headers": {}},
)  # fmt: skip
ARRAYS = (
    "[[1, 2, 3]]", "[[1, 2, 3], [4, 5, 6]]", "[]", "[[]]", "[1, 2, 3]", "[[1, 2]]",
    "[[1, 2, 3], [4]]", '[["1", "2", "3"]]', '[["a", "b", "c"]]', "[[1, 2, null]]", "[[NaN, 1, 2]]",
    "1", "null", '"x"', "{}", '{"a": 1}', "[[[1, 2, 3]]]", "[[1e400, 1, 2]]", "[[true, false, 1]]",
    "[[123456789012345678901234567890, 1, 2]]", "[[1.25, 1e-9, 2]]",
)  # fmt: skip
TEXTS = ('["a", "four"]', '["longer than the sample", "é"]', "[1, null]", "[]", '[["a"]]')
FRAMES = (
    '[{"size": 1.5, "petals": 3, "name": "x"}]', "[]", "{}", "null", "1", '"x"',
    "[[1.5, 3, \"x\"]]",
    '[{"size": 1.5, "petals": 3, "name": "x"}, {"size": 2, "petals": 4, "name": "y"}]',
    '[{"petals": 3, "name": "x", "size": 1.5}]', '[{"size": 1.5}]', '[{"size": 1.5, "petals": 3}]',
    '[{"size": 1.5, "petals": 3, "name": "x", "more": 1}]',
    '[{"size": "a", "petals": 3, "name": "x"}]', '[{"size": "1.5", "petals": "3", "name": 7}]',
    '[{"size": null, "petals": 3, "name": null}]', '[{"size": NaN, "petals": 3, "name": "x"}]',
    '[{"size": 1.5, "petals": 3.5, "name": "x"}]',
    '{"size": {"0": 1.5}, "petals": {"0": 3}, "name": {"0": "x"}}', "[1, 2]",
)  # fmt: skip


def posts(texts: tuple[str, ...]) -> Iterator[Case]:
    """JSON objects whose only parameter, ``data``, is each of these."""
    for text in texts:
        yield Case(f"data {text}", headers=(JSON,), body=f'{{"data": {text}}}'.encode())


def standard() -> Iterator[Case]:
    for change in STANDARD_CHANGES:
        body = json.dumps({**STANDARD, **change}).encode()
        yield Case(f"standard {json.dumps(change)}", headers=(JSON,), body=body)
    for name in STANDARD:
        body = json.dumps({key: value for key, value in STANDARD.items() if key != name}).encode()
        yield Case(f"standard without {name}", headers=(JSON,), body=body)


RAW_READS = (
    "get_data", "data", "text", "stream", "form", "files", "json", "get_json", "values", "is_json",
    "nothing",
)  # fmt: skip


def raw() -> Iterator[Case]:
    """What a raw script sees: every reader of it, with bodies and content types of all kinds."""
    kinds = (
        "", "application/json", "text/plain; charset=latin-1", "image/png",
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=cut",
    )  # fmt: skip
    shapes = bodies(b'{"data": [1]}')
    for read, kind in itertools.product(RAW_READS, kinds):
        headers = (("Content-Type", kind),) if kind else ()
        for name in ("empty", "good", "form", "multipart", "all-bytes", "utf-8", "nan"):
            target = f"/score?read={read}"
            yield Case(f"raw {read} of {name} as {kind!r}", "POST", target, headers, shapes[name])
    for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"):
        yield Case(f"raw {method}", method, "/score?a=1&b=%20", (("Cookie", "a=1; b=2"),), b"body")
        yield Case(f"raw answer to {method}", method, "/score?answer=201", (), b"")
    yield Case("raw 500 KB", "POST", "/score", (), b"\x00\xff" * 250_000)
    yield Case("raw chunked", "POST", "/score", (JSON,), b'{"a": [1, 2]}', chunked=True)
    yield Case("raw chunked form", "POST", "/score?read=form", (FORM,), b"a=1&b=2", chunked=True)
    packed = gzip.compress(b"{}", mtime=0)
    yield Case("raw gzip", "POST", "/score", (JSON, ("Content-Encoding", "gzip")), packed)
    for name in ("X-Forwarded-Host", "Authorization", "Accept", "X_Odd", "Range", "If-None-Match"):
        yield Case(f"raw {name}", "POST", "/score", ((name, "Basic YTpi"),), b"")


FORM = ("Content-Type", "application/x-www-form-urlencoded")
ORIGINS = (
    "", "https://a.example", "https://b.example", "HTTPS://A.EXAMPLE", "https://c.example", "null",
    "https://a.example/", "http://a.example", "https://a.example.evil",
)  # fmt: skip


def cors() -> Iterator[Case]:
    """Plain and preflight requests from own and foreign origins, on every route."""
    for origin, method in itertools.product(ORIGINS, ("GET", "POST", "OPTIONS", "PUT", "HEAD")):
        asks = (("Origin", origin),) if origin else ()
        yield Case(f"cors {method} {origin}", method, "/score", asks, b"")
    for target, origin in itertools.product(("/", "/swagger.json", "/nope"), ORIGINS[:3]):
        asks = (("Origin", origin),) if origin else ()
        for method in ("GET", "POST", "OPTIONS"):
            yield Case(f"cors {method} {target} {origin}", method, target, asks, b"")
    for origin in ORIGINS[:5]:
        methods = ("GET", "POST", "post", "PUT", "")
        for method, names in itertools.product(methods, (None, "x-b, content-type,X-A", "")):
            yield _preflight(origin, method, names)
    yield Case("cors error", headers=(("Origin", ORIGINS[1]), JSON), body=b"fail")
    yield Case("cors private", "OPTIONS", headers=(
        ("Origin", ORIGINS[1]), ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Private-Network", "true"),
    ))  # fmt: skip
    yield Case("cors own header", headers=(("Origin", ORIGINS[1]),), body=b"own")


def _preflight(origin: str, method: str, names: str | None) -> Case:
    asks = [("Access-Control-Request-Method", method)]
    asks += [("Origin", origin)] if origin else []
    asks += [("Access-Control-Request-Headers", names)] if names is not None else []
    return Case(f"preflight {origin} {method} {names}", "OPTIONS", headers=tuple(asks))


def limits() -> Iterator[Case]:
    """Around the lengths at which the old server stops reading the head of a request."""
    for length in (8000, 8300):
        yield Case(f"header of {length}", headers=(("X-Long", "x" * length),), body=b"x")
    for length in (4000, 4200):
        yield Case(f"target of {length}", "GET", f"/score?a={'x' * length}", (), None)


@dataclass(frozen=True)
class Comparison:
    """A script, the settings it runs with, and the requests."""

    script: str
    cases: tuple[Case, ...]
    environ: dict[str, str] = field(default_factory=dict)
    named: bool = False
    """Whether the script tells the names of more cases of its own."""


def _everything(script: str, good: bytes, *more: Iterator[Case], **environ: str) -> Comparison:
    cases = [*surface(), *inputs(good), *queries(), *itertools.chain(*more)]
    return Comparison(f"{script}.py", tuple(cases), environ, named=script == "diff_text")


NUMBERS = b'{"data": [[1, 2, 3]]}'
COMPARISONS = {
    "text": _everything("diff_text", b'{"data": [1, "x"]}', ids(), limits()),
    "json": Comparison("diff_json.py", tuple(inputs(b'{"data": [1, 2.5]}'))),
    "headers": Comparison("diff_headers.py", tuple(requests_for_headers())),
    "numpy": _everything("diff_numpy", NUMBERS, posts(ARRAYS), SERVICE_NAME="Rosen & Nelken"),
    "standard": Comparison(
        "diff_standard.py",
        (*documents(), *queries(), *standard()),
        {"SERVICE_PATH_PREFIX": "/a/b/"},
    ),
    "texts": Comparison("diff_texts.py", tuple(posts(TEXTS))),
    "pandas": Comparison("diff_pandas.py", (*documents(), *posts(FRAMES), *queries())),
    "output": Comparison(
        "diff_output.py",
        (*documents(), *inputs(b'{"first": [1], "second": 2, "data": 3}'), *queries()),
    ),
    "raw": Comparison("diff_raw.py", (*surface(), *raw(), *queries())),
    "cors-one": Comparison(
        "diff_cors.py", tuple(cors()), {"AML_CORS_ORIGINS": "https://a.example"}
    ),
    "cors-two": Comparison(
        "diff_cors.py", tuple(cors()), {"AML_CORS_ORIGINS": "https://b.example, https://a.example"}
    ),
    "cors-any": Comparison("diff_cors.py", tuple(cors()), {"AML_CORS_ORIGINS": "*"}),
    "no-version": Comparison(
        "diff_cors.py", (Case("plain", body=b"x"),), {"SERVER_VERSION_LOG_RESPONSE_ENABLED": "no"}
    ),
}

# --- the differences -------------------------------------------------------------------------


class Exchange(NamedTuple):
    """One request and both its answers."""

    case: Case
    peer: Answer
    ours: Answer

    @property
    def statuses(self) -> tuple[int, int]:
        return self.peer.status, self.ours.status


@dataclass(frozen=True)
class Difference:
    """Why these parts of an answer (status, reason, body, spelling, header names) differ where."""

    reason: str
    parts: tuple[str, ...]
    where: Callable[[Exchange], bool]
    strict: bool = True
    """Whether it is there with SCORING_STRICT_COMPAT too."""


IDS = (*ID_HEADERS, "traceid", "x-ms-server-version")
OUTCOME = ("status", "body", "x-ms-run-function-failed", "x-ms-run-fn-exec-ms")
RUN_RAISED = b'{"message": "An unexpected error occurred in scoring script.'
INTERNAL = b'{"message": "An unexpected internal error occurred.'
# A status without a phrase, and phrases that http.HTTPStatus has since, or had before, Python 3.13.
PHRASES = (
    ("UNKNOWN", ""),
    ("URI Too Long", "Request-URI Too Long"),
    ("REQUEST ENTITY TOO LARGE", "Content Too Large"),
    ("UNPROCESSABLE ENTITY", "Unprocessable Content"),
)
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data;")
HEALTH = ("/health/live", "/health/ready")


def _outside(exchange: Exchange) -> bool:
    """The old server answered without its own headers: no such route, or not with this method."""
    return exchange.peer.status in (404, 405) and "x-request-id" not in exchange.peer.headers


def _is_null_for_nan(exchange: Exchange) -> bool:
    try:
        before, now = json.loads(exchange.peer.body), json.loads(exchange.ours.body)
    except ValueError:
        return False
    return bool(before != now and _without_nan(before) == now)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _goes_on(exchange: Exchange) -> bool:
    before, now = (json.loads(each.body)["message"] for each in (exchange.peer, exchange.ours))
    return bool(now.startswith(f"{before}.") and "Supported: application/json, text/csv" in now)


DIFFERENCES = {
    "Server header": Difference(
        "Which software answers is nobody's business; `x-ms-server-version` says it where wanted.",
        ("server",),
        lambda e: e.peer.headers.get("server") == ["gunicorn"] and "server" not in e.ours.headers,
    ),
    "Version header": Difference(
        "`x-ms-server-version` names this runtime and its version.",
        ("x-ms-server-version",),
        lambda e: (
            e.peer.headers.get("x-ms-server-version", [""])[-1] == "azmlinfsrv/1.5.1"
            and e.ours.headers["x-ms-server-version"][-1].startswith("scoring-runtime/")
        ),
    ),
    "Who scored": Difference(
        "`x-model-name` and `x-model-version` say which model an answer is of.",
        ("x-model-name", "x-model-version"),
        lambda e: (
            e.ours.headers["x-model-name"] == ["model"]
            and e.ours.headers["x-model-version"] == ["1"]
        ),
        strict=False,
    ),
    "Keep-alive": Difference(
        "Connections stay open for the next request; the old server closed each after one answer.",
        ("connection",),
        lambda e: e.peer.headers["connection"] == ["close"] and "connection" not in e.ours.headers,
    ),
    "Reason phrases": Difference(
        "After the status stands the phrase of the standard (`200 OK`, `404 Not Found`), not in "
        "capitals; clients go by the number.",
        ("reason",),
        lambda e: (
            e.peer.reason.lower() == e.ours.reason.lower()
            or (e.peer.reason, e.ours.reason) in PHRASES
        ),
    ),
    "Compact JSON": Difference(
        "Results are written by orjson: UTF-8, no spaces; the values are the same.",
        ("spelling", "content-length"),
        lambda e: (
            e.statuses == (200, 200)
            and e.peer.headers["content-type"] == ["application/json"]
            and e.case.path != "/swagger.json"
        ),
        strict=False,
    ),
    "Ids everywhere": Difference(
        "404 and 405 have the request ids and the version too, so that they can be found in logs.",
        IDS,
        _outside,
    ),
    "Health routes": Difference(
        "`/health/live` and `/health/ready` are new: alive, and ready to score.",
        (*OUTCOME, "allow", "content-type", "content-length", "spelling"),
        lambda e: e.case.path in HEALTH and e.peer.status == 404,
    ),
    "Form bodies": Difference(
        'A script that gets text gets the body of a form too; the old server gave it `""`.',
        OUTCOME,
        lambda e: (
            e.case.header("Content-Type").startswith(FORMS)
            and not e.case.name.startswith("raw")
            and e.peer.status != 415
        ),
    ),
    "gzip": Difference(
        "`Content-Encoding: gzip` and `deflate` are decoded, and a body that is not what it says "
        "is refused with 400.",
        OUTCOME,
        lambda e: e.case.header("Content-Encoding") == "gzip" and e.ours.status in (200, 400),
    ),
    "Unknown encodings": Difference(
        "A `Content-Encoding` that cannot be decoded is refused with 415; the old server handed "
        "the encoded bytes to the script as if they were text.",
        OUTCOME,
        lambda e: e.case.header("Content-Encoding") == "br" and e.ours.status == 415,
    ),
    "Schema mismatch": Difference(
        "An input that does not fit `@input_schema` is the client's fault: 400, naming parameter, "
        "expected and got, instead of 500.",
        OUTCOME,
        lambda e: e.statuses == (500, 400) and b"does not fit its schema: " in e.ours.body,
        strict=False,
    ),
    "Text in arrays": Difference(
        "An array that `NumpyParameterType` declares by a sample of text holds text of any length, "
        "instead of being cut to that of the sample.",
        ("body",),
        lambda e: e.statuses == (200, 200) and "longer" in e.case.name,
        strict=False,
    ),
    "Unreadable JSON": Difference(
        "JSON that is not UTF-8, or nested too deeply, is the client's fault: 400 instead of 500.",
        OUTCOME,
        lambda e: (
            e.statuses == (500, 400)
            and e.peer.body.startswith(INTERNAL)
            and e.ours.body.startswith(b'{"message": "POST body could not be decoded as JSON: ')
        ),
    ),
    "NaN": Difference(
        "NaN and Infinity, which JSON does not have, become `null`; `SCORING_NAN` chooses.",
        ("body",),
        _is_null_for_nan,
        strict=False,
    ),
    "More results have JSON": Difference(
        "numpy, pandas, dates, Decimal, bytes, sets and generators are serialised instead of "
        "answered with 500.",
        OUTCOME,
        lambda e: (
            e.statuses == (500, 200)
            and e.peer.body.startswith(INTERNAL)
            and e.case.name.startswith("result-")
        ),
    ),
    "Results without JSON": Difference(
        "The 500 says which type at which path cannot be sent, and that run() is at fault.",
        OUTCOME,
        lambda e: (
            e.statuses == (500, 500)
            and e.ours.body.startswith(b'{"message": "The result of run() cannot be sent as JSON: ')
        ),
    ),
    "One Content-Type": Difference(
        "A content type among AMLResponse's headers replaces the default one however it is "
        "spelled; the old server sent both.",
        ("content-type",),
        lambda e: (
            len(e.peer.headers["content-type"]) == 2
            and e.peer.headers["content-type"][1:] == e.ours.headers["content-type"]
        ),
    ),
    "One Content-Length": Difference(
        "A length among AMLResponse's headers is left out for the real one; the old server sent "
        "both.",
        ("content-length",),
        lambda e: (
            e.case.name == "response-own-length" and len(e.peer.headers["content-length"]) == 2
        ),
    ),
    "Commas in dates and cookies": Difference(
        "Dates and cookies among AMLResponse's headers are not split at their commas.",
        ("expires", "set-cookie"),
        lambda e: e.case.name in ("response-date", "response-cookie"),
    ),
    "werkzeug responses": Difference(
        "A werkzeug Response is passed through as one of Flask, which need not be installed.",
        (*OUTCOME, "content-type"),
        lambda e: e.case.name == "response-werkzeug" and e.statuses == (500, 202),
    ),
    "abort()": Difference(
        "An HTTP error that run() raises (`flask.abort(418)`, `request.json` of what is not JSON) "
        "keeps its status and text.",
        (*OUTCOME, "content-type"),
        lambda e: (
            e.peer.body.startswith(RUN_RAISED)
            and e.peer.status == 500
            and e.ours.status in (400, 409, 415, 418, 503)
            and (e.case.name.startswith("failure-abort") or "read=json" in e.case.target)
        ),
    ),
    "TimeoutError": Difference(
        "A TimeoutError of the script's own is an error of the script, not a scoring timeout.",
        ("body",),
        lambda e: (
            e.peer.body == b'{"message": "Scoring timeout after 3600000 ms"}'
            and e.ours.body.startswith(RUN_RAISED)
        ),
    ),
    "sys.exit()": Difference(
        "A script that exits in run() fails that request alone, with the usual 500 in JSON; the "
        "old server's worker died and an HTML page was sent.",
        (*OUTCOME, *IDS, "content-type", "date"),
        lambda e: (
            e.case.name == "failure-exit"
            and e.peer.body.startswith(b"<html>")
            and e.ours.body.startswith(RUN_RAISED)
        ),
    ),
    "414 and 431 in JSON": Difference(
        "A head that is too long is refused in JSON too, at the same lengths.",
        (*OUTCOME, "content-type", "date"),
        lambda e: (
            e.statuses in ((414, 414), (431, 431))
            and e.peer.headers["content-type"] == ["text/html"]
        ),
    ),
    "Allow on 405": Difference(
        "A 405 says in `Allow` which methods there are.",
        ("allow",),
        lambda e: e.statuses == (405, 405) and "allow" not in e.peer.headers,
    ),
    "CORS on 404 and 405": Difference(
        "Pages of allowed origins can read these errors as well.",
        ("access-control-allow-origin", "vary"),
        _outside,
    ),
    "Private networks": Difference(
        "A preflight for private networks is refused by saying nothing, as the standard has it, "
        "instead of with `false`.",
        ("access-control-allow-private-network",),
        lambda e: e.peer.headers["access-control-allow-private-network"] == ["false"],
    ),
    "Formats": Difference(
        "A script with a schema also reads CSV, JSON Lines, npy, V2 and the JSON that "
        "MLflow's and Azure ML's clients send, and says what does not fit; a 415 lists what is "
        "read.",
        (*OUTCOME, "content-length"),
        lambda e: (
            (e.statuses == (415, 415) and _goes_on(e))
            or (e.statuses == (415, 400) and e.case.header("Content-Type").startswith("text/csv"))
            or (
                e.statuses == (400, 400)
                and e.peer.body.startswith(b'{"message": "A value is not provided for the ')
                and (e.case.body or b"").startswith(b'{"data"')
            )
        ),
        strict=False,
    ),
    "True documents": Difference(
        "The Swagger and OpenAPI documents ask for no Bearer token and no https, which nobody "
        "looks at, and have the other routes and the errors too.",
        ("body", "content-length"),
        lambda e: e.case.path == "/swagger.json" and e.statuses == (200, 200),
        strict=False,
    ),
    "Length of chunked bodies": Difference(
        "A `@rawhttp` script sees a Content-Length for a chunked body, which has been read whole.",
        ("body",),
        lambda e: (
            e.case.chunked
            and b'"Content-Length"' in e.ours.body
            and b'"Content-Length"' not in e.peer.body
        ),
    ),
}


def table() -> str:
    """DIFFERENCES in Markdown."""
    rows = [
        f"| {name} | {each.reason}{'' if each.strict else ' Not with `SCORING_STRICT_COMPAT`.'} |"
        for name, each in DIFFERENCES.items()
    ]
    return "\n".join(["| What | How it differs, and why |", "| --- | --- |", *rows])


# --- the comparison --------------------------------------------------------------------------


class Found(NamedTuple):
    """One difference: a status, reason, body, spelling of equal JSON, or the lines of a header."""

    case: Case
    what: str
    peer: object
    ours: object


def differences(exchange: Exchange) -> Iterator[Found]:
    case, peer, ours = exchange
    if peer.status != ours.status:
        yield Found(case, "status", peer.status, ours.status)
    elif peer.reason != ours.reason:
        yield Found(case, "reason", peer.reason, ours.reason)
    if peer.body != ours.body:
        values = [_json_value(answer) for answer in (peer, ours)]
        same = None not in values and values[0] == values[1]
        yield Found(case, "spelling" if same else "body", peer.body[:300], ours.body[:300])
    for name in sorted({*peer.headers, *ours.headers}):
        before, now = peer.headers.get(name, []), ours.headers.get(name, [])
        if before != now:
            yield Found(case, name, before, now)


def _json_value(answer: Answer) -> str | None:
    """JSON as text that is the same for equal values, types included; None for other bodies."""
    if answer.headers.get("content-type") != ["application/json"]:
        return None
    try:
        return json.dumps(json.loads(answer.body), sort_keys=True)
    except ValueError:
        return None


@functools.cache
def exchanges(name: str) -> dict[bool, list[Exchange]]:
    """All answers of one comparison, by whether ours had SCORING_STRICT_COMPAT."""
    comparison = COMPARISONS[name]
    script, environ = SCRIPTS / comparison.script, comparison.environ
    hosts: list[StandaloneHost] = [
        PeerHost(script, environ=environ),
        StandaloneHost(script, environ=environ),
        StandaloneHost(script, environ={**environ, "SCORING_STRICT_COMPAT": "true"}),
    ]
    with ThreadPoolExecutor(len(hosts)) as pool:
        peer, ours, strict = pool.map(lambda host: _answers(host, comparison), hosts)
    assert list(peer) == list(ours) == list(strict)
    return {
        False: [Exchange(case, peer[case], ours[case]) for case in peer],
        True: [Exchange(case, peer[case], strict[case]) for case in peer],
    }


def _answers(host: StandaloneHost, comparison: Comparison) -> dict[Case, Answer]:
    with host:
        cases = [*comparison.cases, *(_named_by(host) if comparison.named else ())]
        return {case: send(host.port, case) for case in cases}


def _named_by(host: StandaloneHost) -> Iterator[Case]:
    for name in json.loads(send(host.port, Case("names", body=b"cases")).body):
        yield Case(name, body=f"case:{name}".encode())


# --- the tests -------------------------------------------------------------------------------

MODES = pytest.mark.parametrize("strict", [False, True], ids=["default", "strict-compat"])


def explanations(found: Found, exchange: Exchange) -> list[str]:
    return [
        name
        for name, each in DIFFERENCES.items()
        if found.what in each.parts and each.where(exchange)
    ]


@MODES
@pytest.mark.parametrize("name", COMPARISONS)
def test_every_difference_is_explained_by_exactly_one_entry(name: str, strict: bool) -> None:
    unexplained = [
        (found.case.name, *found[1:], names)
        for exchange in exchanges(name)[strict]
        for found in differences(exchange)
        if len(names := explanations(found, exchange)) != 1
    ]
    assert unexplained == []


@MODES
def test_every_entry_explains_something_and_strict_compat_removes_what_it_says(
    strict: bool,
) -> None:
    used = {
        name
        for comparison in COMPARISONS
        for exchange in exchanges(comparison)[strict]
        for found in differences(exchange)
        for name in explanations(found, exchange)
    }
    assert used == {name for name, each in DIFFERENCES.items() if each.strict or not strict}


def test_no_difference_goes_unseen() -> None:
    """The comparison itself reports a status, a phrase, a body, a spelling, and a header line."""
    case = Case("x")
    json_type = {"content-type": ["application/json"]}
    before = Answer(200, "OK", {**json_type, "vary": ["a", "b"]}, b'{"a": 1}')
    for after, expected in (
        (before._replace(status=201), ["status"]),
        (before._replace(reason="ok"), ["reason"]),
        (before._replace(body=b'{"a":1}'), ["spelling"]),
        (before._replace(body=b'{"a": 1.0}'), ["body"]),
        (before._replace(body=b""), ["body"]),
        (before._replace(headers={**json_type, "vary": ["b", "a"]}), ["vary"]),
        (before._replace(headers={"vary": ["a", "b"]}), ["content-type"]),
        (before, []),
    ):
        assert [found.what for found in differences(Exchange(case, before, after))] == expected
