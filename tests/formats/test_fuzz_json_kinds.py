"""Whatever JSON a body holds, reading it ends in content or in an error for the client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoring_runtime.errors import InputError
from scoring_runtime.formats import by_content_type, mlflow_json
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.values.content import Columns, Limits, Rows, Tensors

LIMITS = Limits(rows=50, values=500, bytes=100_000)
KINDS = [*mlflow_json.KINDS, *mlflow_json.AZUREML_KINDS, "params", "method", "index", "columns"]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*KINDS, "data", "a", "b", "name", ""]), inner, max_size=4
        )
    ),
    max_leaves=20,
)
tables = st.lists(st.lists(scalars, min_size=2, max_size=2), max_size=5)
bodies = st.one_of(
    values,
    st.dictionaries(st.sampled_from(KINDS), values, max_size=3),
    st.fixed_dictionaries({"dataframe_split": st.fixed_dictionaries({"data": tables})}),
    st.builds(
        lambda columns, rows: {"dataframe_split": {"columns": columns, "data": rows}},
        st.lists(scalars, max_size=3),
        tables,
    ),
    st.builds(
        lambda shape, data, kind: {
            "inputs": [{"name": "x", "shape": shape, "datatype": kind, "data": data}]
        },
        st.lists(st.integers(-2, 1 << 40), max_size=3),
        values,
        st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "UINT64", "FP99", ""]),
    ),
)


def _read(body: bytes) -> by_content_type.Asked | None:
    request = ScoringRequest(body, ((b"content-type", b"application/json"),))
    try:
        return by_content_type.read(request, LIMITS)
    except InputError as error:
        assert str(error).strip()
        assert "Traceback" not in str(error)
        return None


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_any_json_is_read_or_refused(body: Any) -> None:
    """No other exception, and no more rows than the limit."""
    asked = _read(json.dumps(body).encode())
    if asked is None:
        return
    assert isinstance(asked.content, Rows | Columns | Tensors)
    if isinstance(asked.content, Columns):
        lengths = {len(each) for each in asked.content.columns.values()}
        assert len(lengths) <= 1 and max(lengths, default=0) <= LIMITS.rows


VALID = [
    json.dumps(each).encode()
    for each in (
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2.5], [3, None]]}},
        {"dataframe_records": [{"a": 1, "b": "x"}, {"a": 2}], "params": {"p": 1}},
        {"instances": [{"a": [1, 2]}, {"a": [3, 4]}]},
        {"inputs": {"a": [[1.0]], "b": ["x"]}},
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
        {"input_data": [[1, 2], [3, 4]]},
        {"data": [[1.0, 2.0]], "method": "predict"},
    )
]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(VALID), st.data())
def test_a_damaged_body_is_read_or_refused(body: bytes, data: st.DataObject) -> None:
    """Bytes flipped, cut out and put in."""
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1 if changed else 0))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"[", b"}", b'"', b"1e999"]))
        changed[at : at + data.draw(st.integers(0, 6))] = piece
    _read(bytes(changed))


@pytest.mark.parametrize("body", VALID, ids=lambda body: body[2:16].decode())
def test_the_undamaged_bodies_are_read(body: bytes) -> None:
    """Without that the test above would test nothing."""
    assert _read(body) is not None
