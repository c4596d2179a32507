"""Whether answers that are made at the same time are those of one after the other."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .samples import Sample

_INPUTS, _SECONDS, _CALLS = 8, 2.0, 400
# Python changes threads so often, in seconds; usually after 0.005.
_SWITCH = 0.00001


def differing(
    call: Callable[[Sample], Any], samples: Sequence[Sample], threads: int
) -> tuple[int, int]:
    """How many answers of calls at the same time differ from those alone, and of how many."""
    inputs = several(call, samples, _INPUTS)
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    wrong = calls = 0
    until = time.perf_counter() + _SECONDS
    try:
        with ThreadPoolExecutor(threads) as pool:
            while calls < _CALLS and time.perf_counter() < until:
                answers = pool.map(call, [sample for sample, _ in inputs])
                wrong += sum(
                    answer.body != alone for answer, (_, alone) in zip(answers, inputs, strict=True)
                )
                calls += len(inputs)
    finally:
        sys.setswitchinterval(before)
    return wrong, calls


def several(
    call: Callable[[Sample], Any], samples: Sequence[Sample], count: int
) -> list[tuple[Sample, bytes]]:
    """So many inputs, each with its answer: the samples and, where they are scored, others like
    them; the same again if there are too few."""
    found = [(each, call(each).body) for each in samples[:count]]
    for step in range(1, count):
        for sample in samples:
            other = _like(sample, step)
            if len(found) >= count or other is None:
                break
            answer = call(other)
            if answer.status == 200:
                found.append((other, answer.body))
    return (found * count)[:count]


def _like(sample: Sample, step: int) -> Sample | None:
    """The sample with other numbers; None if it is none of JSON, or has none."""
    if sample.content_type != "application/json":
        return None
    changed = json.dumps(_changed(json.loads(sample.body), step)).encode()
    same = json.dumps(json.loads(sample.body)).encode() == changed
    return None if same else sample._replace(body=changed)


def _changed(value: Any, step: int) -> Any:
    if isinstance(value, dict):
        return {name: _changed(each, step) for name, each in value.items()}
    if isinstance(value, list):
        return [_changed(each, step) for each in value]
    if isinstance(value, float):
        return value * (1 + step / 97)
    return value
