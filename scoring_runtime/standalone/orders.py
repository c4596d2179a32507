"""A worker's end of the line: what it asks of its supervisor, and what it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from ..errors import Stopping
from ..models import in_force, manifest
from ..scoring import golden
from ..scoring.runtime import Runtime
from ..telemetry.logs import log
from ..telemetry.metrics import CHANGES, MODEL_CHANGES
from .line import Line, Message, whole
from .supervisor import Supervision

_LOOK_MS = 30_000
_ADJUSTMENT, _FIRST = Path("/proc/self/oom_score_adj"), "1000"


class Orders:
    """Asks for changes of the model, and takes part in them.

    Args:
        supervised: of this worker, with a line.
        runtime: what it serves with.
    """

    def __init__(self, supervised: Supervision, line: Line, runtime: Runtime) -> None:
        self._supervised, self._runtime = supervised, runtime
        self._line = line
        line.turn()
        if supervised.is_candidate:
            self._adjustment = _adjusted(_FIRST)
        self._go = asyncio.Event()
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._when_released: Callable[[], object] = int
        runtime.changes = supervised.changes
        metrics = runtime.metrics
        metrics.parts.add("changes")
        self._counts = {each: metrics.number(MODEL_CHANGES, each) for each in CHANGES}
        metrics.publish_by(self._publish)

    def _publish(self) -> None:
        for each, number in self._counts.items():
            number.set(self._runtime.changes[each])

    def listen(self, when_released: Callable[[], object]) -> None:
        """Take what comes, in the running event loop."""
        self._when_released = when_released
        asyncio.get_running_loop().add_reader(self._line.fileno(), self._hear)

    async def change(self, ask: Mapping[str, str]) -> dict[str, Any]:
        """Ask for a change; what has become of it.

        Raises:
            Stopping: the supervisor cannot be told.
        """
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if not self._line.send({"ask": dict(ask), "number": number}):
                raise Stopping("The process that looks after the workers takes no orders.")
            return await future
        finally:
            del self._waiting[number]

    async def stand_by(self) -> None:
        """As a candidate: compare the new version, tell that it is ready, and wait for the others.

        Raises:
            ModelUnusable: as :func:`scoring_runtime.scoring.golden.check`.
        """
        old = self._supervised.old_answers
        compared = await golden.check(self._runtime, golden.unpacked(whole(old)))
        os.close(old)
        self._line.send({"compared": compared})
        self._supervised.tell_ready()
        await self._go.wait()
        _adjusted(self._adjustment)

    async def watch(self) -> None:
        """Have the supervisor look when something changes among the models, or what is noted of
        them; and each half minute, since in network folders nobody tells of changes."""
        folder = self._runtime.settings.model_dir
        registry = in_force.registry_of(folder)
        beside = [registry, manifest.notes_folder(registry)] if registry else []
        places = filter(Path.is_dir, {Path(folder), *beside})
        try:
            from watchfiles import awatch

            async for _ in awatch(*places, rust_timeout=_LOOK_MS, yield_on_timeout=True):
                self._line.send({"look": True})
        except (ImportError, OSError, RuntimeError) as error:
            log.error("New versions are not looked for (SCORING_RELOAD is auto): %s", error)

    def _hear(self) -> None:
        for message, files in self._line.received():
            if "outcome" in message and message["number"] in self._waiting:
                self._waiting[message["number"]].set_result(message["outcome"])
            elif "changes" in message:
                self._runtime.changes = message["changes"]
            elif "release" in message:
                self._when_released()
            elif "go" in message:
                self._go.set()
            elif "score" in message:
                task = asyncio.create_task(self._score(message["score"], *files))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _score(self, said: Message, descriptor: int) -> None:
        """Answer the golden samples of a new version with this one."""
        given = None
        try:
            versions = tuple((name, tuple(numbers)) for name, numbers in said["versions"])
            settings = replace(
                self._runtime.settings, model_dir=said["model_dir"], versions=versions
            )
            wanted = [each for each in golden.samples(settings) if each.expected is None]
            given = golden.packed(await golden.answers(self._runtime, wanted))
        except Exception:
            log.exception("The golden samples could not be scored with the old version")
        with open(descriptor, "wb") as file:
            file.write(given or b"")
        self._line.send({"scored": given is not None})


def _adjusted(value: str) -> str:
    """Say how soon this process is killed for want of memory, the first at 1000; as it was before.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html
    """
    try:
        before = _ADJUSTMENT.read_text(encoding="ascii")
        _ADJUSTMENT.write_text(value, encoding="ascii")
    except OSError:  # where /proc may not be written
        return value
    return before
