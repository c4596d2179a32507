"""A new version of the model in the place of the old one, without a dropped request.

It is loaded by worker processes of its own, beside those that serve: one first, whose answers to
the golden samples are compared, then as many as there are. When the last of them waits, all are
told to go and the old ones to end what they have begun; if one of them cannot, takes too long or
dies, none is, and the old ones go on. So a version that is too large for memory, or that crashes,
takes nothing with it, and what the old one held is free once its processes have ended.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from ..errors import ModelDamaged, ModelNotFound, ScoringRuntimeError
from ..models import in_force
from ..models.in_force import Choice, Choices
from ..scoring import golden
from ..scoring.served import served
from ..settings.settings import Settings
from ..telemetry.logs import log
from .line import Line, Message, memory_file
from .sharing import counts_of
from .supervisor import Crew, Supervision, Supervisor, how

_LONGEST_REASON = 20_000
_OLD_CREWS = 4
_QUIET_SECONDS = 2.0  # more than watchfiles collects changes for
_NO_ANSWERS = "The old version's answers to golden samples could not be had; the log says why."
RELOAD: Message = {"what": "reload"}
Work: TypeAlias = Callable[[Supervision], int]
Outcome: TypeAlias = dict[str, Any]


class Change:
    """A change under way: what is to be served, by whom, and who wants to know what becomes of it.

    ``old_answers`` is a file with the old version's answers to golden samples; ``scores`` the
    worker that writes it, until it has.
    """

    def __init__(self, settings: Settings, choices: Choices, seen: object, work: Work) -> None:
        self.settings, self.choices, self.seen = settings, choices, seen
        self.crew = Crew(work, counts_of(settings.worker_count + 1))
        self.candidates: list[Supervision] = []
        self.asked: list[tuple[Supervision, int]] = []
        self.old_answers = memory_file()
        self.scores: Supervision | None = None
        self.compared = ""
        self.began = time.monotonic()
        self.until = self.began + (settings.reload_seconds or float("inf"))

    @property
    def seconds(self) -> float:
        """Since it began."""
        return round(time.monotonic() - self.began, 3)


class ChangingSupervisor(Supervisor):
    """A supervisor that can replace the crew by one that serves other versions.

    Args:
        settings: with the versions in force.
        sockets: of all workers.
        work_of: what a worker does, with these settings.
    """

    def __init__(
        self,
        settings: Settings,
        sockets: list[socket.socket],
        work_of: Callable[[Settings], Work],
    ) -> None:
        super().__init__(settings.worker_count, sockets, work_of(settings))
        self._settings, self._work_of = settings, work_of
        self._choices: Choices = in_force.at_start(settings.model_dir)
        self._seen: object = None
        self._refused: object = None
        self._look_at = float("inf")
        self._change: Change | None = None
        self._is_told = False
        self._history: dict[str, Any] = {
            "reload": settings.reload, "switched": 0, "refused": 0, "last": None,
        }  # fmt: skip

    def run(self) -> int:
        """Start the workers and stay until they have ended; the exit code of the process."""
        signal.signal(signal.SIGHUP, self._told_by_signal)
        return super().run()

    def _told_by_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_told = True

    # --- the processes ------------------------------------------------------------------------

    def _fork(self, supervision: Supervision, crew: Crew) -> None:
        supervision.line, supervision.changes = Line(), self._history
        super()._fork(supervision, crew)

    def _wait(self) -> None:
        if self._seen is None:  # while the workers load
            self._seen = _seen(self._settings)
        lines = {each.line.fileno(): each for each in self._workers.values() if each.line}
        poll = select.poll()
        for each in (self._woken_by.fileno(), *lines):
            poll.register(each, select.POLLIN)
        until = min(self._look_at, self._change.until if self._change else float("inf"))
        left = until - time.monotonic()
        for descriptor, _ in poll.poll(None if left == float("inf") else max(0, left * 1000)):
            if descriptor in lines:
                self._hear(lines[descriptor])
            else:
                self._woken_by.recv(4096)

    def _ended(self, pid: int, code: int) -> str:
        ended = self._workers[pid]
        why = super()._ended(pid, code)
        if ended.line is not None:
            ended.line.close()
        if (change := self._change) is None or self._stopping:
            return why
        if ended in change.candidates:
            hint = ": too little memory?" if code == -signal.SIGKILL else ""
            self._refuse(change, ended.told or f"Its process ended with {how(code)}{hint}.")
        elif ended is change.scores:
            self._refuse(change, _NO_ANSWERS)
        return why

    def _renew(self) -> None:
        super()._renew()
        if self._stopping:
            return
        if self._is_told:
            self._is_told = False
            self._begin(RELOAD)
        if time.monotonic() >= self._look_at:
            self._look()
        if self._change is not None:
            self._go_on(self._change)

    def _hear(self, worker: Supervision) -> None:
        assert worker.line is not None
        for message, _ in worker.line.received():
            change = self._change
            if "ask" in message:
                self._begin(message["ask"], (worker, message["number"]))
            elif "look" in message:  # when nothing more has changed for a moment
                self._look_at = time.monotonic() + _QUIET_SECONDS
            elif change is not None and worker is change.scores:
                change.scores = None
                if not message.get("scored"):
                    self._refuse(change, _NO_ANSWERS)
            elif change is not None and "compared" in message:
                change.compared = message["compared"]

    # --- one change ---------------------------------------------------------------------------

    def _begin(self, ask: Message, asked: tuple[Supervision, int] | None = None) -> None:
        try:
            choices, settings, seen = self._planned(ask)
        except (ScoringRuntimeError, OSError) as error:
            _answer(asked, {"outcome": "impossible", "reason": str(error)})
            return
        if settings.versions == self._settings.versions and seen == self._seen:
            if choices != self._choices and self._change is None:  # pinned, or no longer
                self._choices = choices
                self._note(choices)
            _answer(asked, {"outcome": "unchanged", "models": _models(choices, choices)})
        elif busy := self._busy:
            _answer(asked, {"outcome": "busy", "reason": busy})
        else:
            self._change = Change(settings, choices, seen, self._work_of(settings))
            self._change.asked += [asked] if asked is not None else []
            log.info("A new version is being loaded: %s", _named(choices, self._choices))
            try:
                self._compare_with_old(self._change)
            except OSError as error:
                self._refuse(self._change, f"Its golden samples cannot be read: {error}")

    def _planned(self, ask: Message) -> tuple[Choices, Settings, object]:
        """What is to be in force, the settings with that, and the files that it is about."""
        choices = _chosen(ask, self._settings, self._choices)
        settings = with_choices(self._settings, choices)
        served(settings)
        return choices, settings, _seen(settings)

    def _look(self) -> None:
        """Begin a change by itself, if files are others than those that are served or that were
        refused."""
        self._look_at = float("inf")
        try:
            _, settings, seen = self._planned(RELOAD)
        except (ScoringRuntimeError, OSError) as error:
            log.warning("Nothing is changed: %s", error)
            return
        known = ((self._settings.versions, self._seen), self._refused)
        if (settings.versions, seen) in known:
            return
        if self._busy:
            self._look_at = time.monotonic() + _QUIET_SECONDS
        else:
            self._begin(RELOAD)

    @property
    def _busy(self) -> str:
        """Why no change can begin just now, or nothing."""
        if self._change is not None:
            return "Another change is under way; what becomes of it is at /status."
        if sum(each.is_released for each in self._workers.values()) >= _OLD_CREWS * self._count:
            return "The versions before this one still end what they have begun."
        return "" if self._ready else "The service itself is not ready yet."

    @property
    def _ready(self) -> list[Supervision]:
        """The workers that serve."""
        own = (each for each in self._workers.values() if each.crew is self._crew)
        return [each for each in own if each.was_ready]

    def _compare_with_old(self, change: Change) -> None:
        """Have a worker of the old version answer the golden samples for which none is expected."""
        if any(each.expected is None for each in golden.samples(change.settings)):
            change.scores = self._ready[0]
            said = {"model_dir": change.settings.model_dir, "versions": change.settings.versions}
            _tell(change.scores, {"score": said}, change.old_answers)

    def _go_on(self, change: Change) -> None:
        if time.monotonic() > change.until:
            limit = f"{self._settings.reload_seconds:g} s (SCORING_RELOAD_SECONDS)"
            self._refuse(change, f"It took longer than {limit} to load and compare it.")
        elif change.scores is None and all(each.was_ready for each in change.candidates):
            there = len(change.candidates)
            if there == self._count:
                self._switch(change)
            for _ in range((self._count - there) if there else 1):
                if self._change is change:
                    self._fork_candidate(change)

    def _fork_candidate(self, change: Change) -> None:
        candidate = Supervision(0)
        candidate.old_answers = change.old_answers
        change.candidates.append(candidate)
        try:
            self._fork(candidate, change.crew)
        except OSError as error:  # too little memory, or too many processes
            self._refuse(change, f"No process could be started for it: {error}")

    def _switch(self, change: Change) -> None:
        if _seen(change.settings) != change.seen:
            why = "Its files changed while it was loaded. Copy a version to another place first, "
            self._refuse(change, f"{why}and rename its folder to the new version then.")
            return
        old = [each for each in self._workers.values() if each.crew is self._crew]
        outcome = {
            "outcome": "switched",
            "models": _models(change.choices, self._choices),
            "seconds": change.seconds,
            "samples": change.compared,
            "survives_restart": self._note(change.choices),
        }
        self._crew, self._settings = change.crew, change.settings
        self._choices, self._seen = change.choices, change.seen
        self._worn = self._successor = None
        for each in old:
            each.release()
            _tell(each, {"release": True})
        for each in change.candidates:
            _tell(each, {"go": True})
        log.info("In force: %s; %s", _named(change.choices, {}), change.compared)
        self._finish(change, outcome)

    def _refuse(self, change: Change, why: str) -> None:
        for pid, each in self._workers.items():
            if each in change.candidates:
                os.kill(pid, signal.SIGKILL)  # it holds nothing that others wait for
        what = _named(change.choices, self._choices)
        log.error("Refused, and the old version goes on: %s", what)
        for line in filter(str.strip, why.splitlines()):  # one record a line, or \n would be shown
            log.error("%s", line)
        self._refused = change.settings.versions, change.seen
        self._note(self._choices)
        outcome = {
            "outcome": "refused",
            "models": _models(change.choices, self._choices),
            "seconds": change.seconds,
            "reason": why[-_LONGEST_REASON:],
        }
        self._finish(change, outcome)

    def _finish(self, change: Change, outcome: Outcome) -> None:
        self._change = None
        os.close(change.old_answers)
        kind = outcome["outcome"]
        last = {**outcome, "time": round(time.time(), 3)}
        self._history = {**self._history, kind: self._history[kind] + 1, "last": last}
        for each in self._workers.values():
            _tell(each, {"changes": self._history})
        for asked in change.asked:
            _answer(asked, outcome)

    def _note(self, choices: Choices) -> bool:
        """Note what is in force; whether that survives a restart."""
        registry = in_force.registry_of(self._settings.model_dir)
        if registry is None:
            return False
        try:
            in_force.write(registry, choices)
        except (OSError, ModelDamaged) as error:
            log.warning("What is in force is forgotten with this process: %s", error)
            return False
        return True


def with_choices(settings: Settings, choices: Choices) -> Settings:
    """The settings of a service with these versions in force."""
    versions = tuple((name, choice.versions) for name, choice in choices.items())
    folder = in_force.folder_in_force(settings.model_dir, choices)
    return replace(settings, model_dir=folder, versions=versions)


def _chosen(ask: Message, settings: Settings, current: Choices) -> dict[str, Choice]:
    folder, name = settings.model_dir, str(ask.get("model", ""))
    if ask["what"] == "use":
        return in_force.used(folder, current, name, str(ask.get("version", "")))
    if ask["what"] == "rollback":
        return in_force.rolled_back(folder, current, name)
    if ask["what"] == "unload":
        if served(settings)[0].folder is None:
            raise ModelNotFound("An entry script scores here, whatever the model: it stays.")
        return in_force.unloaded(current, name)
    return in_force.reloaded(folder, current)


def _seen(settings: Settings) -> object:
    """What changes when a file does that is loaded."""
    folder, script = Path(settings.model_dir), settings.script_path
    there = in_force.served(folder, dict(settings.versions)) if settings.model_dir else []
    folders = [each.path for each in there] or ([folder] if settings.model_dir else [])
    return in_force.seen(folders, [script.parent] if script is not None else [])


def _models(choices: Choices, before: Choices) -> list[dict[str, Any]]:
    """Those that are other than before; all, if none is."""
    changed = [name for name in choices if choices[name] != before.get(name)] or list(choices)
    nothing = Choice(())
    return [
        {
            "name": name,
            "version": str(choices[name].version or "") or None,
            "before": str(before.get(name, nothing).version or "") or None,
        }
        for name in changed
    ]


def _named(choices: Choices, before: Choices) -> str:
    named = (f"{each['name']}:{each['version']}" for each in _models(choices, before))
    return ", ".join(named) or "the files of the model"


def _tell(worker: Supervision, message: Message, descriptor: int = -1) -> None:
    if worker.line is not None:
        worker.line.send(message, descriptor)


def _answer(asked: tuple[Supervision, int] | None, outcome: Outcome) -> None:
    if asked is not None:
        _tell(asked[0], {"outcome": outcome, "number": asked[1]})
    elif outcome["outcome"] in ("busy", "impossible"):
        log.warning("Nothing is changed: %s", outcome["reason"])
