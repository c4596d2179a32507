"""The metrics, as Prometheus reads them from whole hosts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parsed_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parsed

from scoring_runtime.telemetry.metrics import METRICS, MODEL_INFO, OUTCOMES, Layout
from tests.conftest import WriteScript
from tests.hosts.functions import FunctionsHost, blob_event, host_of
from tests.hosts.prometheus import promtool
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until
from tests.models_for_tests import ModelHost, saved, sum_estimator

SCRIPT = """
    import os, time
    from scoring_runtime import InputError

    def init():
        pass

    def run(data):
        if data == "refuse":
            raise InputError("not this one")
        if data == "fail":
            raise ValueError("a mistake")
        while data == "wait" and not os.path.exists(os.path.join(os.path.dirname(__file__), "go")):
            time.sleep(0.01)
        return data
"""
Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


def samples(url: str, **headers: str) -> Samples:
    """The samples of one scrape, by name and labels."""
    answer = httpx.get(f"{url}/metrics", headers=headers, timeout=60)
    assert answer.status_code == 200
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in parsed(answer.text)
        for each in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    return sum(
        value
        for (each, said), value in found.items()
        if each == name and labels.items() <= dict(said).items()
    )


def outcomes(found: Samples) -> list[float]:
    return [total(found, "scoring_requests_total", outcome=each) for each in OUTCOMES]


def is_counter(sample: tuple[str, Labels]) -> bool:
    ends = ("_total", "_bucket", "_count", "_sum")
    return sample[0].startswith("scoring_") and sample[0].endswith(ends)


class Load:
    """`with Load(url) as load:` requests from four clients until the end, by what they get."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent = self.broken = 0
        self.statuses: Counter[int] = Counter()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def _ask(self) -> None:
        bodies = [b"a", b"b", b"refuse", b"fail"]
        while not self._ended.is_set():
            with httpx.Client(timeout=60) as client:  # a connection goes to any of the workers
                for body in bodies:
                    with self._lock:
                        self.sent += 1
                    try:
                        status = client.post(f"{self.url}/score", content=body).status_code
                    except httpx.TransportError:
                        with self._lock:
                            self.broken += 1
                    else:
                        with self._lock:
                            self.statuses[status] += 1

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for each in self._threads:
            each.join()


def workers(host: StandaloneHost) -> list[int]:
    path = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
    return [int(each) for each in path.read_text().split()]


def test_two_workers_count_what_clients_sent_at_every_scrape_more_and_a_killed_one_loses_nothing(
    write_script: WriteScript,
) -> None:
    """Counters, sums and buckets; gauges and process_* of the dead worker go."""
    with StandaloneHost(write_script(SCRIPT), "--workers", "2") as host:
        until(lambda: host.log.count("ready for serving traffic") == 2)
        before = samples(host.url)
        with Load(host.url) as load:
            for number in range(30):
                if number == 10:
                    os.kill(workers(host)[0], signal.SIGKILL)
                found = samples_of_any_worker(host.url)
                less = [each for each in before if is_counter(each) and found[each] < before[each]]
                assert less == []
                before = found
            until(lambda: host.log.count("ready for serving traffic") == 3)
        found = samples(host.url)
        # What was under way when it was killed may have been counted, or not.
        answered = sum(load.statuses.values())
        assert set(load.statuses) == {200, 400, 500}
        assert answered <= sum(outcomes(found)) <= load.sent == answered + load.broken
        for outcome, status in (("scored", 200), ("refused", 400), ("failed", 500)):
            counted = total(found, "scoring_requests_total", outcome=outcome)
            assert 0 <= counted - load.statuses[status] <= load.broken
        for name in ("request", "queue", "run"):
            counted = total(found, f"scoring_{name}_seconds_count")
            assert answered <= counted <= load.sent, name
        ids = [dict(each)["worker"] for name, each in found if name == "process_open_fds"]
        assert ids == ["0", "1"]
        # A worker writes down what it has in flight a moment after the last answer.
        until(lambda: total(samples(host.url), "scoring_in_flight") == 0)

        # And without a kill exactly.
        with Load(host.url) as load:
            until(lambda: sum(load.statuses.values()) > 300)
        assert load.broken == 0
        now = samples(host.url)
        assert sum(outcomes(now)) - sum(outcomes(found)) == load.sent
        assert total(now, "scoring_request_seconds_count") == sum(outcomes(now))
        assert host.stop() == 0


def wait_there(url: str) -> None:
    """Until it is answered, or its worker gone."""
    with contextlib.suppress(httpx.TransportError):
        httpx.post(f"{url}/score", content=b"wait", timeout=60)


def samples_of_any_worker(url: str) -> Samples:
    """One that is killed meanwhile does not answer."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            return samples(url)


def test_what_waits_and_what_is_scored_is_seen_also_of_the_other_worker(
    write_script: WriteScript, tmp_path: Path
) -> None:
    with StandaloneHost(write_script(SCRIPT), "--workers", "2") as host, httpx.Client() as client:
        until(lambda: host.log.count("ready for serving traffic") == 2)
        threads = [threading.Thread(target=wait_there, args=(host.url,)) for _ in range(8)]
        for each in threads:
            each.start()
        # Each worker scores one at a time.
        until(lambda: total(samples(host.url), "scoring_in_flight") == 8)
        until(lambda: 6 <= total(samples(host.url), "scoring_queue_depth") <= 7)
        client.get(f"{host.url}/")
        until(lambda: total(samples(host.url), "scoring_connections") >= 10)
        for pid in workers(host):  # and a worker that is gone has none
            os.kill(pid, signal.SIGKILL)
        until(lambda: total(samples_of_any_worker(host.url), "scoring_in_flight") == 0)
        for each in threads:
            each.join()
        (tmp_path / "go").touch()
        assert host.stop() == 0


def test_a_client_makes_no_labels_and_both_formats_say_the_same(write_script: WriteScript) -> None:
    """Whatever model, path or method it names; HELP, TYPE and names by the rules of promtool."""
    with StandaloneHost(write_script(SCRIPT)) as host:
        first = httpx.get(f"{host.url}/metrics").text
        names = {each[0] for each in samples(host.url)}
        for number in range(20):
            httpx.post(f"{host.url}/score/any-{number}", content=b"x")
            httpx.post(f"{host.url}/v2/models/any-{number}/infer", content=b"x")
            httpx.get(f"{host.url}/any-{number}")
        httpx.options(f"{host.url}/score")
        found = samples(host.url)
        assert {each[0] for each in found} == names
        assert len(found) < len(first.splitlines()) * 2
        assert "any-" not in httpx.get(f"{host.url}/metrics").text
        assert outcomes(found) == [0, 40, 0, 0, 0]
        assert httpx.get(f"{host.url}/metrics").headers["content-type"].startswith("text/plain;")
        asked = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
        answer = httpx.get(f"{host.url}/metrics", headers={"accept": asked})
        assert answer.headers["content-type"].startswith("application/openmetrics-text;")
        open_families: Any = parsed_openmetrics(answer.text)  # type: ignore[no-untyped-call]
        open_names = {each.name for family in open_families for each in family.samples}
        assert open_names == names
        checked = subprocess.run(
            [promtool(), "check", "metrics"],
            input=httpx.get(f"{host.url}/metrics").content,
            capture_output=True,
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_refused_connections_are_counted_by_reason(write_script: WriteScript) -> None:
    environ = {"SCORING_IDLE_TIMEOUT_SECONDS": "0.3"}
    with StandaloneHost(write_script(SCRIPT), environ=environ) as host:
        long = b"POST /score HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 9000 + b"\r\n\r\n"
        for sent in (b"no request\r\n\r\n", long, b"POST /score HTTP/1.1\r\nhost: a\r\n"):
            with socket.create_connection(("127.0.0.1", host.port), timeout=60) as client:
                client.sendall(sent)
                while client.recv(4096):
                    pass
        found = samples(host.url)
        reasons = {
            dict(labels)["reason"]: value
            for (name, labels), value in found.items()
            if name == "scoring_connections_refused_total" and value
        }
        assert reasons == {"malformed": 1, "head_too_large": 1, "too_slow": 1}


def test_models_have_their_own_series_their_digest_and_their_batches(tmp_path: Path) -> None:
    folder = saved(tmp_path / "sums", sum_estimator())
    with ModelHost(folder, environ={"SCORING_MAX_BATCH_SIZE": "8"}) as host:
        for body in (b'{"data": [[1, 2]]}', b"[[1, 2], [3, 4]]"):
            assert httpx.post(f"{host.url}/score", content=body).status_code == 200

        def info() -> dict[str, str]:
            named = (dict(each) for name, each in samples(host.url) if name.endswith("model_info"))
            return next(named, {})

        digest = until(info)["sha256"]
        found = samples(host.url)
        name = folder.name
        assert total(found, "scoring_requests_total", model=name, outcome="scored") == 2
        assert total(found, "scoring_batch_size_sum", model=name) == 2
        assert re.fullmatch("[0-9a-f]{64}", digest)


def test_blobs_are_counted_with_their_lag_their_tries_and_their_documents(
    write_script: WriteScript, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    environ = {"BLOB_INPUT_FOLDER": str(folder), "BLOB_MAX_ATTEMPTS": "2"}
    with StandaloneHost(write_script(SCRIPT), environ=environ) as host:
        for name in ("a", "refuse", "fail"):
            (folder / f"{name}.json").write_text(name)
        until(lambda: len(list((tmp_path / "output").glob("*.json"))) == 3)
        found = until(lambda: _with_lags(samples(host.url), 3))
        blob = {"trigger": "blob"}
        counted = [
            total(found, "scoring_requests_total", outcome=each, **blob) for each in OUTCOMES[:3]
        ]
        assert counted == [1, 1, 2]  # a try each
        assert total(found, "scoring_retries_total", **blob) == 1
        assert total(found, "scoring_error_documents_total") == 2
        assert total(found, "scoring_trigger_up", **blob) == 1
        folder.rename(tmp_path / "elsewhere")
        folder.touch()  # no folder any more
        until(lambda: total(samples(host.url), "scoring_trigger_up", **blob) == 0)


def _with_lags(found: Samples, count: int) -> Samples:
    seen = total(found, "scoring_trigger_lag_seconds_count", trigger="blob")
    return found if seen == count else {}


def test_processes_of_one_functions_host_count_together(write_script: WriteScript) -> None:
    """Those that it has started with the same settings; others have files of their own, and the
    counters stay when one of them is killed. The lag of a blob is from its last change."""
    files = f"scoring-metrics-{os.getpid()}-*"
    before = {*Path(tempfile.gettempdir()).glob(files)}  # of hosts that were killed
    script = write_script(SCRIPT)
    settings = {"TriggerConnectionString": "UseDevelopmentStorage=true"}
    changed = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 20))
    with host_of(script, **settings) as first, host_of(script, **settings) as second:
        for host in (first, second, first):
            assert httpx.post(f"{host.url}/score", content=b"a").status_code == 200
        event = blob_event("input/a.json", b"a", LastModified=changed)
        assert second.deliver("score_blob", event).failure == ""
        lone = host_of(script)
        with lone:
            assert outcomes(samples(lone.url)) == [0, 0, 0, 0, 0]
        kill(second)
        found = samples(first.url)
        assert outcomes(found) == [4, 0, 0, 0, 0]
        assert len([name for name, _ in found if name == "process_open_fds"]) == 1
        lag = total(found, "scoring_trigger_lag_seconds_sum")
        assert 19 < lag < 60
    assert {*Path(tempfile.gettempdir()).glob(files)} <= before


def kill(host: FunctionsHost) -> None:
    host.process.kill()
    host.process.wait()


# --- what is declared, and what is made of it -----------------------------------------------------

DEPLOY = Path(__file__).parents[2] / "deploy" / "grafana"


def test_the_names_follow_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/: base units, _total for counters alone."""
    odd = {"scoring_cache_saved_milliseconds_total"}  # a name that was there before
    for each in METRICS:
        assert re.fullmatch("[a-z]+(_[a-z0-9]+)+", each.name)
        assert each.help[0].isalnum() and each.help.endswith(".")
        units = re.search("(milli|micro|minutes|hours|kilo|mega|percent)", each.name)
        assert units is None or each.name in odd
        assert not each.name.endswith(("_count", "_sum", "_bucket", "_info"))
        assert sorted(each.buckets) == list(each.buckets)


def test_each_number_has_a_place_of_its_own() -> None:
    layout = Layout([("a", "1"), ("b", "2")])
    taken = [
        cell for (metric, _), at in layout.places.items() for cell in range(at, at + metric.size)
    ]
    assert sorted(taken) == list(range(min(taken), layout.note))


def test_the_dashboard_and_the_alerts_ask_for_metrics_and_labels_that_exist(
    tmp_path: Path,
) -> None:
    """Each panel has a query; promtool reads the rules, and each query as that of a rule."""
    dashboard = json.loads((DEPLOY / "dashboard.json").read_text())
    panels = [each for each in dashboard["panels"] if each["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) >= len(panels) > 8
    plain = [re.sub(r"\$__rate_interval|\$__range", "5m", each) for each in queries]
    plain = [re.sub(r"\$\w+", "x", each) for each in plain]
    rules = [{"record": f"query:{n}", "expr": each} for n, each in enumerate(plain)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "q", "rules": rules}]}))
    checked = [str(tmp_path / "queries.yml"), str(DEPLOY / "alerts.yml")]
    done = subprocess.run([promtool(), "check", "rules", *checked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alerts = (DEPLOY / "alerts.yml").read_text()
    known = {f"{each.name}{end}" for each in METRICS for end in _ends(each.kind)}
    known.add(MODEL_INFO.name)
    named = set(re.findall(r"\bscoring_\w+", "\n".join([*queries, alerts])))
    assert named - known == set()
    labels = {label for each in (*METRICS, MODEL_INFO) for label in each.labels}
    labels |= {"le", "job", "instance"}
    asked = set(re.findall(r"by \(([^)]*)\)", "\n".join([*queries, alerts])))
    assert {each.strip() for one in asked for each in one.split(",")} - labels - {"worker"} == set()
    used = {each.name for each in METRICS if any(each.name in query for query in queries)}
    assert {each.name for each in METRICS} - used <= {"scoring_cache_bypasses_total"}


def _ends(kind: str) -> tuple[str, ...]:
    return ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)


def test_alerts_fire_when_they_should() -> None:
    """promtool runs the rules on series of samples: deploy/grafana/alerts_test.yml."""
    command = [promtool(), "test", "rules", "alerts_test.yml"]
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
