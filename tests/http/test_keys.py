"""Keys: who may call what, how they are read and renewed, and that none is ever told."""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from hmac import compare_digest
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime import Settings, build
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.http.endpoint import create
from scoring_runtime.http.keys import Keys, Owner, guarding
from scoring_runtime.http.messages import HttpRequest, Reply
from tests.conftest import WriteScript

pytestmark = pytest.mark.anyio
KEY, SECOND, ADMIN = "app-0123456789abcdef", "two-0123456789abcdef", "ops-fedcba9876543210"
ECHO = "def init(): pass\ndef run(data): return data\n"
SEEN = """
from scoring_runtime import rawhttp
def init(): pass
@rawhttp
def run(request): return [dict(request.headers), request.args.to_dict(flat=False), request.method]
"""
Ask = Callable[..., Any]


def keys_of(**environ: str) -> Keys:
    return Keys(Settings.from_environ(environ))


@pytest.fixture
async def asking(write_script: WriteScript) -> AsyncIterator[Ask]:
    """``ask = await asking(source, **environ)``: what sends to a service that has these keys."""
    made = []

    async def serve(source: str = ECHO, **environ: str) -> Ask:
        said = {"SCORING_KEYS": f"app:{KEY}", "SCORING_ADMIN_KEYS": f"ops:{ADMIN}", **environ}
        script = write_script(source)
        said |= {"AZUREML_ENTRY_SCRIPT": str(script), "AML_APP_ROOT": str(script.parent)}
        runtime = build(Settings.from_environ(said))
        endpoint, handle = create(runtime)
        runtime.start()
        made.append((runtime, endpoint))

        async def ask(
            method: str, path: str, body: bytes = b"1", query: str = "", **headers: str
        ) -> Reply:
            lines = [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
            return await handle(HttpRequest(method, path, query.encode(), lines, body))

        return ask

    yield serve
    for runtime, endpoint in made:
        await runtime.stop(20)
        endpoint.flush_log()


def said(reply: Reply) -> Any:
    assert isinstance(reply.body, bytes)
    return json.loads(reply.body)


# --- which keys there are -------------------------------------------------------------------------

NAME = "the name before the colon is not 1 to 64 letters, digits, '.', '_' or '-'"
WRONG = {
    "0123456789abcdef": "there is no colon: expected is name:key",
    "app:0123456789abcde": "the key has 15 characters; allowed are 16 to 1024",
    "app:": "the key has 0 characters; allowed are 16 to 1024",
    f"app:{'k' * 1025}": "the key has 1025 characters; allowed are 16 to 1024",
    ":0123456789abcdef": NAME,
    "my app:0123456789abcdef": NAME,
    "app:0123456789abcdé": "the key has a space, a comma or a character that is not ASCII",
    "app:01234567 89abcdef": "the key has a space, a comma or a character that is not ASCII",
    "first:another-0123456789": "the name is that of {first}, too",
    "other:first-0123456789ab": "the key is that of {first}, too",
}


@pytest.mark.parametrize("entry", list(WRONG))
@pytest.mark.parametrize("setting", ["SCORING_KEYS", "SCORING_ADMIN_KEYS"])
def test_a_wrong_entry_is_named_by_its_place_and_never_shown(setting: str, entry: str) -> None:
    """Whatever stands there may be the key."""
    with pytest.raises(ConfigurationError) as caught:
        keys_of(**{setting: f"first:first-0123456789ab, {entry}"})
    assert str(caught.value) == (
        f"{setting}, entry 2: {WRONG[entry].format(first=f'{setting}, entry 1')}."
    )
    parts = [part for part in entry.split(":") if len(part) > 5]
    assert not any(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("entry", list(WRONG))
def test_in_a_file_it_is_named_by_its_line(entry: str, tmp_path: Path) -> None:
    """Blank lines and comments count as lines."""
    file = tmp_path / "keys.txt"
    file.write_text(f"# of this year\nfirst:first-0123456789ab\n\n{entry}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        keys_of(SCORING_KEYS_FILE=str(file))
    first = f"SCORING_KEYS_FILE, {file}, line 2"
    assert str(caught.value) == (
        f"SCORING_KEYS_FILE, {file}, line 4: {WRONG[entry].format(first=first)}."
    )


def test_a_name_is_one_persons_whatever_it_opens(tmp_path: Path) -> None:
    """The access log has it."""
    file = tmp_path / "admins"
    file.write_text(f"app:{ADMIN}\n")
    with pytest.raises(ConfigurationError, match=r"line 1: the name is that of SCORING_KEYS, ent"):
        keys_of(SCORING_KEYS=f"app:{KEY}", SCORING_ADMIN_KEYS_FILE=str(file))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "SCORING_KEYS_FILE names {file}, which cannot be read: No such file or directory."),
        (b"", "SCORING_KEYS_FILE: {file} has no key. Expected is one name:key a line."),
        (b"# none\n\n", "SCORING_KEYS_FILE: {file} has no key. Expected is one name:key a line."),
        (b"#" * 70_000, "SCORING_KEYS_FILE: {file} has more than 65536 bytes."),
    ],
)
def test_a_file_without_keys_opens_nothing(content: bytes | None, why: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        keys_of(SCORING_KEYS_FILE=str(file))
    assert str(caught.value) == why.format(file=file)


def test_keys_in_files_may_have_what_editors_add(tmp_path: Path) -> None:
    """A byte order mark, carriage returns, spaces around; a key may have colons."""
    file = tmp_path / "keys.txt"
    file.write_bytes(f"\ufeffapp: {KEY} \r\ntwo:{SECOND}:more\r\n".encode())
    keys = keys_of(SCORING_KEYS_FILE=str(file))
    assert keys.owner(KEY.encode()) == Owner("app", False)
    assert keys.owner(f"{SECOND}:more".encode()) == Owner("two", False)
    assert keys.owner(SECOND.encode()) is None


def test_without_keys_nothing_stands_before_the_endpoint(write_script: WriteScript) -> None:
    """Not even a look."""
    script = write_script(ECHO)
    runtime = build(Settings(entry_script=str(script), app_root=str(script.parent)))
    endpoint, handle = create(runtime)
    assert handle is endpoint
    assert endpoint.guard is None


# --- who may call what ----------------------------------------------------------------------------

OPEN = ("/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
SCORES = ("/score", "/score/model", "/score/model/1", "/swagger.json", "/v2", "/v2/models/model")
ADMINS = ("/metrics", "/status", "/docs")
NOWHERE = ("/nowhere", "/v2/nowhere", "/score/a/b/c", "/metrics/", "/models")
OTHERS = ("/health", "/health/", "/health/live/", "//", "/Metrics", "/SCORE", "", "score", "*")


@pytest.mark.parametrize("path", [*OPEN, *SCORES, *ADMINS, *NOWHERE, *OTHERS])
async def test_a_route_is_open_to_those_it_is_for(asking: Ask, path: str) -> None:
    """401 without a key, 403 where it takes an administrator's, whatever the method is."""
    ask = await asking()
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
        plain = (await ask(method, path)).status
        scoring = (await ask(method, path, x_functions_key=KEY)).status
        admin = (await ask(method, path, x_functions_key=ADMIN)).status
        wrong = (await ask(method, path, x_functions_key=f"{KEY}x")).status
        assert admin not in (401, 403)
        assert (plain, wrong) == ((admin, admin) if path in OPEN else (401, 401))
        assert scoring == (403 if path in ADMINS else admin)


async def test_metrics_may_be_open(asking: Ask) -> None:
    """And nothing else with them."""
    ask = await asking(SCORING_METRICS_OPEN="true")
    assert (await ask("GET", "/metrics")).status == 200
    assert (await ask("GET", "/status")).status == 401


WAYS: dict[str, dict[str, str]] = {
    "bearer": {"authorization": f"Bearer {KEY}"},
    "any case": {"authorization": f"bEARER  {KEY} "},
    "functions": {"x_functions_key": KEY},
    "code": {"query": f"code={KEY}"},
    "escaped": {"query": f"a=1&c%6Fde={KEY.replace('-', '%2D')}&b=2"},
    "beside another": {"authorization": "Bearer of-the-script", "x_functions_key": KEY},
    "beside a wrong one": {"query": f"code=wrong&code={KEY}"},
}


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_key_is_sent_in_three_ways_and_no_script_sees_it(asking: Ask, way: str) -> None:
    """What is not the key stays: another token, the rest of the query."""
    ask = await asking(SEEN)
    reply = await ask("POST", "/score", x_other="kept", **WAYS[way])
    assert reply.status == 200
    headers, query, _ = said(reply)
    assert KEY not in json.dumps([headers, query])
    assert headers["X-Other"] == "kept"
    expected = {"escaped": {"a": ["1"], "b": ["2"]}, "beside a wrong one": {"code": ["wrong"]}}
    assert query == expected.get(way, {})
    other = {"Authorization": "Bearer of-the-script"} if way == "beside another" else {}
    assert {n: v for n, v in headers.items() if n not in ("X-Other", "Content-Length")} == other


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer{KEY}"},
        {"authorization": "Bearer"},
        {"x_functions_key": ""},
        {"x_functions_key": KEY.upper()},
        {"x_functions_key": KEY[:-1]},
        {"x_functions_key": f"app:{KEY}"},
        {"query": f"code={KEY}%00"},
        {"query": f"Code={KEY}"},
        {"query": f"key={KEY}"},
        {"query": "code="},
        {"x_forwarded_user": KEY},
        {"cookie": f"code={KEY}"},
    ],
)
async def test_what_is_no_key_opens_nothing(asking: Ask, headers: dict[str, str]) -> None:
    ask = await asking()
    assert (await ask("POST", "/score", **headers)).status == 401


async def test_a_refusal_says_what_to_do(asking: Ask) -> None:
    """As JSON, with the request's id, and what RFC 6750 asks for."""
    ask = await asking()
    how = "It is sent as Authorization: Bearer KEY, x-functions-key: KEY, or ?code=KEY."
    for headers, status, message, challenge in (
        ({}, 401, f"A key is needed here. {how}", ""),
        (
            {"x_functions_key": "x" * 20}, 401,
            f"The key is none of this service. {how}", "invalid_token",
        ),
        (
            {"x_functions_key": KEY}, 403,
            "An administrator's key is needed here (SCORING_ADMIN_KEYS).", "insufficient_scope",
        ),
    ):  # fmt: skip
        reply = await ask("GET", "/metrics", x_request_id="r-1", **headers)
        assert (reply.status, said(reply)) == (status, {"message": message})
        lines = dict(reply.headers)
        assert lines[b"content-type"] == b"application/json"
        assert lines[b"x-request-id"] == b"r-1"
        error = f', error="{challenge}"' if challenge else ""
        assert lines[b"www-authenticate"] == f'Bearer realm="scoring-runtime"{error}'.encode()
    reply = await ask("POST", "/v2/models/model/infer")
    assert list(said(reply)) == ["error"]


async def test_refusals_are_counted_by_why_and_are_no_inputs(asking: Ask) -> None:
    ask = await asking()
    for headers in ({}, {}, {"x_functions_key": "x" * 20}):
        await ask("POST", "/score", **headers)
    await ask("GET", "/status", x_functions_key=KEY)
    body = (await ask("GET", "/metrics", x_functions_key=ADMIN)).body
    assert isinstance(body, bytes)
    counted = [line for line in body.decode().splitlines() if line.startswith("scoring_unau")]
    assert counted == [
        'scoring_unauthorized_total{why="no_key"} 2.0',
        'scoring_unauthorized_total{why="wrong_key"} 1.0',
        'scoring_unauthorized_total{why="no_admin_key"} 1.0',
    ]
    assert 'outcome="refused"} 1' not in body.decode()


async def test_a_browser_asks_first_without_a_key(asking: Ask) -> None:
    """And no script sees that question; without AML_CORS_ORIGINS nobody's is answered."""
    asked = {
        "origin": "https://a.example",
        "access_control_request_method": "POST",
        "access_control_request_headers": "x-functions-key, content-type",
    }
    ask = await asking(SEEN, AML_CORS_ORIGINS="https://a.example")
    reply = await ask("OPTIONS", "/score", **asked)
    lines = dict(reply.headers)
    assert (reply.status, reply.body) == (200, b"")
    assert lines[b"access-control-allow-origin"] == b"https://a.example"
    assert lines[b"access-control-allow-headers"] == b"content-type, x-functions-key"
    refused = await ask("POST", "/score", origin="https://a.example")
    assert refused.status == 401
    assert dict(refused.headers)[b"access-control-allow-origin"] == b"https://a.example"
    assert (await ask("OPTIONS", "/score")).status == 401
    reply = await ask("OPTIONS", "/score", x_functions_key=KEY)
    assert said(reply)[2] == "OPTIONS"
    without = await asking(SEEN)
    assert (await without("OPTIONS", "/score", **asked)).status == 401


async def test_the_page_asks_for_the_key_itself(asking: Ask) -> None:
    """Its document is the same for every service; what it shows takes an administrator's key."""
    ask = await asking()
    await ask("POST", "/score", x_functions_key=KEY)  # which waits until it is ready
    browser = {"accept": "text/html,*/*;q=0.8"}
    for path, status in (("/", 200), ("/docs", 401)):
        reply = await ask("GET", path, **browser)
        assert reply.status == status
        assert isinstance(reply.body, bytes)
        assert b'id="key-form"' in reply.body
    assert (await ask("GET", "/docs")).status == 401
    assert (await ask("GET", "/status", **browser)).status == 401
    assert (await ask("GET", "/docs", query=f"code={ADMIN}", **browser)).status == 200


async def test_the_documents_name_the_key(asking: Ask) -> None:
    ask = await asking()
    for version, place in (("2", "securityDefinitions"), ("3", "components")):
        reply = await ask("GET", "/swagger.json", query=f"version={version}", x_functions_key=KEY)
        document = said(reply)
        schemes = document[place] if version == "2" else document[place]["securitySchemes"]
        assert schemes["FunctionKey"]["name"] == "x-functions-key"
        assert schemes["Bearer"]["name"] == "Authorization"
        for place, method in (("/score", "post"), ("/metrics", "get"), ("/swagger.json", "get")):
            operation = document["paths"][place][method]
            assert operation["security"] == [{"FunctionKey": []}, {"Bearer": []}]  # either
            assert "401" in operation["responses"]


# --- files that change ----------------------------------------------------------------------------


def owner_after(keys: Keys, key: str, expected: Owner | None) -> None:
    until = time.monotonic() + 10
    while keys.owner(key.encode()) != expected:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_changed_file_counts_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both keys while they overlap; then the old one ends."""
    file = tmp_path / "keys.txt"
    file.write_text(f"app:{KEY}\n")
    keys = keys_of(SCORING_KEYS_FILE=str(file))
    file.write_text(f"app:{KEY}\napp2:{SECOND}\n")
    owner_after(keys, SECOND, Owner("app2", False))
    assert keys.owner(KEY.encode()) == Owner("app", False)
    with caplog.at_level(logging.INFO, "azmlinfsrv"):
        file.write_text(f"app2:{SECOND}\n")
        owner_after(keys, KEY, None)
    assert caplog.messages == [f"The keys were read again, as {file} changed."]


def test_a_secret_of_kubernetes_is_another_folder_behind_a_link(tmp_path: Path) -> None:
    """``keys -> ..data/keys``, ``..data -> ..2026_01``: only the second link is changed."""
    for folder, key in (("..2026_01", KEY), ("..2026_02", SECOND)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys").write_text(f"app:{key}\n")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "keys").symlink_to("..data/keys")
    keys = keys_of(SCORING_ADMIN_KEYS_FILE=str(tmp_path / "keys"))
    assert keys.owner(KEY.encode()) == Owner("app", True)
    (tmp_path / "..new").symlink_to("..2026_02")
    (tmp_path / "..new").replace(tmp_path / "..data")
    owner_after(keys, SECOND, Owner("app", True))
    assert keys.owner(KEY.encode()) is None


@pytest.mark.parametrize("broken", [f"app:{SECOND}\noops\n", "", None])
def test_a_broken_file_leaves_the_keys_there_were(
    broken: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, with the line, and the next good one counts."""
    file = tmp_path / "keys.txt"
    file.write_text(f"app:{KEY}\n")
    keys = keys_of(SCORING_KEYS_FILE=str(file))
    file.unlink()
    if broken is not None:
        file.write_text(broken)
    until = time.monotonic() + 10
    while not caplog.messages:
        assert time.monotonic() < until
        assert keys.owner(KEY.encode()) == Owner("app", False)
        assert keys.owner(SECOND.encode()) is None
    for _ in range(100):
        keys.owner(b"x")
        time.sleep(0.003)
    [message] = caplog.messages
    assert message.startswith("The keys stay as they were: SCORING_KEYS_FILE")
    assert (f"{file}, line 2: there is no colon" in message) == bool(broken)
    assert SECOND not in message
    file.write_text(f"two:{SECOND}\n")
    owner_after(keys, SECOND, Owner("two", False))


# --- how long it takes ----------------------------------------------------------------------------


LENGTH = 1000


def spread(compare: Callable[[bytes], object], sent: list[bytes]) -> float:
    """How many times the quickest of the medians the slowest is; the tries are in turn."""
    taken: dict[bytes, list[int]] = {each: [] for each in sent}
    order = list(sent)
    for _ in range(10_000):
        random.shuffle(order)
        for each in order:
            began = time.perf_counter_ns()
            compare(each)
            taken[each].append(time.perf_counter_ns() - began)
    medians = [statistics.median(each) for each in taken.values()]
    return max(medians) / min(medians)


def early(known: bytes, sent: bytes) -> bool:
    return all(one == other for one, other in zip(known, sent, strict=True))


def test_a_wrong_key_takes_as_long_wherever_it_is_wrong() -> None:
    """Its first character or its last, in the first key or the last; and right ones as long as
    wrong ones. The same measurement finds a comparison that stops where they differ."""
    keys = [os.urandom(LENGTH // 2).hex().encode() for _ in range(8)]
    known = keys_of(SCORING_KEYS=",".join(f"k{n}:{key.decode()}" for n, key in enumerate(keys)))
    wrong = [b"z" + keys[which][1:] for which in (0, 7)]
    wrong += [keys[which][:-1] + b"z" for which in (0, 7)]
    assert min(spread(known.owner, [*wrong, keys[0], keys[7]]) for _ in range(3)) < 1.05
    assert spread(lambda sent: early(keys[0], sent), [wrong[0], wrong[2]]) > 2


def test_digests_are_compared_each_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the function that takes the same time for whatever it is given."""
    compared: list[tuple[bytes, bytes]] = []
    known = keys_of(SCORING_KEYS=f"app:{KEY},two:{SECOND}")

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr("scoring_runtime.http.keys.compare_digest", compare)
    for sent in (KEY, SECOND, "x", KEY[:-1]):
        compared.clear()
        known.owner(sent.encode())
        assert len(compared) == 2
        assert {len(each) for pair in compared for each in pair} == {32}


def test_no_settings_object_shows_a_key() -> None:
    """Nor does anything that is made of it."""
    environ = {"SCORING_KEYS": f"app:{KEY}", "SCORING_ADMIN_KEYS": f"ops:{ADMIN}"}
    settings = Settings.from_environ(environ)
    guard = guarding(settings)
    assert KEY not in repr((settings, guard)) + repr(vars(Keys(settings))["_watched"].value)
