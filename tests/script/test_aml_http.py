"""rawhttp, AMLRequest and AMLResponse: what entry scripts use (contract rows 30, 34, 35)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from werkzeug.wrappers import Response

from scoring_runtime.errors import ResponseNotSendable
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.script.aml_http import (
    RAW_MARK,
    AMLRequest,
    AMLResponse,
    header_mapping,
    rawhttp,
    response_parts,
    to_aml_request,
)

ALL_BYTES = bytes(range(256))
FAILED_FALSE = (b"x-ms-run-function-failed", b"False")
HTML = (b"content-type", b"text/html; charset=utf-8")
JSON = (b"content-type", b"application/json")


def asked(
    body: bytes = b"",
    *headers: tuple[bytes, bytes],
    method: str = "POST",
    path: str = "/score",
    query: bytes = b"",
    **more: Any,
) -> AMLRequest:
    """The request object a raw script is given."""
    request = ScoringRequest(body, headers, method, path, query, **more)
    return to_aml_request(request, body)


def lines(response: Response) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(response_parts(response)[1])


# --- rawhttp --------------------------------------------------------------------------------------


def test_rawhttp_marks_the_function_and_gives_it_back() -> None:
    """A mark on the function, not a flag of the process."""

    def run(request: object) -> object:
        return request

    assert rawhttp(run) is run
    assert run.__dict__ == {RAW_MARK: True}


# --- AMLRequest -----------------------------------------------------------------------------------


@pytest.mark.keep
def test_what_scripts_use_of_a_request() -> None:
    """Row 30: names in any case, latin-1 values, repeated lines joined; the rest is werkzeug's."""
    sent = ((b"x-id", b"7"), (b"accept", b"a/b"), (b"accept", b"c/d"), (b"x-latin", b"\xe9"))
    request = asked(
        ALL_BYTES, *sent, (b"content-type", b"a/b"), query=b"a=1&b=x%20y&a=2", client="10.0.0.1"
    )
    assert isinstance(request, AMLRequest)
    assert request.headers["X-Id"] == request.headers["x-id"] == "7"
    assert request.headers.get("Accept") == "a/b,c/d"
    assert request.headers["x-latin"] == "é"
    assert (request.args.getlist("a"), request.args["b"]) == (["1", "2"], "x y")
    assert request.query_string == b"a=1&b=x%20y&a=2"
    assert request.get_data() == request.data == request.get_data(False) == ALL_BYTES
    assert asked("ü".encode()).get_data(as_text=True) == "ü"
    assert request.remote_addr == "10.0.0.1"
    assert {each for each in request.environ if each.startswith("CONTENT") or "TYPE" in each} == {
        "CONTENT_TYPE", "CONTENT_LENGTH"
    }  # fmt: skip
    assert request.environ["wsgi.version"] == (1, 0)


@pytest.mark.keep
@pytest.mark.parametrize(
    ("host", "scheme", "url", "server"),
    [
        (b"example.org", "https", "https://example.org", ("example.org", "80")),
        (b"example.org:8080", "http", "http://example.org:8080", ("example.org", "8080")),
        (b"[::1]:5001", "http", "http://[::1]:5001", ("[::1]", "5001")),
        (b"[::1]", "http", "http://[::1]", ("[::1]", "80")),
        (None, "http", "http://localhost", ("localhost", "80")),
    ],
)
def test_url(host: bytes | None, scheme: str, url: str, server: tuple[str, str]) -> None:
    """Row 30: with the host, port and scheme that the client used, unquoted as WSGI has it."""
    headers = [(b"host", host)] if host else []
    request = asked(b"", *headers, path="/a%2Fb%C3%BC%zz", query=b"a=1", scheme=scheme)
    assert request.path == "/a/bü%zz"
    assert request.url == f"{url}/a/bü%zz?a=1"
    assert (request.environ["SERVER_NAME"], request.environ["SERVER_PORT"]) == server


def test_the_length_is_that_of_the_body() -> None:
    """Whatever the header said, of a compressed body for instance; none when none was said."""
    assert asked(b"12345").content_length == 5
    assert asked(b"12345", (b"content-length", b"99999")).content_length == 5
    assert asked(b"").content_length is None
    assert asked(b"", (b"content-length", b"0")).content_length == 0


# --- request_headers ------------------------------------------------------------------------------


@pytest.mark.keep
def test_header_mapping() -> None:
    """Row 18: names in title case, repeated lines joined, latin-1 values."""
    headers = [(b"x-request-id", b"7"), (b"accept", b"a"), (b"accept", b"b"), (b"x-l", b"\xe9")]
    assert header_mapping(headers) == {"X-Request-Id": "7", "Accept": "a,b", "X-L": "é"}
    assert header_mapping(()) == {}


@pytest.mark.parametrize("name", [b"x-5abc", b"te"])
def test_header_mapping_names_them_as_werkzeug_does(name: bytes) -> None:
    """request_headers of a text script and request.headers of a raw one agree."""
    assert header_mapping([(name, b"v")]) == dict(asked(b"", (name, b"v")).headers)


def test_a_name_with_an_underscore_is_left_out() -> None:
    """X_User would pass for X-User, which a proxy may have checked."""
    headers = ((b"x_user", b"root"), (b"x-user", b"me"))
    assert header_mapping(headers) == {"X-User": "me"}
    assert asked(b"", *headers).headers["x-user"] == "me"


# --- AMLResponse ----------------------------------------------------------------------------------


@pytest.mark.keep
@pytest.mark.parametrize(
    ("message", "options", "body", "kind"),
    [
        ("grüße", {}, "grüße".encode(), HTML),
        (ALL_BYTES, {}, ALL_BYTES, HTML),
        (None, {}, b"{}", JSON),
        (None, {"json_str": True}, b"{}", JSON),
        ({"a": [1, "ü"]}, {"json_str": True}, b'{"a": [1, "\\u00fc"]}', JSON),
        ("text", {"json_str": True}, b'"text"', JSON),
    ],
)
def test_the_message_is_the_body(
    message: Any, options: dict[str, Any], body: bytes, kind: tuple[bytes, bytes]
) -> None:
    """Row 34: as it is; None and json_str give JSON."""
    response = AMLResponse(message, 200, **options)
    assert response_parts(response) == (body, (kind, FAILED_FALSE))


@pytest.mark.keep
def test_the_parameters_by_position() -> None:
    """Row 34: message, status_code, response_headers, json_str, run_function_failed."""
    response = AMLResponse([1], 202, {"x-a": "1"}, True, True)
    assert response.status_code == 202
    assert response_parts(response) == (
        b"[1]",
        (JSON, (b"x-ms-run-function-failed", b"True"), (b"x-a", b"1")),
    )


@pytest.mark.fix
@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
@pytest.mark.parametrize("message", ["text", None])
def test_a_content_type_in_any_case_replaces_the_default(name: str, message: str | None) -> None:
    """Row 34: other spellings were added as a second line."""
    response = AMLResponse(message, 200, {name: "text/csv; header=present, charset=x"})
    assert response.headers.getlist("Content-Type") == ["text/csv; header=present, charset=x"]
    assert response.mimetype == "text/csv"


@pytest.mark.keep
@pytest.mark.parametrize(
    ("value", "parts"),
    [("a, b,c", ["a", "b", "c"]), (" a ", ["a"]), ("a,,b", ["a", "", "b"])],
)
def test_header_values_are_split_at_commas(value: str, parts: list[str]) -> None:
    """Row 34: one line for each part, with the spaces around it gone."""
    assert AMLResponse("", 200, {"X-List": value}).headers.getlist("x-list") == parts


@pytest.mark.fix
@pytest.mark.parametrize(
    "name", ["Set-Cookie", "set-cookie", "Date", "Expires", "Last-Modified", "retry-after"]
)
def test_a_comma_that_belongs_to_the_value_does_not_split_it(name: str) -> None:
    """Row 34: dates and cookies broke."""
    value = "a=1; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Path=/"
    assert AMLResponse("", 200, {name: value}).headers.getlist(name) == [value]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x\r\nset-cookie: b=2", "1"), ("x: y", "1"), ("x ", "1"), ("", "1"), ("é", "1"),
        ("x\0", "1"),
        ("x", "1\r\nset-cookie: b=2"), ("x", "1\rb"), ("x", "1\nb"), ("x", "1\0b"), ("x", "\x7fb"),
        ("content-type", "text/html\r\n\r\n<b>"), ("set-cookie", "a\nb"),
    ],
)  # fmt: skip
def test_headers_that_are_none_of_http_are_not_sendable(name: str, value: str) -> None:
    """RFC 9110 §5.1, §5.5; whether they are given or set later, where werkzeug lets it be."""
    with pytest.raises(ResponseNotSendable, match="newline, or another character"):
        AMLResponse("", 200, {name: value})
    response = Response("")
    with pytest.raises(ValueError, match=r"newline"):
        response.headers[name] = value
        response_parts(response)


@pytest.mark.parametrize("status", [0, 1, 100, 101, 199, 1000])
def test_a_status_that_ends_no_request_is_not_sendable(status: int) -> None:
    """RFC 9110 §15.2: after 1xx the client waits for the answer proper."""
    with pytest.raises(ResponseNotSendable, match=f"status {status}; allowed are 200 to 999"):
        response_parts(AMLResponse("", status))


@pytest.mark.parametrize("value", ["a\tb", " padded ", "ü€", "1\n", ""])
def test_headers_that_may_be_sent(value: str) -> None:
    assert response_parts(AMLResponse("", 200, {"x!#$%&'*+-.^_`|~9": value}))


@pytest.mark.keep
def test_what_scripts_use_of_a_response() -> None:
    """Row 34: status_code, headers, data, set_data, get_data, mimetype; cookies."""
    response = AMLResponse("a", 200)
    response.status_code = 202
    response.headers["X-A"] = "1"
    response.set_data(b"\x00b")
    response.mimetype = "application/octet-stream"
    response.set_cookie("k", "v, w")
    assert (response.data, response.get_data(), response.status) == (b"\x00b",) * 2 + (
        "202 ACCEPTED",
    )
    body, headers = response_parts(response)
    assert body == b"\x00b"
    assert headers[0] == (b"content-type", b"application/octet-stream")
    assert (b"x-a", b"1") in headers
    assert headers[-1] == (b"set-cookie", b'k="v\\054 w"; Path=/')


def test_two_cookies_are_two_lines() -> None:
    """Repeated lines stay apart."""
    response = AMLResponse("", 200)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    assert lines(response)[2:] == ((b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; Path=/"))


# --- any response → plain data --------------------------------------------------------------------


@pytest.mark.keep
def test_any_werkzeug_response_goes_out() -> None:
    """Row 35: Flask's are of this class too; the host sets the length itself."""
    response = Response(b"x", 201, {"X-A": "é"}, mimetype="text/csv", content_type=None)
    assert response_parts(response) == (
        b"x",
        ((b"x-a", "é".encode("latin-1")), (b"content-type", b"text/csv; charset=utf-8")),
    )


def test_a_length_that_a_script_sets_is_left_out() -> None:
    """It may be wrong; the host knows the right one."""
    assert lines(AMLResponse("abc", 200, {"Content-Length": "99"})) == (HTML, FAILED_FALSE)


def test_a_header_value_outside_latin_1_does_not_break_the_response() -> None:
    """HTTP has no other characters in headers."""
    assert lines(AMLResponse("", 200, {"x-a": "世"}))[-1] == (b"x-a", b"?")


def parts(started: list[bool]) -> Iterator[bytes | str]:
    started.append(True)
    yield b"\x00one"
    yield "zwö"
    yield b""


@pytest.mark.keep
def test_a_generator_streams() -> None:
    """Row 35: an iterator of bytes, not begun before the host reads it."""
    started: list[bool] = []
    body, headers = response_parts(AMLResponse(parts(started), 200))
    assert isinstance(body, Iterator)
    assert started == []
    assert list(body) == [b"\x00one", "zwö".encode(), b""]
    assert headers == (HTML, FAILED_FALSE)


def test_a_list_of_parts_is_one_body() -> None:
    """It is there already: no stream."""
    assert response_parts(AMLResponse([b"a", b"b"], 200))[0] == b"ab"


def test_a_file_streams() -> None:
    """send_file() of werkzeug gives such a response."""
    response = Response(BytesIO(ALL_BYTES), direct_passthrough=True)
    body, _ = response_parts(response)
    assert not isinstance(body, bytes)
    assert b"".join(body) == ALL_BYTES
