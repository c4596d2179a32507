"""The benchmarks: what wrk says is read right, and a point of ours is measured for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine, must, scale, servers, wrk
from docs_parts import speed

SAID = """
Running 2s test @ http://127.0.0.1:5001/score
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.95ms    3.37ms   1.20s    98.89%
    Req/Sec    11.23k     1.20k   12.51k    75.00%
  Latency Distribution
     50%  750.00us
     75%    6.08ms
     90%    6.65ms
     99%    1.12s 
  20000 requests in 2.00s, 4.19MB read
{errors}Requests/sec:  10000.00
Transfer/sec:      2.08MB
"""


@pytest.mark.parametrize(
    ("errors", "rate", "failed"),
    [
        ("", 10_000, 0),
        ("  Non-2xx or 3xx responses: 5000\n", 7_500, 5_000),
        ("  Socket errors: connect 0, read 1, write 0, timeout 2\n", 10_000, 3),
    ],
)
def test_what_failed_is_no_request_per_second(errors: str, rate: float, failed: int) -> None:
    found = wrk.parsed(SAID.format(errors=errors))
    assert found == {"rate": rate, "errors": failed, "p50_ms": 0.75, "p99_ms": 1120.0}


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (must.Row("", 1.0, 1), True),
        (must.Row("", 0.99, 1), False),
        (must.Row("", 1.01, 1, is_most=True), False),
        (must.Row("", 0.95, 0.97, noise=0.03), True),
    ],
)
def test_a_row_holds_up_to_its_bound_and_its_noise(row: must.Row, holds: bool) -> None:
    assert row.holds is holds


def test_the_page_names_a_peer_that_is_ahead_and_why() -> None:
    """By more than 5 %."""
    each = {
        "load": "onnx, 1 row",
        "servers": {
            name: {"connections": {"1": {"rate": rate}}}
            for name, rate in {
                "script": 100.0,
                "MLServer": 104.0,
                "bare uvicorn app": 106.0,
            }.items()
        },
    }
    [line] = speed._ahead(each, "1")
    assert line.startswith("- ONNX, 1 row, 1 connection: bare uvicorn app 106/s, ")
    assert speed.AHEAD["bare uvicorn app"] in line


def test_a_server_is_started_asked_and_ended(tmp_path: Path) -> None:
    """Without wrk, which not every machine has."""
    load = servers.LOADS["linear-1"]
    with servers.running(servers.SCRIPT, load, tmp_path / "models", tmp_path / "room") as each:
        assert 0 < each.first_answer_s < 60
        found = machine.memory_mb(each.pid)
        assert 10 < found["pss_mb"] <= found["rss_mb"]
    assert not Path(f"/proc/{each.pid}").exists()


TRIGGER = scale.Trigger(100, (1, 2), 1000, 1, 0.5, "a queue", 150)


def test_a_fleet_keeps_up_with_what_comes_steadily() -> None:
    """At 70 % of what the instances can, nobody waits; what is around it costs beside them."""
    found = scale.simulated(TRIGGER, 700, scale.steady, 3600)
    assert found["instances_most"] == 10
    assert (found["p50_ms"], found["p99_ms"]) == (1, 2)
    hourly = 10 * 3600 * scale.INSTANCE_SECOND
    assert found["dollars"] == pytest.approx(0.5 + hourly / (700 * 3600) * 1e6, rel=0.02)
    assert found["places"] == 5


@pytest.mark.parametrize("target", [0, 1000])
def test_a_burst_is_waited_for_and_brings_instances_that_go_again(target: int) -> None:
    fleet = scale.Fleet(TRIGGER._replace(target=target), 700, scale.bursts)
    fleet.run(2 * 7200 + 3600)
    assert max(fleet.counts[7200:9000]) > 2 * fleet.counts[7199]
    assert max(fleet.counts) <= 43  # what the peak needs
    assert fleet.counts[-1] == fleet.counts[7199]
    assert fleet.waiting < 1
    slow = [wait for wait, _ in fleet.waits if wait > scale.START_SECONDS]
    assert 0 < len(slow) < 600


@pytest.mark.parametrize("name", sorted(scale.PATTERNS))
def test_the_mean_of_a_day_is_one(name: str) -> None:
    shape = scale.PATTERNS[name]
    assert sum(map(shape, range(86_400))) / 86_400 == pytest.approx(1, rel=0.001)
