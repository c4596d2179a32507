"""Batches over whole hosts: all triggers share them, and none gets another's answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import httpx
import pytest

from tests.hosts.azurite import Azurite
from tests.hosts.waiting import until
from tests.hosts.ways import Ways
from tests.models_for_tests import ModelHost, functions_model_host, saved, sum_estimator

JSON = "application/json"
ENVIRON = {"SCORING_MAX_BATCH_SIZE": "64", "SCORING_MAX_BATCH_DELAY_MS": "30"}


@pytest.fixture(scope="module")
def ways(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    folder = saved(tmp_path_factory.mktemp("batches") / "sum", sum_estimator())
    with Ways(
        azurite,
        lambda environ: ModelHost(folder, environ={**environ, **ENVIRON}),
        lambda environ: functions_model_host(folder, **environ, **ENVIRON),
    ) as made:
        yield made


def rows_of(number: int) -> list[list[Any]]:
    """One to five rows of its own; where the number ends in 99 the last cannot be read, or, in
    turn, it makes a call raise."""
    rows: list[list[Any]] = [[number, place] for place in range(1 + number % 5)]
    bad = "text" if number % 200 == 99 else None
    return [*rows[:-1], [bad, 1]] if number % 100 == 99 else rows


def check(number: int, document: Any) -> None:
    """It is the answer of these rows."""
    if number % 100 == 99:
        what = "is text" if number % 200 == 99 else "The first value that is missing is at"
        assert what in document["message"]
        assert f"[{number % 5}][0]" in document["message"]
    else:
        expected = [row[0] + 2 * row[1] for row in rows_of(number)]
        assert document == pytest.approx(expected)


def ask(client: httpx.Client, url: str, number: int) -> int:
    """The size of the batch, once the answer has been looked at."""
    answer = client.post(f"{url}/score", json={"data": rows_of(number)})
    assert answer.status_code == (400 if number % 100 == 99 else 200)
    check(number, answer.json())
    return int(answer.headers.get("x-batch-size", 0))


def all_of(url: str, count: int) -> list[int]:
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda number: ask(client, url, number), range(count)))


def test_http_blobs_and_messages_share_batches_and_each_has_its_own_answer(ways: Ways) -> None:
    numbers = range(97, 100)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:  # with descriptors of its own
        asked = process.submit(all_of, ways.standalone.url, 1000)
        for number in numbers:
            content = json.dumps(rows_of(number)).encode()
            kind, document = ways.blob(f"b{number}", content, {})
            assert kind == ("error" if number == 99 else "out")
            check(number, json.loads(document))
            check(number, json.loads(ways.message(content, {})[0].body))
        sizes = asked.result()
    assert max(sizes) > 8


@pytest.mark.long
def test_of_20_000_inputs_each_has_its_own_answer(ways: Ways) -> None:
    blobs, messages = range(20_000, 21_000), range(21_000, 22_000)
    container = ways.storage.get_container_client(ways.input)
    with ProcessPoolExecutor(1, get_context("spawn")) as process, ThreadPoolExecutor(8) as pool:
        asked = process.submit(all_of, ways.standalone.url, 18_000)
        for number in messages:
            content = json.dumps(rows_of(number)).encode()
            ways.broker.send("input", content, message_id=f"{number}", content_type=JSON)
        list(pool.map(lambda n: container.upload_blob(f"{n}.json", json.dumps(rows_of(n))), blobs))
        for number in blobs:
            kind, document = until(ways.document, f"{number}", seconds=300)
            assert kind == ("error" if number % 100 == 99 else "out")
            check(number, json.loads(document))
        left = {*messages}
        ways.broker.wait_for(lambda: ways.broker.counts("input")[:2] == (0, 0), 300)
        for reply in ways.broker.take_all("output"):
            left.remove(number := int(reply.correlation_id))
            check(number, json.loads(reply.body))
        assert left == set()
        assert max(asked.result()) > 8


def test_functions_batches_too(ways: Ways) -> None:
    assert max(all_of(ways.functions.url, 300)) > 4
