"""The page and /status on plain data; in a real browser see test_page_in_browser.py."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from scoring_runtime import Settings, build
from scoring_runtime.http.endpoint import create
from scoring_runtime.http.messages import HttpRequest, Reply
from scoring_runtime.settings.settings import setting_fields
from scoring_runtime.telemetry.metrics import Metrics
from scoring_runtime.telemetry.pages import Pages
from scoring_runtime.telemetry.recent import FIELDS, KEPT, Recent
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

pytestmark = pytest.mark.anyio
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
SCRIPT = """
def init(): pass
def run(data):
    if data == "bad": raise ValueError("what was sent: bad")
    return data
"""
DOCS = Path(__file__).parents[2] / "docs" / "http.md"
Ask = Callable[..., Any]


@pytest.fixture
async def serving(write_script: Any) -> AsyncIterator[Ask]:
    """``await serving(**environ)``: what asks a started service, and gives its reply."""
    runtimes = []

    async def serve(source: str = SCRIPT, **environ: str) -> Ask:
        script: Path = write_script(source)
        said = {"AZUREML_ENTRY_SCRIPT": str(script), "AML_APP_ROOT": str(script.parent)}
        runtime = build(Settings.from_environ({**said, **environ}))
        endpoint, handle = create(runtime)
        runtime.start()
        await runtime.settled()
        runtimes.append((runtime, endpoint))

        async def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
            lines = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
            path, _, query = path.partition("?")
            return await handle(HttpRequest(method, path, query.encode(), lines, body))

        return ask

    yield serve
    for runtime, endpoint in runtimes:
        await runtime.stop(20)
        endpoint.flush_log()


async def status_of(ask: Ask, query: str = "") -> Any:
    reply = await ask("GET", f"/status{query}")
    assert reply.status == 200
    return json.loads(reply.body)


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/json", False),
        ("text/*", False),
        ("text/html, */*", False),
        ("text/html;q=0.5, */*;q=0.8", False),
        ("text/html;q=0", False),
        ("text/html", True),
        (CHROME, True),
        (JAVA, True),
    ],
)
async def test_the_root_is_a_page_for_who_prefers_html(
    accept: str, is_page: bool, serving: Ask
) -> None:
    ask = await serving()
    reply = await ask("GET", "/", **({"accept": accept} if accept else {}))
    assert reply.status == 200
    assert (reply.body == b"Healthy") is not is_page
    assert reply.body.startswith(b"<!doctype html>") is is_page
    kind = dict(reply.headers)[b"content-type"]
    assert kind == b"text/html; charset=utf-8"  # that of Healthy too, as it always was


async def test_the_status_of_the_page_is_that_of_health(serving: Ask) -> None:
    """Some probes take what a browser takes."""
    ask = await serving("def init(): raise OSError('no model')\ndef run(data): return data")
    reply = await ask("GET", "/", accept=CHROME)
    assert (reply.status, reply.body[:15]) == (503, b"<!doctype html>")
    found = await status_of(ask)
    assert (found["state"], found["ready"]) == ("Failed", False)
    assert found["error"].endswith("Cause: OSError: no model")


async def test_the_page_is_small_and_its_policy_allows_its_own_parts_only(serving: Ask) -> None:
    ask = await serving()
    plain = await ask("GET", "/docs")
    zipped = await ask("GET", "/docs", accept_encoding="gzip, br")
    assert gzip.decompress(zipped.body) == plain.body
    assert len(zipped.body) < 30_000
    policy = dict(plain.headers)[b"content-security-policy"].decode()
    text = plain.body.decode()
    for tag in ("script", "style"):
        [part] = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    hosts = set(re.findall(r"https?://([^/\"'`$]+)", text))
    assert hosts == {"www.w3.org", "servicebus.azure.net", "NAMESPACE.servicebus.windows.net"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


async def test_without_pages_there_is_neither_page_nor_status(serving: Ask) -> None:
    ask = await serving(SCORING_PAGES="false")
    assert (await ask("GET", "/", accept=CHROME)).body == b"Healthy"
    for path in ("/docs", "/status"):
        assert (await ask("GET", path)).status == 404
    assert (await ask("POST", "/score", b"x")).status == 200
    document = json.loads((await ask("GET", "/swagger.json")).body)
    assert "/status" not in document["paths"]


# --- the status -----------------------------------------------------------------------------------


async def test_an_input_is_found_by_its_id_with_what_became_of_it(serving: Ask) -> None:
    ask = await serving()
    await ask("POST", "/score?code=hidden", b"good", x_request_id="the-good")
    await ask("POST", "/score/model", b"bad", x_request_id="the-bad")
    found = await status_of(ask)
    [http] = found["triggers"]
    assert [each["request_id"] for each in http["last"]] == ["the-bad", "the-good"]
    [failed] = http["last_failed"]
    assert failed == http["last"][0] == found["models"][0]["last_error"]
    said = (failed["what"], failed["outcome"], failed["status"], failed["model"])
    assert said == ("/score/model", "failed", 500, "model")
    good = http["last"][1]
    assert good["what"] == "/score"
    assert good["queue_milliseconds"] + good["run_milliseconds"] <= good["milliseconds"]
    assert http["counted"]["scored"] == http["counted"]["failed"] == 1
    assert "what was sent" not in json.dumps(found)
    for _ in range(2 * KEPT):
        await ask("POST", "/score", b"good")
    [http] = (await status_of(ask))["triggers"]
    assert len(http["last"]) == KEPT
    assert http["last_failed"] == [failed]


async def test_every_field_is_documented(serving: Ask) -> None:
    ask = await serving()
    await ask("POST", "/score", b"bad")
    found = await status_of(ask)
    start = DOCS.read_text(encoding="utf-8").partition("`GET /status` is for scripts")[2]
    rows = start.partition("## ")[0].splitlines()[2:]
    documented = set(re.findall(r"`([a-z_0-9]+)`", "\n".join(rows)))
    [http], [model] = found["triggers"], found["models"]
    there = {*found, *http, *model, *found["limits"][0], *found["settings"][0], *FIELDS}
    there |= {*found["workers"][0], *found["history"]}
    # Those of triggers that are off, the two that others' names are, and a metric.
    only_there = {"retries", "dead_letters", "error_documents"}
    # Those of changes, where the model can be changed; the last one is described elsewhere.
    only_there |= {"reload", "switched", "refused"}
    assert documented - {"scoring_requests_total"} == there | only_there


async def test_no_secret_is_in_the_page_or_in_the_status(serving: Ask) -> None:
    """Planted wherever a setting, or a connection, holds one."""
    secrets = {
        "CACHE_URL": "redis://user:planted-1@127.0.0.1:1/0",
        "REDIS_PASSWORD": "planted-2",
        "AML_APP_INSIGHTS_KEY": "01234567-89ab-cdef-0123-a0a0a0a0a0a3",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey="
        "01234567-89ab-cdef-0123-a0a0a0a0a0a3;IngestionEndpoint=http://127.0.0.1:1/",
        "TriggerConnectionString": "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=n;"
        "SharedAccessKey=planted-4planted-4planted-4planted-4planted=",
        "SOME_TOKEN": "planted-5",
        "SCORING_KEYS": "app:planted-6-planted-6",
        "SCORING_ADMIN_KEYS": "ops:planted-7-planted-7",
    }
    marked = {each.metadata["name"] for each in setting_fields() if each.metadata["secret"]}
    assert marked <= secrets.keys(), "a secret setting that this test does not plant"
    ask = await serving(SCORING_TRIGGERS="http", **secrets)
    key = {"x_functions_key": "planted-7-planted-7"}
    status = (await ask("GET", "/status", **key)).body
    text = (await ask("GET", "/docs", **key)).body + status
    assert b"planted" not in text
    assert b"a0a0a0a0a0a3" not in text
    shown = {each["name"]: each for each in json.loads(status)["settings"]}
    assert all(shown[name]["value"] == "***" for name in marked)
    assert shown["CACHE_URL"]["source"] == "environment"


async def test_the_history_is_counted_on_from_a_moment(serving: Ask) -> None:
    ask = await serving()
    await ask("POST", "/score", b"good")
    history = (await status_of(ask))["history"]
    [row] = history["rows"]
    values = dict(zip(history["columns"], row, strict=True))
    assert values["scored"] == values["queued"] == values["run"] == 1
    assert sum(value for name, value in values.items() if name.startswith("within_")) == 1
    assert values["memory_bytes"] > 10_000_000
    for since in (str(row[0]), "1e999", "-1", "x"):
        there = (await status_of(ask, f"?since={since}"))["history"]["rows"]
        assert there == ([] if since == str(row[0]) else [row])


# --- several workers ------------------------------------------------------------------------------


def test_each_worker_tells_the_inputs_of_all(write_script: Any) -> None:
    with StandaloneHost(write_script(SCRIPT), "--workers", "2") as host:
        for number in range(KEPT):  # each on a connection of its own
            httpx.post(f"{host.url}/score", content=b"x", headers={"x-request-id": f"id-{number}"})

        def told() -> Any:
            found = httpx.get(f"{host.url}/status").json()
            return found, {each["request_id"] for each in found["triggers"][0]["last"]}

        wanted = {f"id-{number}" for number in range(KEPT)}
        until(lambda: all(told()[1] == wanted for _ in range(4)))
        until(lambda: len({each["process"] for each in told()[0]["workers"]}) == 2)
        found, _ = told()
    assert found["triggers"][0]["counted"]["scored"] == KEPT


def test_who_takes_the_page_of_a_dead_worker_goes_on_with_its_inputs() -> None:
    models = [("iris", "1")]
    cells = Metrics(models, models[0], ["http"]).layout.cells
    pages = Pages.of_children(1, cells)
    from scoring_runtime.messages import Progress

    progress = Progress()
    for number in range(3):
        metrics = Metrics(models, models[0], ["http"], pages=pages)
        recent = Recent(metrics)
        long = "ü" * 5000  # what a client can make long
        progress.received, progress.model = 1.0, long
        recent.of("http").add(long, 500, 2, 0.1, -1, progress, f"{number}{long}")
        for trigger in ("blob", "service_bus"):
            for _ in range(KEPT):
                recent.of(trigger).add(long, 500, 2, 0.1, -1, progress, long)
        metrics.publish()
    [(_, note)] = recent.notes()
    kept = [each[FIELDS.index("request_id")][0] for each in note["triggers"]["http"]["last"]]
    assert kept == ["0", "1", "2"][-len(kept) :]
    assert kept
