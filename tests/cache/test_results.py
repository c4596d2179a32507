"""The cache inside one process: stores, keys and values, the wrapper around ``score``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring_runtime.cache.build import caching
from scoring_runtime.cache.entries import key_of, pack_response, unpack_response
from scoring_runtime.cache.inputs import StoredInputs
from scoring_runtime.cache.memory import BUSY, MemoryStore, Store
from scoring_runtime.cache.redis import RedisStore
from scoring_runtime.cache.results import Cache
from scoring_runtime.errors import (
    InputNotFound,
    InputTooLarge,
    RunFailed,
    RunTimeout,
    StoreAway,
    UndecodableInput,
)
from scoring_runtime.messages import ScoringRequest, ScoringResponse
from scoring_runtime.models.manifest import fingerprint
from scoring_runtime.scoring.runtime import Runtime, build
from scoring_runtime.settings.settings import Settings, setting_fields
from tests.conftest import WriteScript
from tests.hosts.redis import RedisServer
from tests.models_for_tests import registered, sum_estimator

pytestmark = pytest.mark.anyio
JSON = (b"content-type", b"application/json")
ALL_BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest, server: RedisServer) -> str:
    with server.client() as client:
        client.flushall()
    return "memory://" if request.param == "memory" else server.url


class Opened:
    """`async with Opened(url) as store:` a store that is closed at the end."""

    def __init__(self, url: str, **more: Any) -> None:
        # A busy machine is no failure of Redis; those are in test_caching_hosts.
        settings = Settings(cache_url=url, cache_timeout_ms=5000, **more)
        self.store: Store = (
            MemoryStore(settings.cache_memory_bytes)
            if url.startswith("memory")
            else RedisStore(settings)
        )

    async def __aenter__(self) -> Store:
        return self.store

    async def __aexit__(self, *exc_info: object) -> None:
        await self.store.close()


# --- one contract for both stores -----------------------------------------------------------------


async def test_a_store_gives_back_what_was_set_until_it_is_deleted(url: str) -> None:
    """Every byte value; an empty value is a value; a key without one is a miss."""

    async with Opened(url) as store:
        assert await store.get("k") is None
        await store.set("k", ALL_BYTES, 60)
        await store.set("empty", b"", 60)
        assert await store.get("k") == ALL_BYTES
        assert await store.get("empty") == b""
        await store.set("k", b"new", 60)
        assert await store.take("k", 1) == b"new"
        assert await store.delete("k") is True
        assert await store.delete("k") is False
        assert await store.get("k") is None
        assert store.is_open


async def test_a_value_ends_with_its_time(url: str) -> None:
    async with Opened(url) as store:
        await store.set("k", b"v", 0.2)
        assert await store.get("k") == b"v"
        await asyncio.sleep(0.3)
        assert await store.get("k") is None


async def test_a_taken_key_is_busy_for_others_until_it_is_set(server: RedisServer) -> None:
    """Over processes, by a mark in Redis that ends by itself."""

    async with Opened(server.url) as one, Opened(server.url) as other:
        assert await one.take("taken", 0.3) is None
        assert await other.take("taken", 0.3) == BUSY
        await asyncio.sleep(0.4)
        assert await other.take("taken", 5) is None
        await other.set("taken", b"v", 60)
        assert await one.take("taken", 5) == b"v"


async def test_memory_makes_room_by_dropping_what_was_used_least_recently() -> None:
    store = MemoryStore(1000)
    for key in ("a", "b", "c"):
        await store.set(key, bytes(100), 60)  # three fit, with 200 bytes around each
    await store.get("a")
    await store.set("d", bytes(100), 60)
    assert [key for key in "abcd" if await store.get(key) is not None] == ["a", "c", "d"]
    await store.set("huge", bytes(2000), 60)
    assert await store.get("huge") is None
    assert await store.get("a") is not None


async def test_many_calls_at_once_are_answered_each_with_its_own(server: RedisServer) -> None:
    async with Opened(server.url) as store:
        await asyncio.gather(*(store.set(f"n{n}", b"%d" % n, 60) for n in range(500)))
        found = await asyncio.gather(*(store.get(f"n{n}") for n in range(500)))
    assert found == [b"%d" % n for n in range(500)]


# --- keys and values ------------------------------------------------------------------------------


def request_of(body: bytes, **more: Any) -> ScoringRequest:
    return ScoringRequest(body, more.pop("headers", (JSON,)), **more)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":2}', b'{ "a" : 1,\n"b":2 }'),
        (b'{"a":{"y":[1,2],"x":0}}', b'{"a":{"y":[1, 2],"x":0}}'),
        ('{"a":1.5,"b":"ü"}'.encode(), '{ "a": 1.5,\t"b": "ü"}'.encode()),
        (b'{"a":"b: c, d","e":[]}', b'{"a" : "b: c, d", "e" : [ ]}'),
    ],
)
def test_json_that_differs_in_form_alone_has_one_key(one: bytes, other: bytes) -> None:
    assert key_of(request_of(one), b"v") == key_of(request_of(other), b"v")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"[NaN]", b"[null]"),
        (b"[123456789012345678901]", b"[123456789012345678902]"),
        (b"{", b"{ "),
        ("[1e2]".encode("utf-16"), b"[1e2]"),
        (b"[123456789012345678.5]", b"[123456789012345678.6]"),
        (b'{"a":1,"a":2}', b'{"a":1}'),
        (b'["a b"]', b'["ab"]'),
        (b'{"a":1,"b":2}', b'{"b":2,"a":1}'),
        (b'["\\\\",1e1]', '["\ufdd0",1e1]'.encode()),
    ],
)
def test_json_that_differs_has_keys_that_differ(one: bytes, other: bytes) -> None:
    assert key_of(request_of(one), b"v") != key_of(request_of(other), b"v")


WHITE = st.text(" \t\n\r", max_size=2)
SCALARS = st.sampled_from(
    [
        "0", "-0", "1", "1.0", "1.00", "1e0", "1E0", "1e+0", "12345678901234567890", "1e400",
        "1e-7", "1e-07", "true", "null", "NaN", '""', '"1"', '" "', '"\\u0020"', '"\\\\"',
        '"\\\\\\""', '"\\n"', '"a"', '"\\u0061"', '"\ufdd0"', '"\\\\u0061"', '"\u00fc"', '"{"',
        '"\\ud800"',
    ]
)  # fmt: skip
NAMES = st.sampled_from(['"a"', '"\\u0061"', '"b"', '" "', '"\\\\"', '""'])


def texts(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Arrays and objects as ``(how it is compared, how it is written)``."""

    def array(items: list[Any], white: str) -> tuple[Any, str]:
        return ("array", *(meant for meant, _ in items)), (
            f"[{white}" + f"{white},{white}".join(text for _, text in items) + f"{white}]"
        )

    def thing(members: list[tuple[str, Any]], white: str) -> tuple[Any, str]:
        meant = [(name, value[0]) for name, value in members]
        lines = (f"{name}{white}:{white}{value[1]}" for name, value in members)
        return ("object", *meant), "{" + f"{white},".join(lines) + white + "}"

    members = st.lists(st.tuples(NAMES, inner), max_size=3)
    return st.builds(array, st.lists(inner, max_size=3), WHITE) | st.builds(thing, members, WHITE)


BODIES = st.recursive(SCALARS.map(lambda text: (text, text)), texts, max_leaves=6)


@given(BODIES, BODIES)
@settings(max_examples=1000)
def test_two_bodies_have_one_key_only_if_they_differ_in_form_alone(one: Any, other: Any) -> None:
    """The order of names is none of form."""
    keys = {key_of(request_of(each.encode()), b"v") for _, each in (one, other)}
    assert len(keys) == 2 or one[0] == other[0]


def test_a_body_too_large_to_be_read_is_compared_as_it_is() -> None:
    """Keys are made on the event loop: 100 MB in 2 s at most, and nothing of it is copied apart."""
    body = b"[" + b"{}," * 33_000_000 + b"{}]"
    began = time.monotonic()
    key = key_of(request_of(body), b"v")
    assert time.monotonic() - began < 2
    assert key != key_of(request_of(body + b" "), b"v")


def test_what_else_changes_a_result_changes_the_key_and_ids_do_not() -> None:
    base = request_of(b"{}", request_id="1")
    others = [
        base._replace(method="GET"),
        base._replace(query=b"a=1"),
        request_of(b"{}", headers=((b"content-type", b"text/plain"),)),
        request_of(b"{}", headers=(JSON, (b"accept", b"text/csv"))),
        request_of(b"{}", headers=(JSON, (b"content-encoding", b"gzip"))),
        request_of(b"{ }", headers=((b"content-type", b"text/plain"),)),
    ]
    others.append(base._replace(path="/v2/models/m/infer"))
    others.append(request_of(b"{}", headers=(JSON, (b"inference-header-content-length", b"2"))))
    keys = {key_of(each, b"v") for each in [base, *others]}
    keys |= {key_of(base, b"w"), key_of(base, b"v", b"m:1"), key_of(base, b"v", b"m:2")}
    assert len(keys) == 12
    same = [base._replace(request_id="2", client="1.2.3.4", path="/x")]
    same.append(request_of(b"{}", headers=(JSON, (b"x-request-id", b"7"), (b"traceid", b"t"))))
    same.append(request_of(b"{}", headers=(JSON, (b"accept", b"*/*"))))
    assert {key_of(each, b"v") for each in same} == {key_of(base, b"v")}


RESPONSE = ScoringResponse(201, ALL_BYTES, [JSON, (b"x-a", b"\xe9")], 1.5)
VALUE = pack_response(RESPONSE, ALL_BYTES, "key")


def test_a_response_comes_back_as_it_was() -> None:
    found = unpack_response(pack_response(RESPONSE, ALL_BYTES, "key"), "key")
    assert found == (RESPONSE, 0)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_a_miss(value: bytes) -> None:
    assert unpack_response(value, "key") is None


@given(st.data())
def test_a_value_that_was_changed_anywhere_is_a_miss(data: st.DataObject) -> None:
    """Truncated, one byte other, of another key."""
    value = VALUE
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.integers(1, 255))
    changed = value[:at] + bytes([value[at] ^ other]) + value[at + 1 :]
    assert unpack_response(changed, "key") is None
    assert unpack_response(value[:at], "key") is None
    assert unpack_response(value, "other") is None


def test_the_fingerprint_changes_with_any_file_of_model_and_code(tmp_path: Path) -> None:
    model, code = tmp_path / "model", tmp_path / "code"
    (model / "sub").mkdir(parents=True)
    (code / ".venv").mkdir(parents=True)
    (model / "sub" / "weights").write_bytes(b"1")
    (code / "score.py").write_text("a = 1")
    seen = [fingerprint(str(model), [code])]

    def changed() -> bool:
        seen.append(fingerprint(str(model), [code]))
        return seen[-1] != seen[-2]

    assert not changed()
    (model / "sub" / "weights").write_bytes(b"2")
    assert changed()
    (model / "more").write_bytes(b"")
    assert changed()
    (code / "helper.py").write_text("b = 1")
    assert changed()
    (code / ".venv" / "x.py").write_text("")
    (code / "notes.txt").write_text("")
    assert not changed()
    for number in ("1", "2"):  # a volume that is changed at once: its link leads elsewhere
        (tmp_path / number).mkdir()
        (tmp_path / number / "weights").write_text(number)
        (model / "link").unlink(missing_ok=True)
        (model / "link").symlink_to(tmp_path / number)
        assert changed()


# --- the wrapper ----------------------------------------------------------------------------------

COUNTING = """
    import json, time

    calls = 0

    def init():
        pass

    def run(data):
        global calls
        calls += 1
        time.sleep(0.05)
        if data == '"fail"':
            raise ValueError
        return {"calls": calls, "data": json.loads(data)}
"""


class Serving:
    """`async with Serving(script, url) as cache:` a started runtime and its cache."""

    def __init__(self, script: Path | None, url: str = "memory://", **more: str) -> None:
        named = {"AZUREML_ENTRY_SCRIPT": str(script)} if script else {}
        environ = {"CACHE_URL": url, **named, **more}
        self.runtime: Runtime = build(Settings.from_environ(environ))
        self.store = Opened(url, cache_prefix=self.runtime.settings.cache_prefix).store
        self.cache = Cache(self.runtime, self.store)

    async def __aenter__(self) -> Cache:
        self.runtime.start()
        await self.runtime.started()
        return self.cache

    async def __aexit__(self, *exc_info: object) -> None:
        await self.cache.close()
        await self.runtime.stop()


def state_of(response: ScoringResponse) -> str:
    return dict(response.headers)[b"x-cache"].decode()


def plain(response: ScoringResponse) -> tuple[int, Any, list[tuple[bytes, bytes]], float]:
    kept = [line for line in response.headers if line[0] not in (b"x-cache", b"age")]
    return response.status, response.body, kept, response.run_ms


async def test_a_hit_is_the_first_answer_again(url: str, write_script: WriteScript) -> None:
    """Bytes, status, headers and run time; with its age."""

    async with Serving(write_script(COUNTING), url) as cache:
        first = await cache(request_of(b'{"a":1,"b":2}'))
        await asyncio.sleep(0.1)
        again = await cache(request_of(b'{"a":1, "b":2}'))
        assert (state_of(first), state_of(again)) == ("miss", "hit")
        assert plain(again) == plain(first)
        assert dict(again.headers)[b"age"] == b"0"
        counts = (cache.hits, cache.misses, cache.bypasses, cache.errors)
        assert [each.value for each in counts] == [1, 1, 0, 0]
        assert cache.saved_ms.value == first.run_ms


async def test_a_hundred_equal_requests_call_run_once(url: str, write_script: WriteScript) -> None:
    async with Serving(write_script(COUNTING), url) as cache:
        answers = await asyncio.gather(*(cache(request_of(b"7")) for _ in range(100)))
        assert {each.body for each in answers} == {b'{"calls":1,"data":7}'}
        assert sorted(map(state_of, answers)) == ["hit"] * 99 + ["miss"]


async def test_a_failure_is_shared_and_not_kept(url: str, write_script: WriteScript) -> None:
    """The next request tries again, at once."""

    serving = Serving(write_script(COUNTING), url)
    async with serving as cache:
        asked = [cache(request_of(b'"fail"')) for _ in range(5)]
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in errors] == [RunFailed] * 5
        await asyncio.sleep(0.05)
        with pytest.raises(RunFailed):
            await cache(request_of(b'"fail"'))
        good = await cache(request_of(b"1"))
        assert good.body == b'{"calls":3,"data":1}'


async def test_a_caller_that_goes_away_takes_no_other_with_it(write_script: WriteScript) -> None:
    async with Serving(write_script(COUNTING)) as cache:
        leader = asyncio.create_task(cache(request_of(b"1")))
        await asyncio.sleep(0.01)
        follower = asyncio.create_task(cache(request_of(b"1")))
        await asyncio.sleep(0.01)
        leader.cancel()
        assert (await follower).status == 200


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("def run(data, request_headers): return 1", {}),
        (
            "from azureml.contrib.services.aml_request import rawhttp\n"
            "@rawhttp\ndef run(request): return 1",
            {},
        ),
        ("def run(data): return 1", {"CACHE_TTL_SECONDS": "0"}),
    ],
)
async def test_scripts_that_see_headers_are_not_cached(
    source: str, more: dict[str, str], write_script: WriteScript
) -> None:
    """Nor anything when results are kept for 0 seconds."""
    script = write_script(f"def init(): pass\n{source}\n")

    async def states(**environ: str) -> list[str]:
        async with Serving(script, **more, **environ) as cache:
            return [state_of(await cache(request_of(b"1"))) for _ in range(2)]

    assert await states() == ["bypass", "bypass"]
    if not more:
        assert await states(CACHE_RAW="true") == ["miss", "hit"]


async def test_cache_control_is_heeded(write_script: WriteScript) -> None:
    """no-cache wants a new result, which is kept; no-store wants none kept."""

    def asking(body: bytes, directive: bytes) -> ScoringRequest:
        return request_of(body, headers=(JSON, (b"cache-control", directive)))

    async with Serving(write_script(COUNTING)) as cache:
        states = []
        for each in (
            asking(b"1", b"no-store"),
            request_of(b"1"),
            request_of(b"1"),
            asking(b"1", b"no-cache"),
            request_of(b"1"),
            asking(b"1", b"No-Store"),
        ):
            answer = await cache(each)
            await asyncio.sleep(0.02)
            states.append((state_of(answer), answer.body))
        one = [b'{"calls":%d,"data":1}' % n for n in range(4)]
        assert states == [
            ("miss", one[1]),
            ("miss", one[2]),
            ("hit", one[2]),
            ("bypass", one[3]),
            ("hit", one[3]),
            ("hit", one[3]),
        ]


@pytest.mark.parametrize(
    "result",
    [
        "AMLResponse('no', 404)",
        "AMLResponse('x', 200, {'Set-Cookie': 'a=b'})",
        "AMLResponse('x', 200, {'Cache-Control': 'private'})",
        "AMLResponse((part for part in [b'a', b'b']), 200)",
        "'x' * 101",
    ],
)
async def test_what_is_for_one_only_is_not_kept(result: str, write_script: WriteScript) -> None:
    """Not 2xx, with a cookie, said to be private, a stream, or too large."""
    script = write_script(
        f"""
        from azureml.contrib.services.aml_response import AMLResponse

        def init():
            pass

        def run(data):
            return {result}
        """
    )

    async with Serving(script, CACHE_MAX_VALUE_BYTES="100") as cache:
        states = [state_of(await cache(request_of(b"1"))) for _ in range(2)]
    assert states == ["miss", "miss"]


async def test_another_model_or_script_never_gets_the_old_result(
    server: RedisServer, write_script: WriteScript, tmp_path: Path
) -> None:
    """Same Redis, same input: the file of the model, the script, a module or model beside it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "m.txt").write_text("1")
    environ = {"AZUREML_MODEL_DIR": str(model), "CACHE_PREFIX": "change:"}

    async def state(script: Path) -> str:
        async with Serving(script, server.url, **environ) as cache:
            answer = state_of(await cache(request_of(b"1")))
            await asyncio.sleep(0.05)
            return answer

    script = write_script("def init(): pass\ndef run(data): return 1\n", "code/score.py")
    assert [await state(script) for _ in range(2)] == ["miss", "hit"]
    (model / "m.txt").write_text("2")
    assert await state(script) == "miss"
    script.write_text("def init(): pass\ndef run(data): return 2\n")
    assert await state(script) == "miss"
    write_script("x = 1\n", "code/helper.py")
    assert [await state(script) for _ in range(2)] == ["miss", "hit"]
    for content in (b"1", b"2"):
        (script.parent / "model.pkl").write_bytes(content)
        assert [await state(script) for _ in range(2)] == ["miss", "hit"]


async def test_what_is_served_is_part_of_the_key(
    server: RedisServer, write_script: WriteScript, tmp_path: Path
) -> None:
    """Two scripts of one folder; other default models; a script and none; settings."""
    registry = registered(
        tmp_path / "azureml-models",
        {f"m/{n}": sum_estimator(float(n)) for n in (1, 2)},
    )
    one = write_script("def init(): pass\ndef run(data): return 1\n", "code/one.py")
    two = write_script("def init(): pass\ndef run(data): return 2\n", "code/two.py")

    async def asked(**environ: str) -> tuple[str, Any]:
        async with Serving(None, server.url, CACHE_PREFIX="served:", **environ) as cache:
            answer = await cache(request_of(b"[[1.0, 2.0]]"))
        return state_of(answer), answer.body

    models = {"AZUREML_MODEL_DIR": str(registry), "AML_APP_ROOT": str(tmp_path / "code")}
    ways: list[dict[str, str]] = [
        {"AZUREML_ENTRY_SCRIPT": str(one)},
        {"AZUREML_ENTRY_SCRIPT": str(two)},
        {**models, "SCORING_DEFAULT_MODEL": "m"},
        {**models, "SCORING_DEFAULT_MODEL": "m:1"},
        {**models, "AZUREML_ENTRY_SCRIPT": str(one)},
        {**models, "SCORING_DEFAULT_MODEL": "m", "SCORING_MAX_ROWS": "1000"},
    ]
    first = [await asked(**way) for way in ways]
    again = [await asked(**way) for way in ways]
    assert [state for state, _ in first] == ["miss"] * len(ways)
    assert again == [("hit", body) for _, body in first]
    assert len({body for _, body in first[:4]}) == 4
    # A default that is the highest version, named or not, is one and the same.
    assert await asked(**models, SCORING_DEFAULT_MODEL="m:2") == ("hit", first[2][1])


async def test_files_that_cannot_be_read_keep_no_results_and_no_request(
    write_script: WriteScript, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "itself").symlink_to(model)

    environ = {"AZUREML_MODEL_DIR": str(model)}
    async with Serving(write_script(COUNTING), **environ) as cache:
        assert [state_of(await cache(request_of(b"1"))) for _ in range(2)] == ["bypass"] * 2
    assert caplog.text.count("No results are kept") == 1


def test_every_setting_is_in_the_key_or_known_to_change_no_answer() -> None:
    """A new one has to be marked in its row, ``in_results``, or named here."""
    no_result = {
        # In the key by what they lead to: script and model by name, version and files.
        "entry_script", "model_dir", "app_root", "source_dir", "config_file", "default_model",
        # Where, when and how many.
        "host", "port", "health_port", "separate_health_endpoint", "worker_count",
        "max_requests", "max_rss_mb",
        "worker_timeout", "worker_preload", "shutdown_seconds", "scoring_timeout_ms",
        "drain_seconds", "reload", "reload_tolerance", "reload_seconds",
        "concurrency", "queue_size", "init_grace_seconds", "auth_level", "triggers", "debug_port",
        # What is said of the service, and in its log.
        "service_name", "service_version", "service_path_prefix", "workspace_name", "hostname",
        "cors_origins", "server_version_header", "log_level", "log_format", "pages",
        "app_insights_enabled",
        "app_insights_key", "app_insights_log_response", "model_data_collection",
        "record", "record_connection", "record_rate", "record_max_body_kb", "record_max_mb",
        "record_redact",
        "app_insights_string", "otlp_endpoint", "otlp_traces_endpoint", "traces_exporter",
        "otel_disabled", "otel_service_name", "traces_sampler", "traces_sampler_arg",
        # Who may call.
        "keys", "keys_file", "admin_keys", "admin_keys_file", "metrics_open", "entra_tenant",
        "entra_audience", "entra_authority", "tls_cert", "tls_key", "tls_ca",
        # What the standalone host's connections may take.
        "idle_timeout_seconds", "max_connections", "max_bytes_in_flight", "max_batch_delay_ms",
    }  # fmt: skip
    ways = ("blob_", "servicebus_", "cache_", "redis_", "later_")
    for each in setting_fields():
        known = each.name in no_result or each.name.startswith(ways)
        assert known != each.metadata["in_results"], each.name
    changing = Settings().changing_results
    assert {"nan", "strict_compat", "max_rows", "onnx_providers"} <= changing.keys()
    assert replace(Settings(), nan="error").changing_results != changing


# RFC 9111 §5.2.2 and §4.2.1: how many seconds others may have it, of CACHE_TTL_SECONDS.
LIFETIMES = {
    "public": 3600,
    "max-age=60": 60,
    'max-age="60"': 60,
    "max-age=86400": 3600,
    "max-age=60, s-maxage=30": 30,
    "s-maxage=90, max-age=60": 90,
    "x-max-age=5": 3600,
    "max-age=0": 0,
    "s-maxage=0, max-age=60": 0,
    "max-age=soon": 0,
    "max-age": 0,
    "max-age=99999999999999999999": 3600,
    "PRIVATE": 0,
    'Private="x-name"': 0,
    "no-cache": 0,
}


@pytest.mark.parametrize("said", list(LIFETIMES))
async def test_an_answer_is_kept_as_long_as_it_says(said: str, write_script: WriteScript) -> None:
    script = write_script(
        f"""
        from azureml.contrib.services.aml_response import AMLResponse

        def init():
            pass

        def run(data):
            return AMLResponse("x", 200, {{"Cache-Control": {said!r}}})
        """
    )
    kept: list[float] = []

    serving = Serving(script)
    async with serving as cache:
        keep = serving.store.set

        async def noted(key: str, value: bytes, seconds: float) -> None:
            kept.append(seconds)
            await keep(key, value, seconds)

        serving.store.set = noted  # type: ignore[method-assign]
        states = [state_of(await cache(request_of(b"1"))) for _ in range(2)]
    assert states == (["miss", "hit"] if LIFETIMES[said] else ["miss", "miss"])
    assert kept == ([LIFETIMES[said]] if LIFETIMES[said] else [])


# --- waiting for others ---------------------------------------------------------------------------

GATED = """
    import pathlib, time

    def init():
        pass

    def run(data):
        name, _, gate = data.partition(":")
        with open(gate + ".calls", "a") as calls:
            calls.write("x")
        while not pathlib.Path(gate).exists():
            time.sleep(0.01)
        return name
"""


async def test_who_waits_for_another_keeps_its_own_deadline(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Who came first is too late before the others are; who waited is not given twice the time."""
    gate, text = tmp_path / "gate", (b"content-type", b"text/plain")

    serving = Serving(write_script(GATED), SCORING_TIMEOUT_MS="6000")
    async with serving as cache:
        asked = request_of(f"a:{gate}".encode(), headers=(text,))

        async def timed() -> tuple[str, float]:
            began = time.monotonic()
            try:
                answer = str((await cache(asked)).status)
            except RunTimeout as error:
                answer = str(error)
            return answer, time.monotonic() - began

        first = asyncio.create_task(timed())
        await asyncio.sleep(3)
        later = [asyncio.create_task(timed()) for _ in range(3)]
        leaving = asyncio.create_task(timed())
        await asyncio.sleep(0.2)
        leaving.cancel()
        found = [await first, *[await each for each in later]]
        assert {answer for answer, _ in found} == {"Scoring timeout after 6000 ms"}
        assert all(5.9 < seconds < 11 for _, seconds in found), found
        assert leaving.cancelled()
        gate.touch()


async def test_who_waits_for_another_process_keeps_its_own_deadline(
    server: RedisServer, write_script: WriteScript, tmp_path: Path
) -> None:
    gate, text = tmp_path / "gate", (b"content-type", b"text/plain")
    script = write_script(GATED)

    environ = {"CACHE_PREFIX": "deadline:"}
    async with (
        Serving(script, server.url, SCORING_TIMEOUT_MS="60000", **environ) as owner,
        Serving(script, server.url, SCORING_TIMEOUT_MS="2000", **environ) as other,
    ):
        asked = request_of(f"a:{gate}".encode(), headers=(text,))
        scoring = asyncio.create_task(owner(asked))
        while not Path(f"{gate}.calls").exists():
            await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(RunTimeout, match="2000 ms"):
            await other(asked)
        assert 1.9 < time.monotonic() - began < 6.5
        # Meanwhile the mark has ended twice, but for its being renewed: nobody else scores.
        assert Path(f"{gate}.calls").read_text() == "x"
        with server.client() as client:  # and where the process is killed, it ends soon
            [key] = client.keys("deadline:*")
            assert 0 < client.pttl(key) <= 1000
        gate.touch()
        assert (await scoring).body == b'"a"'


async def test_hostile_values_under_our_keys_are_misses(
    server: RedisServer, write_script: WriteScript
) -> None:
    """Random bytes, a truncated value, a pickle that would make a folder."""
    async with Serving(write_script(COUNTING), server.url, CACHE_PREFIX="scoring:") as cache:
        with server.client() as client:
            client.flushall()
            for number, hostile in enumerate((b"\x00", b"SRV1", b"cos\nmkdir\n(Vevil\ntR.")):
                await cache(request_of(b"%d" % number))
                await asyncio.sleep(0.05)
                [key] = client.keys("scoring:*")
                client.set(key, hostile)
                assert state_of(await cache(request_of(b"%d" % number))) == "miss"
                await asyncio.sleep(0.05)
                assert state_of(await cache(request_of(b"%d" % number))) == "hit"
                client.flushall()
    assert not Path("evil").exists()


# --- inputs by key --------------------------------------------------------------------------------


async def test_an_input_is_scored_by_its_key_until_it_is_forgotten(
    url: str, write_script: WriteScript
) -> None:
    serving = Serving(write_script(COUNTING), url)
    async with serving as cache:
        inputs = StoredInputs(serving.store, cache, serving.runtime.settings)
        named = ScoringRequest(b"", ((b"x-input-key", b"case-1"),))
        with pytest.raises(InputNotFound, match="case-1"):
            await inputs.score(named)
        assert await inputs.put("case-1", request_of(b'{"a":1}')) == 3600
        answer = await inputs.score(named)
        assert answer.body == b'{"calls":1,"data":{"a":1}}'
        assert (await inputs.score(request_of(b'{"a": 1}'))).body == answer.body
        assert await inputs.delete("case-1") is True
        with pytest.raises(InputNotFound, match="case-1"):
            await inputs.score(named)


async def test_inputs_have_limits(write_script: WriteScript) -> None:
    """Of size, of time, of the key's characters."""

    serving = Serving(write_script(COUNTING), CACHE_MAX_INPUT_BYTES="10")
    async with serving as cache:
        inputs = StoredInputs(serving.store, cache, serving.runtime.settings)
        with pytest.raises(InputTooLarge, match="CACHE_MAX_INPUT_BYTES"):
            await inputs.put("k", request_of(bytes(11)))
        for key in ("", "a/b", "a b", "x" * 201, "ü"):
            with pytest.raises(UndecodableInput, match="not allowed"):
                await inputs.put(key, request_of(b"1"))
        brief = request_of(b"1", headers=(JSON, (b"cache-control", b"max-age=1")))
        assert await inputs.put("k", brief) == 1
        await asyncio.sleep(1.1)
        with pytest.raises(InputNotFound):
            await inputs.score(ScoringRequest(b"", ((b"x-input-key", b"k"),)))


def test_without_a_cache_a_key_is_refused_by_name(write_script: WriteScript) -> None:
    runtime = build(Settings.from_environ({"AZUREML_ENTRY_SCRIPT": str(write_script(COUNTING))}))
    found = caching(runtime)
    with pytest.raises(UndecodableInput, match=r"CACHE_URL"):
        found.score(ScoringRequest(b"", ((b"x-input-key", b"k"),)))
    assert found.inputs is None
    assert "cache" not in runtime.metrics.parts


async def test_a_store_that_is_away_is_a_miss_for_results_and_said_for_inputs(
    write_script: WriteScript,
) -> None:
    """Within CACHE_TIMEOUT_MS, however often; then the breaker makes it free."""
    with RedisServer() as gone:
        pass
    script = write_script("def init(): pass\ndef run(data): return 1\n")

    serving = Serving(script, gone.url)
    async with serving as cache:
        for number in range(8):
            assert state_of(await cache(request_of(b"%d" % number))) == "miss"
        assert not serving.store.is_open
        began = time.monotonic()
        for number in range(100, 200):
            await cache(request_of(b"%d" % number))
        assert time.monotonic() - began < 2
        assert cache.errors.value >= 108
        inputs = StoredInputs(serving.store, cache, serving.runtime.settings)
        with pytest.raises(StoreAway):
            await inputs.score(ScoringRequest(b"", ((b"x-input-key", b"k"),)))
