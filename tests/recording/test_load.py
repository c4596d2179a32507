"""A thousand requests a second are kept, each answer as it is without."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx
import pytest

from tests.cli.test_main import run_in
from tests.conftest import WriteScript
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

CLIENTS, RATE = 16, 1000
SCRIPT = """
    import json
    def init(): pass
    def run(data):
        value = json.loads(data)
        return {"sum": sum(value["data"]), "number": value["number"]}
"""


def body_of(number: int) -> bytes:
    return json.dumps(
        {"number": number, "data": [number / 8] * 64, "api_key": f"hunter2-{number}"}
        if number % 10 == 0
        else {"number": number, "data": [number / 8] * 64}
    ).encode()


async def _client(port: int, numbers: range, began: float, answers: dict[int, bytes]) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        await asyncio.sleep(began + number / RATE - loop.time())
        body = body_of(number)
        head = b"POST /score?code=hunter2 HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        key = b"authorization: Bearer hunter2hunter2\r\n"
        writer.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, key, len(body), body))
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        length = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
        answers[number] = await reader.readexactly(length)
    writer.close()


async def _load(port: int, count: int) -> tuple[float, dict[int, bytes]]:
    """Requests a second that were answered, and the answers."""
    answers: dict[int, bytes] = {}
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.1
    clients = (
        _client(port, range(first, count, CLIENTS), began, answers) for first in range(CLIENTS)
    )
    await asyncio.gather(*clients)
    return count / (loop.time() - began), answers


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)], ids=str)
def test_a_thousand_requests_a_second_are_kept(
    count: int, write_script: WriteScript, tmp_path: Path
) -> None:
    """None is dropped, no answer is another, and replay finds no difference."""
    script, folder = write_script(SCRIPT), tmp_path / "records"
    with (
        StandaloneHost(script) as plain,
        StandaloneHost(script, environ={"SCORING_RECORD": str(folder)}) as recording,
    ):
        for host in (plain, recording):
            asyncio.run(_load(host.port, CLIENTS))
        without, expected = asyncio.run(_load(plain.port, count))
        with_it, answers = asyncio.run(_load(recording.port, count))
        shown = f"\nscoring_records_total {count + CLIENTS}.0"
        until(lambda: shown in httpx.get(f"{recording.url}/metrics").text)
    print(f"{without:.0f} a second without, {with_it:.0f} with", file=sys.stderr)
    assert answers == expected
    assert with_it >= 0.9 * without
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"hunter2" not in everything
    done = run_in(tmp_path, "replay", "records", "--entry-script", script, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    hidden = {"something in a body is hidden": count // 10 + len(range(0, CLIENTS, 10))}
    assert report["skipped"] == hidden
    assert report["same"] == count + CLIENTS - hidden["something in a body is hidden"]
    assert report["largest_difference"] == 0
