"""Inputs of several requests as one, and its result as one for each.

What models are given is an array, a table of pandas, or arrays by name; in all of them rows come
first.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from .content import PerOutput


def kind_of(given: Any) -> Hashable | None:
    """What inputs have in common that go together: names, dtypes, and shapes but for their rows.

    None of an input that goes with no other.
    """
    if isinstance(given, np.ndarray):
        return (given.dtype.str, given.shape[1:]) if given.ndim else None
    if isinstance(given, Mapping):
        kinds = [(name, kind_of(each)) for name, each in given.items()]
        apart = any(kind is None for _, kind in kinds) or len({*map(len, given.values())}) != 1
        return None if apart else tuple(kinds)
    if not hasattr(given, "columns") or list(given.index) != list(range(len(given))):
        return None
    return tuple(given.columns), tuple(given.dtypes)


def size_of(given: Any) -> tuple[int, int]:
    """The rows and the values of an input that has a kind."""
    if isinstance(given, Mapping):
        return len(next(iter(given.values()))), sum(each.size for each in given.values())
    return len(given), given.size


def joined(inputs: Sequence[Any]) -> Any:
    """Inputs of one kind as one, their rows in order."""
    first = inputs[0]
    if len(inputs) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(inputs)
    if isinstance(first, Mapping):
        return {name: np.concatenate([each[name] for each in inputs]) for name in first}
    import pandas as pd

    return pd.concat(inputs, ignore_index=True)


def split(result: Any, rows: Sequence[int]) -> list[Any] | None:
    """The result of inputs with so many rows as one for each; None if it has other rows."""
    if isinstance(result, PerOutput):
        parts = [split(each, rows) for each in result]
        if any(each is None for each in parts):
            return None
        return [PerOutput(each) for each in zip(*parts, strict=True)]
    if isinstance(result, Mapping):
        named = {name: split(each, rows) for name, each in result.items()}
        if any(each is None for each in named.values()):
            return None
        return [dict(zip(named, each, strict=True)) for each in zip(*named.values(), strict=True)]
    total = sum(rows)
    if not hasattr(result, "__len__") or isinstance(result, str | bytes):
        return None
    if getattr(result, "shape", None) == () or len(result) != total:
        return None
    places = pairwise(accumulate(rows, initial=0))
    if hasattr(result, "iloc"):
        return [result.iloc[a:b].reset_index(drop=True) for a, b in places]
    return [result[a:b] for a, b in places]
