"""Batches: what waits together is one call, and each input has its own answer or its own error."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring_runtime import InputError, ScoringRequest, Settings, build
from scoring_runtime.errors import NotBegun, RunFailed, RunTimeout, WrongBatchLength
from scoring_runtime.messages import ScoringResponse
from scoring_runtime.scoring.batches import Batches, Outcome
from scoring_runtime.scoring.queue import Scorer
from scoring_runtime.scoring.runtime import Runtime
from scoring_runtime.script.batched import Entered
from scoring_runtime.values.content import UNLIMITED, Limits
from tests.models_for_tests import matmul_onnx, registered, saved, sum_estimator

pytestmark = pytest.mark.anyio
gate = threading.Event()
calls: list[Any] = []


class Doubling:
    """Numbers; some raise, wherever they are."""

    def __init__(self, bad: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.bad, self.calls = bad, list[list[int]]()
        self.began: Callable[[str], object] = lambda _: None
        self.batch = 1000, 0

    def entered(self, request: ScoringRequest) -> Entered:
        if request.body == b"unreadable":
            raise InputError("unreadable")
        number = int(request.body)

        def finish(result: int, run_ms: float) -> ScoringResponse:
            return ScoringResponse(200, b"%d" % result, (), run_ms)

        return Entered(request, number % 1000 // 500, number, finish, 2, 10)

    def together(self, inputs: Sequence[Entered]) -> list[int]:
        self.calls.append([each.given for each in inputs])
        if self.bad.intersection(self.calls[-1]):
            raise ValueError(self.calls[-1])
        return [each.given * 2 for each in inputs]

    def failed(self, error: BaseException, run_ms: float) -> ScoringResponse:
        raise error


def outcomes_of(
    callee: Any, numbers: Sequence[Any], limits: Limits = UNLIMITED, unwanted: Any = ()
) -> list[Any]:
    requests = [ScoringRequest(str(each).encode()) for each in numbers]
    found: dict[int, Outcome] = {}
    for some in Batches(callee, limits)(requests, lambda all: {*all} - {*unwanted}):
        for each in some:
            assert each.place not in found
            found[each.place] = each
    return [found.get(place) for place in range(len(numbers))]


@given(st.integers(1, 300), st.data())
@settings(max_examples=200, deadline=None)
def test_one_bad_input_fails_alone_in_few_calls(count: int, data: st.DataObject) -> None:
    """At most 2·log2(n)+1."""
    bad = data.draw(st.integers(0, count - 1))
    callee = Doubling({bad})
    found = outcomes_of(callee, range(count))
    for place, each in enumerate(found):
        assert (each.error is not None) is (place == bad)
        assert each.error is None or each.error.args == ([bad],)
        assert each.response is None or each.response.body == b"%d" % (place * 2)
    assert len(callee.calls) <= 2 * math.log2(count) + 1


@given(st.lists(st.integers(0, 999), unique=True, max_size=60), st.data())
@settings(max_examples=200, deadline=None)
def test_whichever_are_bad_each_gets_its_own(numbers: list[int], data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.sampled_from(numbers))) if numbers else set()
    callee = Doubling(bad)
    for number, each in zip(numbers, outcomes_of(callee, numbers), strict=True):
        assert (each.error is not None) is (number in bad)
        if number not in bad:
            assert each.response.body == b"%d" % (number * 2)
    assert all(len({n // 500 for n in call}) == 1 for call in callee.calls)  # kinds apart


def test_what_cannot_be_read_or_is_not_wanted_any_more_is_in_no_call() -> None:
    callee = Doubling()
    first, second, third = outcomes_of(callee, [1, "unreadable", 3], unwanted=[2])
    assert first.response.headers == ((b"x-batch-size", b"1"),)
    assert isinstance(second.error, InputError)
    assert third is None
    assert callee.calls == [[1]]


def test_the_limits_count_the_batch() -> None:
    for limits in (Limits(7, 2**62, 2**62), Limits(2**62, 35, 2**62)):
        callee = Doubling()
        outcomes_of(callee, range(8), limits)
        assert callee.calls == [[0, 1, 2], [3, 4, 5], [6, 7]]
    callee = Doubling()
    outcomes_of(callee, range(2), Limits(1, 1, 1))
    assert callee.calls == [[0], [1]]  # what is larger alone was let in


async def test_whatever_happens_in_a_batch_the_thread_goes_on() -> None:
    class Odd(Doubling):
        is_async, is_bound = False, True

        def entered(self, request: ScoringRequest) -> Entered:
            kind: Any = [] if request.body == b"5" else ""  # a list is no key
            return super().entered(request)._replace(kind=kind)

    scorer: Scorer[Any] = Scorer(lambda _: Odd(), batches=lambda odd: Batches(odd, UNLIMITED))
    scorer.start()
    both = await asyncio.gather(
        *(scorer.call(ScoringRequest(b"%d" % n)) for n in (4, 5)), return_exceptions=True
    )
    assert [type(each) for each in both] == [TypeError, TypeError]
    two = await asyncio.gather(*(scorer.call(ScoringRequest(b"%d" % n)) for n in (4, 6)))
    assert [each.body for each in two] == [b"8", b"12"]
    await scorer.stop(20)


# --- through the runtime --------------------------------------------------------------------------

SHARED = "from tests.scoring.test_batches import gate, calls\nfrom scoring_runtime import *\n"
UPPER = """
def init(): pass
@batched(max_size=8{more})
def run(data):
    calls.append(data)
    if "wait" in data: gate.wait(20)
    if "bad" in data: raise InputError("bad")
    if "worse" in data: raise ValueError("worse")
    return [each.upper() for each in data][: -1 if "short" in data else None]
"""


@pytest.fixture(autouse=True)
def shared() -> None:
    gate.clear()
    calls.clear()


@pytest.fixture
async def serving(write_script: Any) -> AsyncIterator[Callable[..., Any]]:
    """``await serving(source, **environ)``: a runtime of a script, or of a model folder."""
    made: list[Runtime] = []

    async def serve(source: str = "", **environ: str) -> Runtime:
        if source:
            environ["AZUREML_ENTRY_SCRIPT"] = str(write_script(SHARED + source))
        made.append(build(Settings.from_environ(environ)))
        made[-1].start()
        await made[-1].started()
        return made[-1]

    yield serve
    gate.set()
    for each in made:
        await each.stop()


async def answers(runtime: Runtime, *bodies: bytes, **request: Any) -> list[Any]:
    """Of requests that wait together: body and size of the batch, or the error."""

    async def one(body: bytes) -> Any:
        try:
            response = await runtime.score(ScoringRequest(body, **request))
        except Exception as error:
            return error
        assert isinstance(response.body, bytes)
        return json.loads(response.body), int(dict(response.headers)[b"x-batch-size"])

    return await asyncio.gather(*map(one, bodies))


async def test_what_waits_together_is_one_call_and_a_lone_request_waits_for_nobody(serving):
    runtime = await serving(UPPER.format(more=""))
    assert await answers(runtime, b"a") == [("A", 1)]
    many = [b"%d" % n for n in range(20)]
    found = await answers(runtime, *many)
    assert [text for text, _ in found] == [each.decode() for each in many]
    assert [size for _, size in found] == [8] * 16 + [4] * 4
    assert [len(each) for each in calls] == [1, 8, 8, 4]


async def test_an_async_run_is_awaited_after_an_init_that_ran_a_loop_of_its_own(serving):
    source = "import asyncio\n" + UPPER.format(more="").replace("def run", "async def run")
    runtime = await serving(source + "def init():\n    asyncio.run(asyncio.sleep(0))\n")
    assert await answers(runtime, b"a", b"b") == [("A", 2), ("B", 2)]


async def test_the_first_waits_for_others_only_when_told_to(serving):
    runtime = await serving(UPPER.format(more=", max_wait_ms=5000"))
    first = asyncio.create_task(answers(runtime, b"a"))
    for n in range(7):
        await asyncio.sleep(0.02)
        assert not first.done()
        others = asyncio.create_task(answers(runtime, b"%d" % n))
    assert await first == [("A", 8)]  # the batch is full
    assert await others == [("6", 8)]


async def test_a_bad_input_gets_its_own_error_and_no_other(serving, caplog):
    runtime = await serving(UPPER.format(more=""))
    found = await answers(runtime, b"a", b"bad", b"b", b"worse", b"c", b"\xff")
    assert [each[0] for each in (found[0], found[2], found[4])] == ["A", "B", "C"]
    assert [type(each) for each in (found[1], found[3])] == [InputError, RunFailed]
    assert "UTF-8" in str(found[5])
    assert caplog.text.count("ValueError: worse") == 1  # its own call's alone


async def test_a_result_of_another_length_is_an_error_that_says_so(serving):
    runtime = await serving(UPPER.format(more=""))
    for error in await answers(runtime, b"short", b"a"):
        assert isinstance(error, WrongBatchLength)
        assert str(error) == (
            "run() is @batched and was given a list of 2; expected is a list as long, got one of 1."
        )
    assert await answers(runtime, b"a") == [("A", 1)]


async def test_deadlines_and_cancellations_hold(serving):
    runtime = await serving(UPPER.format(more=""), SCORING_TIMEOUT_MS="300")
    waiting = asyncio.create_task(answers(runtime, b"wait", b"a"))
    while not calls:
        await asyncio.sleep(0.005)
    leaving = asyncio.create_task(answers(runtime, b"leaving"))
    late = asyncio.create_task(answers(runtime, b"late"))
    await asyncio.sleep(0.01)
    leaving.cancel()
    assert [type(each) for each in await waiting] == [RunTimeout, RunTimeout]
    assert [type(each) for each in await late] == [NotBegun]
    assert runtime.state.value == "Unhealthy"
    gate.set()
    assert await answers(runtime, b"b") == [("B", 1)]
    assert calls == [["wait", "a"], ["b"]]
    assert runtime.state.value == "Healthy"


ARRAY = """
import numpy as np
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): pass
@input_schema("x", NumpyParameterType(np.array([[1.0, 2.0]])))
@input_schema("name", StandardPythonParameterType("n"))
@batched
def run(x, name):
    calls.append([type(x), type(name), len(x)])
    return [{n: each.sum()} for each, n in zip(x, name)]
"""
RAW = "def init(): pass\n@rawhttp\n@batched\ndef run(requests): return [r.method for r in requests]"
ASYNC = """
import asyncio
async def init():
    global lock
    lock = asyncio.Lock()
@batched(max_size=4)
async def run(data, request_headers):
    async with lock:
        await asyncio.sleep(0)
    return [[a, b.get("X-A")] for a, b in zip(data, request_headers)]
"""


async def test_with_a_schema_each_parameter_is_a_list_of_what_it_would_have_been(serving):
    runtime = await serving(ARRAY)
    headers = ((b"content-type", b"application/json"),)
    bodies = [b'{"x": [[%d, 1]], "name": "n%d"}' % (n, n) for n in range(3)]
    found = await answers(runtime, *bodies, b'{"x": [[1]], "name": "bad"}', headers=headers)
    assert found[:3] == [({"n0": 1.0}, 3), ({"n1": 2.0}, 3), ({"n2": 3.0}, 3)]
    assert isinstance(found[3], InputError)
    assert "'x'" in str(found[3])
    assert calls == [[list, list, 3]]
    document = json.loads(runtime.documents.get("2"))
    assert sorted(document["definitions"]["ServiceInput"]["properties"]) == ["name", "x"]


async def test_raw_and_async_scripts_are_batched_too(serving):
    assert await answers(await serving(RAW), b"", b"") == [("POST", 2)] * 2
    found = await answers(await serving(ASYNC), b"1", b"2", headers=((b"x-a", b"h"),))
    assert found == [(["1", "h"], 2), (["2", "h"], 2)]


def test_called_by_others_a_batched_function_is_itself() -> None:
    from scoring_runtime import batched

    @batched(max_size=2)
    def run(data: list[str]) -> list[str]:
        return [each.upper() for each in data]

    assert run(["a", "b", "c"]) == ["A", "B", "C"]


@pytest.mark.parametrize(
    "decorator", ["@batched(max_size=0)", "@batched(max_wait_ms=-1)", "@batched(max_size=1.5)"]
)
async def test_sizes_that_cannot_be_are_refused_at_the_start(serving, decorator):
    with pytest.raises(Exception, match="Importing the entry script") as caught:
        await serving(f"def init(): pass\n{decorator}\ndef run(data): return data")
    assert "is not allowed. Allowed: a whole number from 1" in str(caught.value.__cause__)


async def test_above_input_schema_it_is_refused_at_the_start(serving):
    source = ARRAY.replace("@batched\n", "").replace("@input", "@batched\n@input", 1)
    with pytest.raises(Exception, match="Importing the entry script") as caught:
        await serving(source)
    assert "below @input_schema" in str(caught.value.__cause__)


# --- models without a script ----------------------------------------------------------------------


async def test_rows_of_several_requests_are_joined_and_split(serving, tmp_path):
    """Whatever their formats: each its own answer, in its own."""
    folder = registered(tmp_path / "m", {"iris/1": sum_estimator()}) / "iris" / "1"
    runtime = await serving(AZUREML_MODEL_DIR=str(folder), SCORING_MAX_BATCH_SIZE="64")
    bodies = [b'{"data": [[%d, 1]%s]}' % (n, b", [0, 1]" * (n % 3)) for n in range(30)]
    found = await answers(runtime, *bodies, b'{"data": [["x", 1]]}', b"[[1, 2, 3]]")
    for n, (values, size) in enumerate(found[:30]):
        assert values == pytest.approx([n + 2, *[2] * (n % 3)])
        assert size == 30
    assert [type(each).__name__ for each in found[30:]] == ["SchemaMismatch"] * 2
    csv = ((b"content-type", b"text/csv"), (b"accept", b"text/csv"))
    requests = (
        ScoringRequest(b"1,1\n2,1\n", csv),
        ScoringRequest(b"[[3, 1]]"),
        ScoringRequest(b"[[4, 1]]", query=b"method=none"),
    )
    found = await asyncio.gather(*map(runtime.score, requests), return_exceptions=True)
    table, plain, refused = found
    assert isinstance(table, ScoringResponse)
    assert isinstance(table.body, bytes)
    name, *numbers = table.body.split()
    assert name == b"predict"
    assert [float(each) for each in numbers] == pytest.approx([3, 4])
    assert isinstance(plain, ScoringResponse)
    sizes = [dict(each.headers)[b"x-batch-size"] for each in (table, plain)]
    assert sizes == [b"2", b"2"]
    assert "no method" in str(refused)


@pytest.mark.parametrize(("rows", "size"), [("n", 3), (1, 1)], ids=["free", "fixed"])
async def test_onnx_is_batched_where_its_first_dimension_is_free(
    serving, tmp_path, caplog, rows, size
):
    folder = saved(tmp_path / "m", matmul_onnx(rows=rows))
    runtime = await serving(AZUREML_MODEL_DIR=str(folder), SCORING_MAX_BATCH_SIZE="64")
    requests = [ScoringRequest(b"[[%d, 0, 0]]" % n) for n in range(3)]
    found = await asyncio.gather(*map(runtime.score, requests))
    assert [json.loads(each.body)[0][0] for each in found] == pytest.approx([0, 0.1, 0.2])
    sizes = [dict(each.headers).get(b"x-batch-size") for each in found]
    assert sizes == ([b"3"] * 3 if size == 3 else [None] * 3)
    assert ("m is not batched" in caplog.text) is (size == 1)


@pytest.mark.filterwarnings("ignore")  # mlflow's own
async def test_tables_of_mlflow_are_batched(serving, tmp_path):
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature

    signature = infer_signature(pd.DataFrame({"a": [1.0], "b": [0.5]}), np.array([1.0]))
    folder, packages = str(tmp_path / "m"), ["mlflow"]
    mlflow.sklearn.save_model(
        sum_estimator(), folder, signature=signature, pip_requirements=packages
    )
    runtime = await serving(AZUREML_MODEL_DIR=folder, SCORING_MAX_BATCH_SIZE="64")
    bodies = [b'{"dataframe_records": [{"a": %d.5, "b": 1.5}]}' % n for n in range(5)]
    *found, refused = await answers(runtime, *bodies, b'{"dataframe_records": [{"a": 1.5}]}')
    assert [size for _, size in found] == [5] * 5
    assert [each["predictions"][0] for each, _ in found] == pytest.approx(
        [n + 3.5 for n in range(5)]
    )
    assert "missing inputs ['b']" in str(refused)


async def test_without_the_setting_nothing_is_batched(serving, tmp_path):
    folder = saved(tmp_path / "m", sum_estimator())
    runtime = await serving(AZUREML_MODEL_DIR=str(folder))
    response = await runtime.score(ScoringRequest(b"[[1, 2]]"))
    assert b"x-batch-size" not in dict(response.headers)


async def test_a_script_without_the_decorator_is_told_so(serving, caplog):
    runtime = await serving(
        "def init(): pass\ndef run(data): return 1\n", SCORING_MAX_BATCH_SIZE="8"
    )
    assert (await runtime.score(ScoringRequest(b"x"))).status == 200
    assert "a run() that takes several inputs at once says so with @batched." in caplog.text
