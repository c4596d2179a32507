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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ..cache.build import Caching
from ..errors import ConfigurationError, EntryScriptContract, ScoringRuntimeError, StartError
from ..messages import ScoringRequest
from ..packaging.imports import packages_of
from ..scoring.diagnosis import in_one_line, place
from ..settings.secrets import masked
from ..settings.settings import Settings
from ..testing.outcomes import HttpOutcome
from ..testing.under_test import UnderTest
from . import faults, memory
from .batches import batches
from .samples import Sample, samples
from .threads import differing

_TIMED_RUNS, _TIMED_SECONDS, _STEPS = 200, 2.0, 4
_MOST_THREADS = 8
_THREADS_CALLS, _BATCHES_CALLS = 24, 250
_SHOWN = 300
_ACCEPTS = ("text/csv", "application/jsonl", "application/x-npy")
_NAMED = re.compile(r"environment variable: (?P<one>\w+)|\b(?P<other>[A-Z_]{6,})\b")


class Uncached(UnderTest):
    """A runtime whose every answer is new."""

    def _caching(self) -> Caching:
        return Caching(self.runtime.score, None, _nothing)


async def _nothing() -> None:
    """There is nothing to close."""


def main() -> None:
    """Try what the file of this name specifies."""
    said = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    crash = open(said["crash"], "w")  # noqa: SIM115  until the process ends
    faulthandler.enable(crash)
    faulthandler.dump_traceback_later(said["seconds"], exit=True, file=crash)
    logging.basicConfig(level=logging.WARNING)
    with open(said["told"], "w", encoding="utf-8") as file:
        settings = Settings.from_environ(said["settings"], defaults=said["defaults"])
        trial = Trial(settings, file, said["began"], said["seconds"])
        try:
            trial(said["samples"])
        except OutOfTime:
            trial.tell("note", f"Not all was tried within {said['seconds']:g} s (--seconds).")
        except Exception:  # of the check itself: it says nothing of the script
            trial.tell("unchecked", masked(traceback.format_exc()))
        trial.tell("stage", ["done", 0])


class OutOfTime(Exception):
    """Half of the time has been used: what is left is for one call that may hang."""


class Trial:
    """Tells what it finds as it finds it; a ``stage`` is what begins, should the process end."""

    def __init__(self, settings: Settings, file: IO[str], began: float, seconds: float) -> None:
        # What takes too long is seen by the rules, or is ended by the limit of the trial.
        self.settings, self._file = replace(settings, scoring_timeout_ms=0), file
        self._began, self._seconds = began, seconds
        self._differing: set[str] = set()

    def __call__(self, named: Sequence[str]) -> None:
        """Load, and score what is there, and these samples."""
        self.stage("load")
        try:
            under = Uncached(self.settings)
        except StartError as error:
            self._not_loaded(error)
            return
        with under:
            self.under, self.runtime = under, under.runtime
            self.run = faults.definition(self.settings, "run")
            self.tell("start_seconds", self._age())
            self.tell("loaded_mb", memory.peak_mb())
            try:
                self._all(samples(self.runtime, named))
            finally:
                self.tell("scored_mb", memory.peak_mb())

    def tell(self, name: str, value: Any) -> None:
        """One line: a fact, a finding, a note, a stage."""
        print(json.dumps([name, value]), file=self._file, flush=True)

    def stage(self, name: str) -> None:
        """What begins, after how many seconds, should the process end in it."""
        self.tell("stage", [name, self._age()])

    def _age(self) -> float:
        return time.monotonic() - self._began

    def _has_time_for(self, calls: int, milliseconds: float) -> bool:
        return self._age() + calls * milliseconds / 1000 < self._seconds / 2

    def finding(self, kind: str, where: str, text: str, detail: str = "") -> None:
        """Something that goes wrong."""
        self.tell("finding", [kind, where, masked(text), masked(detail)])

    def _not_loaded(self, error: StartError) -> None:
        detail, cause = str(error), error.__cause__
        last = detail.splitlines()[-1].removeprefix("Cause: ")
        where = place(cause, self.settings) if cause is not None else ""
        if isinstance(error, ConfigurationError):
            named = _NAMED.search(last)
            self.finding("setting", named[named.lastgroup or 0] if named else "", last)
        elif isinstance(cause, ModuleNotFoundError) and cause.name:
            self.tell("missing_module", cause.name.partition(".")[0])
            advice = f"{last}. pip install {packages_of(cause.name)[0]}"
            self.finding("package", where or cause.name, advice, detail)
        else:
            if isinstance(cause, KeyError) and cause.args:
                self.tell("missing_variable", str(cause.args[0]))
            if isinstance(error, EntryScriptContract):
                where = faults.definition(self.settings, "run")
            where = where or self.settings.entry_script or self.settings.model_dir
            self.finding("load", where, last, detail)

    def _all(self, found: list[Sample]) -> None:
        self.tell("has_script", self.runtime.has_script)
        self.tell("samples", [each.name for each in found])
        scored = {each: self._scored(each) for each in found}
        if not any(scored.values()):
            return
        first = next(each for each in found if scored[each])
        self.stage(f"time {first.name}")
        usual = self._timed(first)
        steady = [each for each in found if scored[each] == "steady"]
        self.tell("same", len([each for each in steady if each.name not in self._differing]))
        if steady and self.settings.concurrency > 1 and self._has_time_for(_THREADS_CALLS, usual):
            self.stage("threads")
            self._threads(steady)
        if steady and self._has_time_for(_BATCHES_CALLS, usual):
            self.stage("batches")
            self.tell("batches", batches(self.under, steady))

    def _answer(self, sample: Sample, accept: str = "") -> HttpOutcome:
        if not self._has_time_for(0, 0):
            raise OutOfTime
        path = f"/score/{sample.model}" if sample.model else "/score"
        headers = {"accept": accept} if accept else {}
        return self.under.http(sample.body, path, headers=headers, content_type=sample.content_type)

    def _scored(self, sample: Sample) -> str:
        """``steady`` if it has an answer, the same again; ``changing`` if another; else nothing."""
        self.stage(f"sample {sample.name}")
        fits = len(sample.body) <= self.settings.max_body_bytes
        if sample.content_type == "application/json" and fits:
            try:
                json.loads(sample.body)
            except ValueError as error:
                self.finding("sample", sample.name, f"It is no JSON: {error}")
                return ""
        began = time.perf_counter()
        first = self._answer(sample)
        self.tell("first_ms", (time.perf_counter() - began) * 1000)
        if first.status >= 400:
            self._failed(sample, first)
            return ""
        if self._answer(sample).body != first.body:
            self._changing(sample)
            return "changing"
        self._by_triggers(sample, first.body)
        # In other formats too, those that models without a script can answer in.
        for accept in () if self.runtime.has_script else _ACCEPTS:
            if (found := self._answer(sample, accept)).status == 200:
                self._by_triggers(sample, found.body, accept)
        return "steady"

    def _changing(self, sample: Sample) -> None:
        said = f"{sample.name}: the same input has another answer the second time"
        if self.settings.cached and self.settings.cache_ttl_seconds:
            setting = "CACHE_URL" if self.settings.cache_url else "REDIS_HOST"
            text = f"{said}; the cache gives the first for {self.settings.cache_ttl_seconds} s."
            self.finding("answers", setting, text)
        else:
            self.tell("note", f"{said}: nothing is compared, and a cache would keep the first.")

    def _by_triggers(self, sample: Sample, answer: bytes, accept: str = "") -> None:
        said = {"model": sample.model.replace("/", ":"), "accept": accept}
        asked = {name: value for name, value in said.items() if value}
        body, kind, name = sample.body, sample.content_type, self.under.blob_name()
        found = {"blob": self.under.blob(name, body, content_type=kind, metadata=asked).body}
        reply = self.under.message(body, content_type=kind, properties=asked).reply
        found |= {} if reply is None else {"service_bus": reply.body}
        wrong = {trigger: body for trigger, body in found.items() if body != answer}
        self._differing |= {sample.name} if wrong else set()
        if wrong and self.runtime.sees_headers:
            self.tell("note", f"{sample.name}: run() sees headers, and answers by them.")
            return
        form = f" as {accept}" if accept else ""
        for trigger, body in wrong.items():
            text = f"By {trigger} the answer{form} is {_shown(body)}, by http {_shown(answer)}."
            self.finding("answers", sample.name, text)

    def _failed(self, sample: Sample, answer: HttpOutcome) -> None:
        said = f"It is answered {answer.status}: {_shown(answer.body)}"
        if answer.status < 500:
            self.finding("sample", sample.name, said)
            return
        error = self._error(sample)
        cause = error.__cause__ if error is not None else None
        where = self.run if self.runtime.has_script else sample.name
        if cause is not None:
            said, where = in_one_line(cause), place(cause, self.settings) or where
        elif error is not None:
            said = str(error)
        self.finding("run", where, f"On {sample.name}: {said}")

    def _error(self, sample: Sample) -> ScoringRuntimeError | None:
        """What scoring raises, with its cause."""
        headers = ((b"content-type", sample.content_type.encode()),)
        request = ScoringRequest(sample.body, headers, model=sample.model)
        try:
            self.under.result_of(self.runtime.score(request))
        except ScoringRuntimeError as error:
            return error
        return None

    def _timed(self, sample: Sample) -> float:
        """The usual milliseconds of run(); and whether each call keeps memory."""
        taken: list[float] = []
        held = [memory.now_mb()]
        until = time.perf_counter() + _TIMED_SECONDS
        while len(taken) < _TIMED_RUNS and (time.perf_counter() < until or len(taken) < 3):
            answer = self._answer(sample)
            taken.append(float(answer.headers.get("x-ms-run-fn-exec-ms", 0)))
            if len(taken) % (_TIMED_RUNS // _STEPS) == 0:
                gc.collect()
                held.append(memory.now_mb())
        taken.sort()
        self.tell("runs", len(taken))
        self.tell("p50_ms", taken[len(taken) // 2])
        self.tell("p99_ms", taken[len(taken) * 99 // 100])
        if kept := memory.kept_mb(held):
            calls = (len(held) - 2) * _TIMED_RUNS // _STEPS
            text = f"{calls} calls of run() have kept {kept:.0f} MB: memory grows until it ends."
            self.finding("limit", self.run, text)
        return taken[len(taken) // 2]

    def _threads(self, found: list[Sample]) -> None:
        count = self.settings.concurrency
        wrong, of = differing(self._answer, found, min(count, _MOST_THREADS))
        said = {"together": min(count, _MOST_THREADS), "calls": of, "differ": wrong}
        self.tell("threads", said)
        if wrong:
            text = (
                f"run() is not thread-safe: of {of} answers {wrong} are others than to the same "
                f"input alone. SCORING_CONCURRENCY is {count}; without it calls do not overlap."
            )
            self.finding("answers", "SCORING_CONCURRENCY", text)


def _shown(body: bytes) -> str:
    text = body.decode("utf-8", "replace") or "nothing"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


if __name__ == "__main__":
    main()
