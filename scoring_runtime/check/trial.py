"""The trial itself, ``python -m scoring_runtime.check.trial SPECIFICATION``: it loads and scores.

It is a process of its own: what it tries may end it, hang, or write anywhere. So it tells what it
does, and what it finds, as lines of JSON in a file.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..cache.build import Caching
from ..errors import (
    ConfigurationError,
    EntryScriptContract,
    ResultNotSerializable,
    ScoringRuntimeError,
    StartError,
)
from ..messages import ScoringRequest
from ..scoring.diagnosis import in_one_line, place
from ..scoring.runtime import Runtime
from ..settings.secrets import masked
from ..settings.settings import Settings
from ..testing.under_test import UnderTest
from . import faults, memory
from .batches import batches
from .samples import Sample, folder_of, samples
from .threads import differing

_TIMED_RUNS, _TIMED_SECONDS = 200, 2.0
_SHOWN = 300
_ACCEPTS = ("text/csv", "application/jsonl", "application/x-npy")


class Trial:
    """What was found, written as it is found."""

    def __init__(self, settings: Settings, file: IO[str]) -> None:
        self.settings, self._file = settings, file

    def tell(self, name: str, value: Any) -> None:
        """One line: a stage, a fact, a note or a finding."""
        print(json.dumps([name, value]), file=self._file, flush=True)

    def stage(self, name: str) -> None:
        """What begins now, should the process end in it."""
        self.tell("stage", name)

    def fact(self, name: str, value: Any) -> None:
        """Something that was measured."""
        self.tell("fact", [name, value])

    def finding(self, kind: str, where: str, text: str, detail: str = "") -> None:
        """Something that goes wrong."""
        self.tell("finding", [kind, where, masked(text), masked(detail)])


class Uncached(UnderTest):
    """A runtime whose every answer is new."""

    def _caching(self, runtime: Runtime) -> Caching:
        return Caching(runtime.score, None, _nothing)


async def _nothing() -> None:
    """There is nothing to close."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Try what the file of this name specifies."""
    said = json.loads(Path((arguments or sys.argv[1:])[0]).read_text(encoding="utf-8"))
    crash = open(said["crash"], "w")  # noqa: SIM115  until the process ends
    faulthandler.enable(crash)
    faulthandler.dump_traceback_later(said["seconds"], exit=True, file=crash)
    logging.basicConfig(level=logging.WARNING)
    with open(said["told"], "w", encoding="utf-8") as file:
        settings = Settings.from_environ(said["settings"], defaults=said["defaults"])
        # Its own limit is the trial's; what takes too long for the settings is said by them.
        trial = Trial(replace(settings, scoring_timeout_ms=0), file)
        trial.stage("load")
        try:
            under = Uncached(trial.settings)
        except StartError as error:
            _not_loaded(trial, error)
        else:
            trial.fact("start_seconds", time.monotonic() - said["began"])
            trial.fact("loaded_mb", memory.peak_mb())
            with under:
                try:
                    _tried(trial, under, said["samples"])
                except Exception:  # of the check itself: it says nothing of the script
                    trial.tell("broken", traceback.format_exc())
        trial.stage("done")


def _not_loaded(trial: Trial, error: StartError) -> None:
    detail, cause = str(error), error.__cause__
    last = detail.splitlines()[-1].removeprefix("Cause: ")
    if isinstance(error, ConfigurationError):
        named = re.search(r"environment variable: (\w+)", last) or re.search(
            r"\b[A-Z_]{6,}\b", last
        )
        trial.finding("setting", named[named.lastindex or 0] if named else "", last)
    elif isinstance(cause, ModuleNotFoundError) and cause.name:
        where = place(cause, trial.settings)
        trial.tell("missing", [cause.name, where, last, detail])
    else:
        where = place(cause, trial.settings) if cause is not None else ""
        if isinstance(error, EntryScriptContract):
            where = faults.definition(trial.settings, "run")
        trial.finding("load", where or str(folder_of(trial.settings)), last, detail)
        if isinstance(cause, KeyError) and cause.args:
            trial.tell("variable", str(cause.args[0]))


# --- scoring --------------------------------------------------------------------------------------


def _tried(trial: Trial, under: Uncached, named: Sequence[str]) -> None:
    assert under.runtime is not None
    trial.stage("samples")
    found = samples(under.runtime, named)
    trial.fact("has_script", under.runtime.has_script)
    trial.fact("samples", [each.name for each in found])
    sound = [each for each in found if _scored(trial, under, each)]
    for each in sound:
        if not under.runtime.has_script:
            _formats(trial, under, each)
    if sound:
        trial.stage(f"time {sound[0].name}")
        _timed(trial, under, sound[0])
        if trial.settings.concurrency > 1:
            trial.stage("threads")
            _threads(trial, under, sound)
        trial.stage("batches")
        trial.fact("batches", batches(under, sound))
    trial.fact("scored_mb", memory.peak_mb())


def _answer(under: Uncached, sample: Sample, accept: str = "") -> Any:
    path = f"/score/{sample.model}" if sample.model else "/score"
    headers = {"accept": accept} if accept else {}
    return under.http(sample.body, path, headers=headers, content_type=sample.content_type)


def _scored(trial: Trial, under: Uncached, sample: Sample) -> bool:
    """Whether a sample has an answer, and the same one by every trigger."""
    trial.stage(f"sample {sample.name}")
    if sample.content_type == "application/json":
        try:
            json.loads(sample.body)
        except ValueError as error:
            trial.finding("sample", sample.name, f"It is no JSON: {error}")
            return False
    began = time.perf_counter()
    first = _answer(under, sample)
    trial.fact(f"first_ms {sample.name}", (time.perf_counter() - began) * 1000)
    if first.status >= 400:
        _failed(trial, under, sample, first.status, first.body)
        return False
    if _answer(under, sample).body != first.body:
        trial.tell("changing", sample.name)
        return False
    _triggers(trial, under, sample, first.body)
    return True


def _triggers(
    trial: Trial, under: Uncached, sample: Sample, answer: bytes, accept: str = ""
) -> None:
    directions = {"model": sample.model.replace("/", ":"), "accept": accept}
    given: Any = {name: value for name, value in directions.items() if value}
    blob = under.blob(
        under.blob_name(), sample.body, content_type=sample.content_type, metadata=given
    )
    message = under.message(sample.body, content_type=sample.content_type, properties=given)
    reply = message.reply.body if message.reply is not None else None
    others = {"blob": blob.body, **({} if reply is None else {"service_bus": reply})}
    wrong = {trigger: body for trigger, body in others.items() if body != answer}
    assert under.runtime is not None
    if wrong and under.runtime.sees_headers:
        trial.tell("notes", f"{sample.name}: run() sees headers, and answers by them.")
        return
    for trigger, body in wrong.items():
        kind = f" as {accept}" if accept else ""
        text = f"By {trigger} the answer{kind} is {_shown(body)}, by http {_shown(answer)}."
        trial.finding("answers", sample.name, text)


def _formats(trial: Trial, under: Uncached, sample: Sample) -> None:
    """The answers that a model without a script gives in other formats."""
    for accept in _ACCEPTS:
        found = _answer(under, sample, accept)
        if found.status == 200:
            _triggers(trial, under, sample, found.body, accept)


def _failed(trial: Trial, under: Uncached, sample: Sample, status: int, body: bytes) -> None:
    error = _error(under, sample)
    where = faults.definition(trial.settings, "run") if under.runtime.has_script else sample.name  # type: ignore[union-attr]
    if status < 500 or error is None:
        kind = "sample" if status < 500 else "run"
        at = sample.name if status < 500 else where
        text = f"It is answered {status}: {_shown(body)}"
        trial.finding(kind, at, text if at == sample.name else f"On {sample.name}: {text}")
        return
    cause = error.__cause__
    said = in_one_line(cause) if cause is not None else str(error)
    if cause is not None and not isinstance(error, ResultNotSerializable):
        where = place(cause, trial.settings) or where
    trial.finding("run", where, f"On {sample.name}: {said}")


def _error(under: Uncached, sample: Sample) -> ScoringRuntimeError | None:
    """What scoring raises, with its cause."""
    assert under.runtime is not None
    headers = ((b"content-type", sample.content_type.encode()),)
    request = ScoringRequest(sample.body, headers, model=sample.model)
    try:
        under.result_of(under.runtime.score(request))
    except ScoringRuntimeError as error:
        return error
    return None


def _timed(trial: Trial, under: Uncached, sample: Sample) -> None:
    """The milliseconds of run(), and whether each call keeps memory."""
    taken: list[float] = []
    grown = [memory.now_mb()]
    until = time.perf_counter() + _TIMED_SECONDS
    while len(taken) < _TIMED_RUNS and (time.perf_counter() < until or len(taken) < 3):
        answer = _answer(under, sample)
        taken.append(float(answer.headers.get("x-ms-run-fn-exec-ms", 0)))
        if len(taken) % (_TIMED_RUNS // 4) == 0:
            gc.collect()
            grown.append(memory.now_mb())
    taken.sort()
    trial.fact("runs", len(taken))
    trial.fact("p50_ms", taken[len(taken) // 2])
    trial.fact("p99_ms", taken[min(len(taken) - 1, len(taken) * 99 // 100)])
    if kept := memory.kept_mb(grown):
        calls = _TIMED_RUNS * 3 // 4  # without those before memory was measured first
        text = f"{calls} calls of run() have kept {kept:.0f} MB: memory grows until it ends."
        trial.finding("limit", faults.definition(trial.settings, "run"), text)


def _threads(trial: Trial, under: Uncached, found: Sequence[Sample]) -> None:
    count = trial.settings.concurrency
    call: Callable[[Sample], Any] = lambda sample: _answer(under, sample)  # noqa: E731
    wrong, of = differing(call, found, min(count, 8))
    trial.fact("threads", {"together": min(count, 8), "calls": of, "differ": wrong})
    if wrong:
        text = (
            f"run() is not thread-safe: of {of} answers {wrong} are others than to the same input "
            f"alone. SCORING_CONCURRENCY is {count}; without it run() is called once at a time."
        )
        trial.finding("answers", "SCORING_CONCURRENCY", text)


def _shown(body: bytes | None) -> str:
    text = "nothing" if body is None else body.decode("utf-8", "replace")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


if __name__ == "__main__":
    main()
