"""What batches gain: the same inputs by one call, and by calls of several, compared to the bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..messages import ScoringRequest
from ..scoring.batches import Batches
from ..scoring.golden import leaves
from ..scoring.served import Served, chosen, default
from ..testing.under_test import UnderTest
from .samples import Sample
from .threads import several

SIZES = (1, 2, 3, 17, 64)
_SECONDS, _TIMES = 0.3, 20
_GAINS, _NEAR = 1.3, 1.2


def batches(under: UnderTest, samples: Sequence[Sample]) -> dict[str, Any]:
    """What a batch of each size takes for one input, in milliseconds, and whether answers change.

    ``why_not`` says why there can be none. ``size`` is the smallest that is near the best, and 1 if
    none gains; ``setting`` is what to copy. ``differ`` are the sizes whose answers are not those
    alone to the bit, ``largest`` the largest relative difference of a number; None if more than
    numbers differs.
    """
    runtime = under.runtime
    sample = samples[0]
    model = _model(under, sample)
    loaded: Any = runtime.loaded(model)
    is_model = not runtime.has_script
    if not is_model and loaded.batch is None:
        return {"why_not": "run() takes one input at a time: @batched gives it several"}
    if is_model and not loaded.model.joins_rows:
        return {"why_not": "the model takes or gives a fixed number of rows"}
    same_kind = [each for each in samples if each[2:] == sample[2:]]
    path = f"/score/{sample.model}" if sample.model else "/score"

    def call(each: Sample) -> Any:
        return under.http(each.body, path, content_type=each.content_type)

    inputs = several(call, same_kind, SIZES[-1])
    requests = [_request(each) for each, _ in inputs]
    answers = [answer for _, answer in inputs]

    def measured(_: object) -> dict[str, Any]:
        callee = _batched(loaded, model, under) if is_model else loaded
        return _measured(Batches(callee, under.settings.limits), requests, answers)

    found: dict[str, Any] = under.result_of(runtime.within(model, measured))
    setting = f"SCORING_MAX_BATCH_SIZE={found['size']}"
    found["setting"] = setting if is_model else f"@batched(max_size={found['size']})"
    return found


def _model(under: UnderTest, sample: Sample) -> Served:
    there = under.runtime.served
    found = chosen(there, sample.model) if sample.model else default(there, under.settings)
    assert found is not None
    return found


def _request(sample: Sample) -> ScoringRequest:
    return ScoringRequest(sample.body, ((b"content-type", sample.content_type.encode()),))


def _batched(loaded: Any, model: Served, under: UnderTest) -> Any:
    from ..scoring.model_call import BatchedModelInvocation  # which needs numpy, as models do

    settings = replace(under.settings, max_batch_size=SIZES[-1])
    return BatchedModelInvocation(loaded.model, model.name, model.version, settings)


def _measured(
    score: Batches, requests: Sequence[ScoringRequest], answers: Sequence[bytes]
) -> dict[str, Any]:
    """In a scoring thread."""
    taken: dict[int, float] = {}
    differ, largest = [], 0.0
    for size in SIZES:
        given = _answers(score, requests[:size])
        if given != list(answers[:size]):
            differ.append(size)
            pairs = zip(given, answers, strict=False)
            largest = max(largest, *(_distance(one, other) for one, other in pairs))
        taken[size] = _milliseconds(score, requests[:size]) / size
    best = min(taken.values())
    size = next(each for each in SIZES if taken[each] <= best * _NEAR)
    gain = taken[1] / taken[size]
    if gain < _GAINS:
        size, gain = 1, 1.0
    shown = largest if math.isfinite(largest) else None
    return {"ms": taken, "size": size, "gain": gain, "differ": differ, "largest": shown}


def _answers(score: Batches, requests: Sequence[ScoringRequest]) -> list[bytes | None]:
    found: list[bytes | None] = [None] * len(requests)
    for outcomes in score(requests, set):
        for each in outcomes:
            body = each.response.body if each.response is not None else None
            found[each.place] = body if isinstance(body, bytes) else None
    return found


def _milliseconds(score: Batches, requests: Sequence[ScoringRequest]) -> float:
    """The least that a call of all takes."""
    least, until = math.inf, time.perf_counter() + _SECONDS
    for _ in range(_TIMES):
        began = time.perf_counter()
        for _ in score(requests, set):
            pass
        ended = time.perf_counter()
        least = min(least, ended - began)
        if ended > until:
            break
    return least * 1000


def _distance(given: bytes | None, alone: bytes) -> float:
    """The largest relative difference of two answers' numbers; infinite if more than numbers
    differs."""
    try:
        values = json.loads(given or b""), json.loads(alone)
    except ValueError:
        return 0.0 if given == alone else math.inf
    pairs = ((one, other) for one, other, _ in leaves(*values) if one != other)
    return max((_relative(one, other) for one, other in pairs), default=0.0)


def _relative(one: Any, other: Any) -> float:
    if not isinstance(one, float) or not isinstance(other, float):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))
