"""Settings that contradict each other, the host's own file, or what was measured: one table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..connections.named import triggers
from ..packaging.specification import FUNCTIONS
from ..settings.settings import Settings
from . import memory
from .report import Report

# https://learn.microsoft.com/azure/azure-functions/functions-scale#timeout
AZURE_HTTP_SECONDS = 230
WORKER_START_SECONDS = 10
_BROKER_DELIVERIES = 10
_HERE = ("127.0.0.1", "::1", "localhost")
_TIME = re.compile(r"(?:(\d+)\.)?(\d+):(\d+):(\d+)(?:\.\d+)?")


class Seen(NamedTuple):
    """What the rules look at: ``host`` is host.json, ``facts`` what a trial has measured."""

    settings: Settings
    target: str
    host: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def on_functions(self) -> bool:
        return self.target == FUNCTIONS

    @property
    def timeout(self) -> float:
        """The deadline of a request in seconds; infinite without one."""
        return self.settings.timeout_seconds or float("inf")

    @property
    def said(self) -> bool:
        """Whether the deadline was set, and is not the long one that there is without."""
        return "scoring_timeout_ms" in self.settings.sources

    @property
    def run_seconds(self) -> float:
        """What a call of run() took, but for one of a hundred."""
        return float(self.facts.get("p99_ms", 0.0)) / 1000

    @property
    def mb(self) -> float:
        """What a process holds with the model."""
        return float(self.facts.get("scored_mb", self.facts.get("loaded_mb", 0.0)))

    @property
    def start_seconds(self) -> float:
        return float(self.facts.get("start_seconds", 0.0))

    @property
    def renewal(self) -> float:
        """How long the Functions host renews the lock of a message, in seconds."""
        extensions = self.host.get("extensions")
        bus = extensions.get("serviceBus") if isinstance(extensions, dict) else None
        return seconds_of(bus.get("maxAutoLockRenewalDuration") if isinstance(bus, dict) else None)

    @property
    def function_timeout(self) -> float:
        return seconds_of(self.host.get("functionTimeout"))

    def serves(self, trigger: str) -> bool:
        return trigger in triggers(self.settings)


class Rule(NamedTuple):
    """``setting`` is at fault if it ``breaks``; ``text`` says by what, and what to do. The ``kind``
    is a class of findings, or ``note``."""

    kind: str
    setting: str
    breaks: Callable[[Seen], bool]
    text: Callable[[Seen], str]


# fmt: off
RULES = (
    Rule("setting", "functionTimeout",
         lambda s: s.on_functions and s.said and s.function_timeout < s.timeout,
         lambda s: f"host.json ends a function after {s.function_timeout:g} s, with its process, and SCORING_TIMEOUT_MS lets run() take {s.timeout:g} s: make it shorter."),
    Rule("setting", "maxAutoLockRenewalDuration",
         lambda s: s.on_functions and s.serves("service_bus") and s.renewal < s.timeout,
         lambda s: f"host.json renews a message's lock for {s.renewal:g} s, and SCORING_TIMEOUT_MS lets run() take {s.timeout:g} s: then it is delivered again while it is scored."),
    Rule("setting", "SCORING_TIMEOUT_MS",
         lambda s: s.on_functions and s.serves("http") and s.said and s.timeout > AZURE_HTTP_SECONDS,
         lambda s: f"It lets an HTTP request take {s.timeout:g} s, and Azure's front end ends it after {AZURE_HTTP_SECONDS} s: longer work goes by blob or message, or is answered later (Prefer: respond-async)."),
    Rule("limit", "SCORING_LATER_SECONDS",
         lambda s: s.on_functions and s.serves("http") and s.run_seconds > AZURE_HTTP_SECONDS,
         lambda s: f"run() took {s.run_seconds:.0f} s on a sample, and Azure's front end ends a request after {AZURE_HTTP_SECONDS} s: let clients ask for an answer later (Prefer: respond-async, with a Redis server), or send blobs or messages."),
    Rule("setting", "SCORING_LATER_TRIGGER",
         lambda s: s.settings.later_trigger != "" and not s.serves(s.settings.later_trigger),
         lambda s: f"It is {s.settings.later_trigger}, which is no trigger here: its connection is not set."),
    Rule("limit", "SCORING_TIMEOUT_MS",
         lambda s: s.run_seconds > s.timeout,
         lambda s: f"run() took {s.run_seconds * 1000:.0f} ms on a sample, and SCORING_TIMEOUT_MS is {s.settings.scoring_timeout_ms}."),
    Rule("setting", "WORKER_TIMEOUT",
         lambda s: not s.on_functions and s.said and 0 < s.settings.worker_timeout < s.timeout,
         lambda s: f"SCORING_TIMEOUT_MS lets run() take {s.timeout:g} s, and WORKER_TIMEOUT, which is {s.settings.worker_timeout:g} s, is shorter: it counts."),
    Rule("limit", "SCORING_SHUTDOWN_SECONDS",
         lambda s: not s.on_functions and s.run_seconds > s.settings.shutdown_seconds,
         lambda s: f"run() took {s.run_seconds:.1f} s on a sample, and SIGTERM waits {s.settings.shutdown_seconds:g} s for what is in flight."),
    Rule("setting", "SCORING_INIT_GRACE_SECONDS",
         lambda s: s.on_functions and s.settings.init_grace_seconds > WORKER_START_SECONDS,
         lambda s: f"It is {s.settings.init_grace_seconds:g} s, and Azure Functions ends a process that has not started after {WORKER_START_SECONDS} s."),
    Rule("limit", "SCORING_INIT_GRACE_SECONDS",
         lambda s: s.on_functions and s.start_seconds > s.settings.init_grace_seconds,
         lambda s: f"Loading took {s.start_seconds:.1f} s from the start of the process; after {s.settings.init_grace_seconds:g} s (the limit of Azure Functions is {WORKER_START_SECONDS}) it goes on in the background, and the first requests wait."),
    Rule("note", "SCORING_INIT_GRACE_SECONDS",
         lambda s: not s.target and s.start_seconds > s.settings.init_grace_seconds,
         lambda s: f"On Azure Functions loading would go on in the background after {s.settings.init_grace_seconds:g} s (its limit is {WORKER_START_SECONDS} s), and the first requests wait."),
    Rule("note", "SCORING_HOST",
         lambda s: not s.on_functions and s.settings.address not in _HERE and not s.settings.asks_for_keys and not s.settings.tls_ca,
         lambda s: f"Every machine that reaches {s.settings.address} may score: no key is asked for (SCORING_KEYS)."),
    Rule("setting", "SCORING_METRICS_OPEN",
         lambda s: s.settings.metrics_open and not s.settings.asks_for_keys,
         lambda s: "Nobody is asked for a key (SCORING_KEYS), so that /metrics is open without it too."),
    Rule("setting", "SCORING_MAX_RSS_MB",
         lambda s: 0 < s.settings.max_rss_mb < s.mb,
         lambda s: f"A process holds {s.mb:.0f} MB with the model, and is replaced above {s.settings.max_rss_mb} MB: each would be at once."),
    Rule("limit", "WORKER_COUNT",
         lambda s: not s.settings.worker_preload and 0 < memory.limit_mb() < s.mb * s.settings.worker_count,
         lambda s: f"{s.settings.worker_count} processes of {s.mb:.0f} MB each may need more than the {memory.limit_mb():.0f} MB that there are here."),
    Rule("setting", "SCORING_MAX_BATCH_SIZE",
         lambda s: s.settings.max_batch_size > 1 and s.facts.get("has_script", False),
         lambda s: "It is for models without a script: a run() that takes several inputs says so with @batched."),
    Rule("setting", "SCORING_MAX_BATCH_DELAY_MS",
         lambda s: s.settings.max_batch_delay_ms > 0 and s.settings.max_batch_size == 1,
         lambda s: "Nothing waits for a batch: SCORING_MAX_BATCH_SIZE is 1."),
    Rule("setting", "SERVICEBUS_MAX_ATTEMPTS",
         lambda s: s.settings.servicebus_max_attempts > _BROKER_DELIVERIES,
         lambda s: f"It is {s.settings.servicebus_max_attempts}, and a queue dead-letters a message itself after {_BROKER_DELIVERIES} deliveries unless it was made with more, without a reply."),
    Rule("setting", "CACHE_URL",
         lambda s: s.settings.cache_url.startswith("memory://") and s.settings.worker_count > 1,
         lambda s: f"memory:// is of one process, and WORKER_COUNT is {s.settings.worker_count}: what one keeps the others do not find. A Redis server is for all."),
    Rule("setting", "CACHE_TTL_SECONDS",
         lambda s: s.settings.cached and s.settings.cache_ttl_seconds == 0,
         lambda s: "It is 0, so that the cache keeps no result."),
)
# fmt: on


def apply(seen: Seen, report: Report) -> None:
    """A finding for each rule that is broken, or a note."""
    for rule in RULES:
        if rule.breaks(seen) and rule.kind == "note":
            report.notes.append(f"{rule.setting}: {rule.text(seen)}")
        elif rule.breaks(seen):
            report.add(rule.kind, rule.setting, rule.text(seen))


def seconds_of(text: object) -> float:
    """A time span of host.json, ``[days.]hours:minutes:seconds``; infinite without one, or -1."""
    found = _TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return float("inf")
    days, hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def host_json(places: Sequence[Path]) -> tuple[Path | None, Mapping[str, Any], str]:
    """The first of these files of the Functions host, what it holds, and what is wrong with it."""
    path = next((each for each in places if each.is_file()), None)
    if path is None:
        return None, {}, ""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        return path, {}, f"It is no JSON: {error}"
    is_object = isinstance(found, dict)
    return path, found if is_object else {}, "" if is_object else "It is no JSON object."
