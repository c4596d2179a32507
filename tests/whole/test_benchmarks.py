"""The benchmarks: what wrk says is read right, and a point of ours is measured for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine, must, servers, wrk
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
