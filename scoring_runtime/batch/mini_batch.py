"""Entry scripts of Azure ML's batch endpoints and of ParallelRunStep: ``run(mini_batch)``.

``mini_batch`` is a list of paths, or a pandas DataFrame of the rows of a table; what ``run()``
returns is a list, an array or a DataFrame with an element for each input that went well.
Sources: https://learn.microsoft.com/azure/machine-learning/how-to-batch-scoring-script and
https://learn.microsoft.com/python/api/azureml-pipeline-steps/azureml.pipeline.steps.parallelrunconfig
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from ..errors import ConfigurationError, WrongBatchLength
from ..messages import Score, ScoringRequest, ScoringResponse
from ..scoring.runtime import Runtime, started
from ..script import entry_script
from ..script.call import JSON_HEADERS, Invocation
from ..script.entry_script import EntryScript
from ..settings.settings import Settings
from ..triggers.outcomes import Outcome, Scoring, Verdict
from .parts import Missing, Parts, missing
from .plan import LINES, PARQUET

OUTPUT = {"append_row": "parallel_run_step.txt", "summary_only": "parallel_run_step.summary.json"}
"""The file that says that all is done, by output action; ``append_row`` has the results in it."""
_SIZE = re.compile(r"\s*(\d+)\s*(kb|mb|gb)?\s*", re.IGNORECASE)
_UNITS = {"": 0, "kb": 1024, "mb": 1024**2, "gb": 1024**3}


def takes_mini_batches(script: Path | None) -> bool:
    """Whether the parameter of a script's ``run()`` is called so; nothing is imported."""
    try:
        body = ast.parse(script.read_bytes()).body if script is not None else []
    except (OSError, ValueError, SyntaxError):
        return False  # importing it says why
    return any(
        isinstance(each, ast.FunctionDef) and each.name == "run" and each.args.args[:1]
        and each.args.args[0].arg == "mini_batch"
        for each in body
    )  # fmt: skip


def size_of(text: str) -> tuple[int, int]:
    """``mini_batch_size`` as files and bytes, one of them 0: ``10``, ``1kb``, ``1MB``.

    Raises:
        ConfigurationError: it is neither.
    """
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise ConfigurationError(
            f"--mini-batch-size has the value {text[:50]!r}, which is not allowed. Allowed: a "
            "number of files, as in 10, or a size of rows of a table, as in 100kb or 1mb."
        )
    number, unit = int(found[1]), (found[2] or "").lower()
    return (0, number * _UNITS[unit]) if unit else (number, 0)


def load(settings: Settings, runner: asyncio.Runner, model: tuple[str, str]) -> Invocation:
    """Import the entry script and run its ``init()``; raises as :func:`.runtime.load`."""
    return MiniBatchInvocation(started(settings, runner, _script), settings, model)


def _script(settings: Settings) -> EntryScript:
    module = entry_script.imported(settings)
    path = Path(str(module.__file__))
    script = EntryScript(path, module.init, module.run, "mini_batch", lambda _: {}, False)
    shutdown = getattr(module, "shutdown", None)
    if callable(shutdown):
        _SHUTDOWNS.append(shutdown)
    return script


_SHUTDOWNS: list[Callable[[], Any]] = []


def shut_down(_: Any) -> None:
    """Call the script's ``shutdown()``, if it has one, in the scoring thread."""
    while _SHUTDOWNS:
        _SHUTDOWNS.pop()()


class MiniBatchInvocation(Invocation):
    """Calls ``run(mini_batch)``; the answer is the text of its results, and how many they are."""

    def __init__(self, script: EntryScript, settings: Settings, model: tuple[str, str]) -> None:
        super().__init__(script, settings, model)
        self.is_async = False  # awaited here

    def __call__(self, request: ScoringRequest) -> ScoringResponse:
        self.began(request)
        if request.enter is not None:
            request.enter()
        batch = _given(request)
        begun = perf_counter()
        try:
            result = self.script.run(batch)
            if inspect.isawaitable(result):
                result = asyncio.get_event_loop().run_until_complete(result)
        except BaseException as error:
            return self._raised(error, begun)
        body = orjson.dumps(_text(result))
        return ScoringResponse(200, body, JSON_HEADERS, (perf_counter() - begun) * 1000)


class MiniBatchScoring(Scoring):
    """Scores mini batches; inputs for which ``run()`` returned nothing have failed."""

    def __init__(self, runtime: Runtime, score: Score, parts: Parts, *, appends: bool) -> None:
        super().__init__(runtime, "blob", score, access_log=False)
        self._parts, self._appends = parts, appends

    async def __call__(self, request: ScoringRequest, what: str) -> Outcome:
        """One try; raises NotServing: not now."""
        part = self._parts.parts[what.partition("/")[2]]
        outcome = await super().__call__(request, what)
        if outcome.verdict is not Verdict.SCORED:
            self._parts.missing[part.name] = [missing(part.first, part.rows, outcome)]
            return outcome
        text, count = orjson.loads(outcome.body)
        if lost := max(0, part.rows - count):
            said = f"run() returned {count} results for the {part.rows} inputs of a mini batch."
            self._parts.missing[part.name] = [Missing(part.first, lost, 500, "NotReturned", said)]
        return outcome._replace(body=text.encode() if self._appends else b"")


def _given(request: ScoringRequest) -> Any:
    kind = request.header(b"content-type")
    if kind == b"application/json":
        return request.body.decode("utf-8", "surrogateescape").split("\0")
    import pandas as pd

    body = io.BytesIO(request.body)
    if kind.startswith(PARQUET.encode()):
        return pd.read_parquet(body)
    if kind.startswith(LINES.encode()):
        # As they are written: pandas.read_json makes numbers and dates of texts, and rounds.
        lines = request.body.decode("utf-8-sig").split("\n")
        return pd.DataFrame([json.loads(each) for each in lines if each.strip()])
    return pd.read_csv(body, header=None if b"header=absent" in kind else 0)


def _text(result: Any) -> tuple[str, int]:
    """A line for each element; of a DataFrame the values of a row, separated by blanks."""
    if hasattr(result, "to_csv") and hasattr(result, "columns"):
        return result.to_csv(sep=" ", header=False, index=False), len(result)
    if isinstance(result, str | bytes | dict) or not hasattr(result, "__iter__"):
        raise WrongBatchLength(
            f"run() of a mini batch has to return a list, an array or a DataFrame with an element "
            f"for each input; it returned {type(result).__name__}."
        )
    texts = [f"{each}\n" for each in result]
    return "".join(texts), len(texts)
