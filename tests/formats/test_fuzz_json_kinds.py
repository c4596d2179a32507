"""Whatever JSON a body holds, reading it ends in content or in an error for the client."""

from __future__ import annotations

import json
from typing import Any

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


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_any_json_is_read_or_refused(body: Any) -> None:
    """No other exception, and no more rows than the limit."""
    request = ScoringRequest(json.dumps(body).encode(), ((b"content-type", b"application/json"),))
    try:
        asked = by_content_type.read(request, LIMITS)
    except InputError as error:
        assert str(error).strip()
        assert "Traceback" not in str(error)
        return
    assert isinstance(asked.content, Rows | Columns | Tensors)
    if isinstance(asked.content, Columns):
        lengths = {len(each) for each in asked.content.columns.values()}
        assert len(lengths) <= 1 and max(lengths, default=0) <= LIMITS.rows
