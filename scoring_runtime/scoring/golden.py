"""Golden samples: inputs beside a model or a script, and what a new version makes of them.

They are ``sample_input.json`` or ``.csv`` and the files of a folder ``samples``, beside the model
or the entry script. The answer that is expected to ``samples/a.json`` is
``samples/a.expected.json`` (``.expected`` and any ending); without one the new version is compared
with the old one.
"""

from __future__ import annotations

import json
import math
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, ModelUnusable, ScoringRuntimeError
from ..messages import ScoringRequest
from ..models.folder import entry_of
from ..settings.settings import Settings
from ..telemetry.logs import log
from .runtime import Runtime
from .served import Served, default, served

_NAMES = ("sample_input.json", "sample_input.csv")
_EXPECTED = ".expected"
_TYPES = {".csv": "text/csv", ".jsonl": "application/jsonl", ".ndjson": "application/jsonl",
          ".npy": "application/x-npy"}  # fmt: skip
_MOST, _SHOWN = 100, 5
_CLOSE = 1e-6
_REFUSED, _FAILED = 400, 500


class Sample(NamedTuple):
    """An input; ``expected`` is the file of the answer to it, if there is one; ``model`` the name
    of the model that it is for, nothing for the default."""

    path: Path
    expected: Path | None
    model: str


class Answer(NamedTuple):
    """``status`` is 200, or what the script chose; 400 for what is refused, 500 if run() failed."""

    status: int
    body: bytes


Answers = Mapping[str, Answer]
Place = tuple[str | int, ...]


def samples(settings: Settings) -> list[Sample]:
    """The golden samples for what these settings serve; at most 100."""
    there = served(settings)
    by_default = default(there, settings)
    last = {each.name: each for each in there}
    found: dict[Path, Sample] = {}
    for model in last.values():
        name = "" if model.folder is None or model is by_default else model.name
        for folder in _places(model, settings):
            for sample in _in(folder, name):
                found.setdefault(sample.path, sample)
    if len(found) > _MOST:
        log.warning("Of %s golden samples the first %s are scored.", len(found), _MOST)
    return list(found.values())[:_MOST]


def _places(model: Served, settings: Settings) -> list[Path]:
    folder = model.folder or (Path(settings.model_dir) if settings.model_dir else None)
    places = []
    if folder is not None:
        places = [each for each in (folder, entry_of(folder)) if each.is_dir()]
    if model.folder is None:
        script = settings.script_path
        places.append(script.parent if script is not None else Path(settings.app_root))
    return places


def sample_files(folder: Path) -> Iterator[Path]:
    """The files ``sample_input.*`` of a folder and those of its folder ``samples``, without the
    answers that are expected to them."""
    there = [*sorted(folder.glob("sample_input.*")), *sorted((folder / "samples").glob("[!.]*"))]
    return (each for each in there if each.is_file() and _EXPECTED not in each.suffixes)


def _in(folder: Path, model: str) -> Iterator[Sample]:
    for path in sample_files(folder):
        if path.parent != folder or path.name in _NAMES:
            expected = sorted(path.parent.glob(f"{path.stem}{_EXPECTED}*"))
            yield Sample(path, expected[0] if expected else None, model)


async def answers(runtime: Runtime, wanted: Sequence[Sample]) -> dict[str, Answer]:
    """What a started runtime answers, by the samples' paths; it goes on with its requests."""
    return {str(each.path): await _answer(runtime, each) for each in wanted}


async def _answer(runtime: Runtime, sample: Sample) -> Answer:
    suffix = sample.path.suffix.lower()
    said = _TYPES.get(suffix) or mimetypes.guess_type(sample.path.name)[0] or "application/json"
    request = ScoringRequest(
        sample.path.read_bytes(),
        ((b"content-type", said.encode()),),
        request_id=f"golden-{sample.path.name}"[:100],
        model=sample.model,
        patient=True,
    )
    try:
        response = await runtime.score(request)
        return Answer(response.status, await runtime.whole(response.body, True))
    except InputError as error:
        return Answer(_REFUSED, str(error).encode())
    except ScoringRuntimeError as error:
        said = f"{error} {error.__cause__ or ''}".strip()
        return Answer(_FAILED, said.encode())


def packed(given: Answers) -> bytes:
    """Answers, to be handed to another process."""
    as_text = {path: (status, body.decode("latin-1")) for path, (status, body) in given.items()}
    return json.dumps(as_text).encode()


def unpacked(data: bytes) -> dict[str, Answer]:
    """The other way round."""
    found = json.loads(data or b"{}").items()
    return {path: Answer(status, text.encode("latin-1")) for path, (status, text) in found}


# --- what a new version is refused for ------------------------------------------------------------


async def check(runtime: Runtime, old: Answers) -> str:
    """Score the golden samples with a new version, which warms it too; what was compared, in words.

    Args:
        runtime: the new version's, started.
        old: the old version's answers to those for which none is expected.

    Raises:
        ModelUnusable: it answers otherwise; the message says to which samples, and how.
    """
    settings = runtime.settings
    wanted = samples(settings)
    given = await answers(runtime, wanted)
    wrong, expected, compared = [], 0, 0
    for each in wanted:
        answer, before = given[str(each.path)], old.get(str(each.path))
        if each.expected is not None:
            expected += 1
            difference = _from_expected(answer, each.expected.read_bytes(), settings)
        elif before is not None and before.status < _REFUSED:
            compared += 1
            difference = _from_old(answer, before, settings.reload_tolerance)
        else:  # to the old version it is none
            continue
        if difference:
            wrong.append(f"{each.path}: {difference}")
    if wrong:
        shown = "\n".join(wrong[:_SHOWN])
        more = f"\nand {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ModelUnusable(
            f"{len(wrong)} of {expected + compared} golden samples have other answers "
            f"(SCORING_RELOAD_TOLERANCE):\n{shown}{more}"
        )
    return (
        f"{len(wanted)} golden samples scored, {expected} compared with the expected answer, "
        f"{compared} with the old version's"
    )


def _from_expected(answer: Answer, expected: bytes, settings: Settings) -> str:
    if answer.status >= _REFUSED:
        return _refusal(answer)
    tolerance = _CLOSE if settings.reload_tolerance is None else settings.reload_tolerance
    return _difference(answer.body, expected.strip(), tolerance)


def _from_old(answer: Answer, old: Answer, tolerance: float | None) -> str:
    if answer.status != old.status:
        return _refusal(answer) if answer.status >= _REFUSED else f"the status is {answer.status}"
    return _difference(answer.body, old.body, tolerance)


def _refusal(answer: Answer) -> str:
    return f"status {answer.status}: {answer.body.decode('utf-8', 'replace')[:500]}"


def _difference(given: bytes, wanted: bytes, tolerance: float | None) -> str:
    """How they differ, in words; without a tolerance, in their form."""
    try:
        values = json.loads(wanted), json.loads(given)
    except ValueError:
        same = tolerance is None or given.strip() == wanted.strip()
        return "" if same else "the bytes are others than those expected"
    for expected, found, place in leaves(*values):
        if not _is_alike(found, expected, tolerance):
            at = "".join(f"[{each!r}]" for each in place)
            return f"the answer{at} is {_shown(found)}, expected is {_shown(expected)}"
    return ""


def leaves(before: Any, after: Any, place: Place = ()) -> Iterator[tuple[Any, Any, Place]]:
    """The values of two documents of JSON in pairs, with the names and numbers that lead to them:
    where they are not both lists, or objects, of the same form."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for key, value in before.items():
            yield from leaves(value, after[key], (*place, key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from leaves(*pair, (*place, number))
    else:
        yield before, after, place


def _is_alike(given: Any, wanted: Any, tolerance: float | None) -> bool:
    """Of two values that are not both lists, or objects, of the same form."""
    if tolerance is None:
        numbers = all(type(each) in (int, float) for each in (given, wanted))
        nothing = given is None or wanted is None
        plain = not isinstance(given, list | dict)
        return nothing or numbers or (plain and type(given) is type(wanted))
    return distance(given, wanted) <= tolerance


def distance(before: Any, after: Any) -> float:
    """How far two values of JSON are apart that are not both lists, or objects, of the same form:
    two numbers as a share of the larger, at least of 1; else 0 or infinite."""
    if not {type(before), type(after)} <= {int, float}:
        return 0.0 if type(before) is type(after) and before == after else math.inf
    if before == after or (before != before and after != after):
        return 0.0
    try:
        apart = abs(before - after) / max(1.0, abs(before), abs(after))
    except OverflowError:
        return math.inf
    return math.inf if math.isnan(apart) else apart


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]} …"
