"""Tables to models without a script: every format gives what the model gives in process.

Frames as people have them, estimators that find their columns in every way that scikit-learn has,
and all formats; the answer to compare with is the estimator's own for the data frame itself.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from scoring_runtime.messages import ScoringRequest
from scoring_runtime.no_code.scikit_learn import ScikitLearnModel
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.settings.settings import Settings
from scoring_runtime.values.content import Limits

LIMITS = Limits(1_000_000, 20_000_000, 100 * 1024 * 1024)
ROWS = 12
Y = np.arange(ROWS) % 3 % 2
NUMBER = np.linspace(-1.3, 2.7, ROWS) ** 3
ZIP = ["01010", "8010", "01010", "99999"] * 3

FRAMES: Mapping[str, pd.DataFrame] = {
    "numbers": pd.DataFrame({"a": NUMBER, "b": NUMBER[::-1] / 7}),
    "whole numbers": pd.DataFrame({"a": range(ROWS), "b": [2**40, 5, -3] * 4}),
    "missing numbers": pd.DataFrame({"a": [1.5, None, 3.0, 1e-9] * 3, "b": NUMBER}),
    "leading zeros": pd.DataFrame({"zip": ZIP, "n": NUMBER}),
    "booleans": pd.DataFrame({"flag": [True, False, False] * 4, "n": NUMBER, "m": range(ROWS)}),
    "missing text": pd.DataFrame({"city": ["Graz", None, "Linz", "Wien"] * 3, "n": NUMBER}),
    "text that looks otherwise": pd.DataFrame(
        {"code": ["NA", "1e5", "true", "null"] * 3, "n": NUMBER}
    ),
    "notes": pd.DataFrame({"note": ["so good", "bad, bad", 'a "b"', "ü good"] * 3, "n": NUMBER}),
    "categories": pd.DataFrame(
        {"n": NUMBER, "zip": pd.Categorical(ZIP), "size": pd.Categorical([3, 10, 3, 7] * 3)}
    ),
    "names with spaces": pd.DataFrame({"my number": NUMBER, "its kind": pd.Categorical(ZIP)}),
    "numbers in categories and numbers beside them": pd.DataFrame(
        {"zip": ZIP, "rooms": [1, 2, 3, 2] * 3, "flag": [True, False] * 6, "n": NUMBER}
    ),
}


def encoded(choice: Any, encoder: Any = None, rest: Any = "passthrough") -> ColumnTransformer:
    encoder = encoder or OneHotEncoder(handle_unknown="error")
    return ColumnTransformer([("encoded", encoder, choice)], remainder=rest)


def as_words(frame: pd.DataFrame) -> pd.DataFrame:
    """Sees whether a column holds integers: 1 and 1.0 are other words."""
    return frame.astype(str)


class Meta(NamedTuple):
    """What is put around a pipeline, and whether it has several targets."""

    around: Callable[[Any], Any]
    several: bool = False


METAS: Mapping[str, Meta] = {
    "itself": Meta(lambda model: model),
    "GridSearchCV": Meta(lambda m: GridSearchCV(m, {"tree__max_depth": [2, 3]}, cv=2)),
    "MultiOutputClassifier": Meta(MultiOutputClassifier, several=True),
    "CalibratedClassifierCV": Meta(lambda m: CalibratedClassifierCV(m, cv=2, ensemble=False)),
    "VotingClassifier": Meta(lambda m: VotingClassifier([("a", m)], voting="soft")),
}
CHOICES: Mapping[str, Any] = {
    "a name": ["zip"],
    "a position": [0],
    "a slice": slice(0, 1),
    "a mask": [True, False],
    "a selector": make_column_selector(dtype_include=["object", "str"]),
    "a function": lambda frame: ["zip"],
}
TREE = ("tree", DecisionTreeClassifier(random_state=0))
IMPUTED = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
# name → (frame, model that is not fitted yet)
CASES: dict[str, tuple[str, Any]] = {
    **{
        f"{name} of a position": (
            "leading zeros",
            each.around(Pipeline([("e", encoded([0])), TREE])),
        )
        for name, each in METAS.items()
    },
    **{
        f"chosen by {name}": ("leading zeros", Pipeline([("e", encoded(choice)), TREE]))
        for name, choice in CHOICES.items()
    },
    "whole numbers as words": (
        "whole numbers",
        make_pipeline(FunctionTransformer(as_words), OneHotEncoder(), DecisionTreeClassifier()),
    ),
    "missing numbers": ("missing numbers", HistGradientBoostingClassifier(max_iter=3)),
    "text that looks otherwise": (
        "text that looks otherwise",
        make_pipeline(encoded([0], OrdinalEncoder()), DecisionTreeClassifier()),
    ),
    "notes of a position": (
        "notes",
        make_pipeline(
            encoded(
                0, FeatureUnion([("a", TfidfVectorizer()), ("b", TfidfVectorizer(binary=True))])
            ),
            LogisticRegression(),
        ),
    ),
    "LightGBM": ("categories", LGBMClassifier(n_estimators=3, min_child_samples=2, verbose=-1)),
    "XGBoost": ("categories", XGBClassifier(n_estimators=3, enable_categorical=True)),
    "gradient boosting": (
        "categories",
        HistGradientBoostingClassifier(max_iter=3, categorical_features="from_dtype"),
    ),
    "XGBoost of names with spaces": (
        "names with spaces",
        XGBClassifier(n_estimators=3, enable_categorical=True),
    ),
    "all of them": (
        "numbers in categories and numbers beside them",
        make_pipeline(encoded(slice(0, 2)), StandardScaler(with_mean=False), LogisticRegression()),
    ),
}


def fitted(name: str) -> tuple[pd.DataFrame, Any, list[np.ndarray[Any, Any]]]:
    """The frame, the model fitted on it, and what its methods give for it."""
    frame, model = FRAMES[CASES[name][0]], CASES[name][1]
    several = any(METAS[each].several and name.startswith(each) for each in METAS)
    model.fit(frame, np.stack([Y, 1 - Y], axis=1) if several else Y)
    return frame, model, [np.asarray(getattr(model, each)(frame)) for each in METHODS]


METHODS = ("predict", "predict_proba")


# --- bodies ---------------------------------------------------------------------------------------


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Without what only pandas has: moments are ISO 8601, categories their values."""
    out = frame.copy()
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            out[name] = frame[name].to_numpy()
        elif frame[name].dtype.kind == "M":
            out[name] = [each.isoformat() for each in frame[name]]
    return out


def v2_tensors(frame: pd.DataFrame) -> list[tuple[dict[str, Any], Any]]:
    kinds = {"f": "FP64", "i": "INT64", "b": "BOOL", "O": "BYTES"}
    made = []
    for name in frame.columns:
        values = frame[name].to_numpy()
        kind = kinds[values.dtype.kind]
        made.append(({"name": name, "shape": [len(frame)], "datatype": kind}, values))
    return made


def v2_json(frame: pd.DataFrame) -> bytes:
    inputs = [
        {**head, "data": [None if each != each else each for each in values.tolist()]}
        for head, values in v2_tensors(frame)
    ]
    return json.dumps({"inputs": inputs}).encode()


def v2_binary(frame: pd.DataFrame) -> tuple[bytes, bytes]:
    heads, tail = [], b""
    for head, values in v2_tensors(frame):
        if head["datatype"] == "BYTES":
            texts = [each.encode() for each in values]
            data = b"".join(len(each).to_bytes(4, "little") + each for each in texts)
        else:
            data = values.tobytes()
        heads.append({**head, "parameters": {"binary_data_size": len(data)}})
        tail += data
    start = json.dumps({"inputs": heads}).encode()
    return start + tail, b"%d" % len(start)


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def bodies(frame: pd.DataFrame) -> dict[str, ScoringRequest]:
    """The rows of a frame in every format."""
    simple = plain(frame)
    exact = [
        {k: None if v != v else v for k, v in row.items()} for row in simple.to_dict("records")
    ]
    rows = [list(row.values()) for row in exact]
    split = {"columns": list(frame.columns), "data": rows}

    def asked(body: Any, kind: str, *headers: tuple[bytes, bytes]) -> ScoringRequest:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return ScoringRequest(text, ((b"content-type", kind.encode()), *headers))

    columns = {name: list(each) for name, each in zip(frame, zip(*rows, strict=True), strict=True)}
    lines = b"\n".join(json.dumps(each).encode() for each in exact)
    found: dict[str, ScoringRequest] = {
        "data": asked({"data": exact}, "application/json"),
        "rows": asked(rows, "application/json"),
        "records": asked({"dataframe_records": exact}, "application/json"),
        "split": asked({"dataframe_split": split}, "application/json"),
        "input_data": asked({"input_data": split}, "application/json"),
        "columns": asked({"inputs": columns}, "application/json"),
        "csv": asked(simple.to_csv(index=False).encode(), "text/csv"),
        "csv with an index": asked(simple.to_csv().encode(), "text/csv"),
        "csv without header": asked(
            simple.to_csv(index=False, header=False).encode(), "text/csv; header=absent"
        ),
        "csv of positions": asked(
            simple.to_csv(index=False, header=[*map(str, range(len(frame.columns)))]).encode(),
            "text/csv",
        ),
        "csv in another order": asked(
            simple.iloc[:, ::-1].to_csv(index=False).encode(), "text/csv"
        ),
        "lines": asked(lines, "application/jsonl"),
        "v2": asked(v2_json(simple), "application/json"),
    }
    if may_be_rows(frame):
        del found["csv of positions"]
    if all(kind.kind in "biuf" for kind in frame.dtypes):
        if frame.to_numpy().dtype != object:
            found["npy"] = asked(npy(frame.to_numpy()), "application/x-npy")
    elif not simple.isna().any(axis=None):
        texts = np.array([*csv_fields(simple)])
        found["npy of text"] = asked(npy(texts), "application/x-npy")
    if not (simple.dtypes.map(lambda kind: kind.kind) == "O").any() or not simple.isna().any(
        axis=None
    ):
        body, length = v2_binary(simple)
        header = (b"inference-header-content-length", length)
        found["v2 binary"] = asked(body, "application/octet-stream", header)
    return found


def csv_fields(frame: pd.DataFrame) -> list[list[str]]:
    import csv

    return list(csv.reader(io.StringIO(frame.to_csv(index=False, header=False))))


def may_be_rows(frame: pd.DataFrame) -> bool:
    """A header of ``0,1`` over two columns of whole numbers may as well be a row of them."""
    return frame.shape[1] == 2 and {kind.kind for kind in frame.dtypes} == {"i"}


def answer(invocation: ModelInvocation, request: ScoringRequest, method: str) -> Any:
    response = invocation(request._replace(query=b"method=" + method.encode()))
    value = json.loads(bytes(response.body))  # type: ignore[arg-type]
    if isinstance(value, dict) and "outputs" in value:
        [output] = value["outputs"]
        return np.array(output["data"]).reshape(output["shape"])
    return np.array(value["predictions"] if isinstance(value, dict) else value)


FORMATS = sorted({name for frame in ("numbers", "leading zeros") for name in bodies(FRAMES[frame])})


@cache
def served(name: str) -> tuple[Any, ...]:
    frame, model, expected = fitted(name)
    invocation = ModelInvocation(ScikitLearnModel(model, LIMITS), "m", "1", Settings())
    return invocation, bodies(frame), expected


@pytest.mark.parametrize("name", CASES)
def test_every_format_gives_what_the_model_gives_for_the_frame(name):
    invocation, requests, expected = served(name)
    assert set(requests) <= set(FORMATS)
    for method, right in zip(METHODS, expected, strict=True):
        for kind, request in requests.items():
            found = answer(invocation, request, method)
            if kind.startswith("v2") and right.ndim == 3:
                right_here = right.swapaxes(0, 1)
            else:
                right_here = right
            assert found.shape == right_here.shape, (method, kind)
            assert found.astype(right.dtype).tobytes() == right_here.tobytes(), (method, kind)
