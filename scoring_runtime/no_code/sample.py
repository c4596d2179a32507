"""A sample of a model's input, ``sample_input.json`` or ``.csv`` beside it or registered with it.

It decides the names and types of columns, and is the example of the documents and the warm-up. JSON
is a body that scores, or what ``DataFrame.to_json(orient="table")`` writes, which has the types of
pandas too: categories, dates, missing integers. CSV is read as ``pandas.read_csv`` does.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..formats.by_content_type import read_json
from ..models import manifest
from ..telemetry.logs import log
from ..values.content import Content, Limits, Rows

NAMES = ("sample_input.json", "sample_input.csv")
_SHOWN = 3


class Sample(NamedTuple):
    """``frame`` is the table, None for what is none; ``content`` is what the ``body`` holds, a JSON
    object, of so many ``rows``."""

    frame: Any
    body: Mapping[str, Any]
    content: Content
    rows: int


def beside(folder: Path, model: Path, limits: Limits) -> Sample | None:
    """The sample beside the model's file, in its folder, or registered with it; None without one,
    or with a warning if it cannot be read."""
    where, suffix, text = _find(folder, model) or ("", "", "")
    if not where:
        return None
    try:
        found = _read(suffix, text, limits)
    except Exception as error:  # pandas raises many
        said = " ".join(str(error).split())[:300]
        log.warning("The sample %s is no input that can be read: %s", where, said)
        return None
    log.info("The sample %s says what the model takes", where)
    return found


def _find(folder: Path, model: Path) -> tuple[str, str, str] | None:
    """Where it is, for messages, its suffix and its text."""
    places = dict.fromkeys((model if model.is_dir() else model.parent, folder))
    for path in (place / name for place in places for name in NAMES):
        if path.is_file():
            return str(path), path.suffix, path.read_text(encoding="utf-8-sig", errors="replace")
    registered = manifest.sample_of(folder)
    return (f"registered with {folder}", *registered) if registered else None


def _read(suffix: str, text: str, limits: Limits) -> Sample:
    value = None if suffix == ".csv" else json.loads(text)
    table = isinstance(value, dict) and {"schema", "data"} <= value.keys()
    body = value if isinstance(value, dict) else {"data": value}
    frame = None
    if value is None or table:
        frame = _from_pandas(text, table)
        shown = frame.head(_SHOWN).to_json(orient="records", date_format="iso", double_precision=15)
        body = {"data": json.loads(shown)}
    content = read_json(body, limits).content
    first = content.values if isinstance(content, Rows) else next(iter(content[0].values()))
    return Sample(_table(content) if frame is None else frame, body, content, len(first))


def _from_pandas(text: str, table: bool) -> Any:
    import pandas

    if table:
        return pandas.read_json(io.StringIO(text), orient="table", precise_float=True)
    frame = pandas.read_csv(io.StringIO(text))
    return frame.iloc[:, int(text.startswith(",")) :]  # without the index


def _table(content: Content) -> Any:
    """The content as a data frame; None where it is none, or there is no pandas."""
    if find_spec("pandas") is None:
        return None
    import pandas

    if isinstance(content, Rows):
        return pandas.DataFrame(content.values) if np.ndim(content.values) == 2 else None
    flat = all(np.ndim(values) == 1 for values in content[0].values())
    return pandas.DataFrame(content[0]) if flat else None
