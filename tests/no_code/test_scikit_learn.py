"""scikit-learn models without a script: their answers are the estimator's own, to the bit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from scoring_runtime import ScoringRequest, Settings
from scoring_runtime.errors import ModelUnusable, SchemaMismatch, UndecodableInput
from scoring_runtime.messages import ScoringResponse
from scoring_runtime.no_code.scikit_learn import ScikitLearnModel
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.values.content import Limits, Rows, Spec
from tests.models_for_tests import answers

LIMITS = Limits(1_000_000, 20_000_000, 100 * 1024 * 1024)
METHODS = ("predict", "predict_proba", "decision_function")
WIDTH, ROWS = 8, 60
NAMES = [f"x{number}" for number in range(WIDTH)]


class Data(NamedTuple):
    """What the estimators are fitted on."""

    values: NDArray[np.float64]
    number: NDArray[np.float64]
    numbers: NDArray[np.float64]
    kind: NDArray[np.int64]
    word: NDArray[np.object_]
    kinds: NDArray[np.int64]


def data() -> Data:
    random = np.random.default_rng(20)
    values = random.normal(size=(ROWS, WIDTH)) * 10.0 ** random.integers(-6, 6, WIDTH)
    number = values @ random.normal(size=WIDTH) + random.normal(size=ROWS)
    kind = np.digitize(values[:, 0] / np.std(values[:, 0]), [-0.5, 0.5])
    word = np.array(["no", "möglich", "yes"], dtype=object)[kind]
    numbers = np.stack([number, values[:, 1]], axis=1)
    kinds = np.stack([kind, (values[:, 1] > 0).astype(int)], axis=1)
    return Data(values, number, numbers, kind, word, kinds)


DATA = data()


def scaled(estimator: Any) -> Any:
    return make_pipeline(StandardScaler(), estimator)


# name → (estimator, what it is fitted to)
ESTIMATORS: Mapping[str, tuple[Any, Any]] = {
    "LinearRegression": (LinearRegression(), DATA.number),
    "Ridge of two numbers": (Ridge(), DATA.numbers),
    "LogisticRegression of three": (scaled(LogisticRegression()), DATA.kind),
    "LogisticRegression of two": (scaled(LogisticRegression()), DATA.kind == 1),
    "DecisionTreeClassifier of two": (DecisionTreeClassifier(random_state=0), DATA.kinds),
    "RandomForestClassifier": (RandomForestClassifier(5, random_state=0), DATA.word),
    "IsolationForest": (IsolationForest(n_estimators=5, random_state=0), None),
    "HistGradientBoosting": (HistGradientBoostingClassifier(max_iter=2), DATA.kind),
    "SVC of three": (SVC(), DATA.word),
    "SVC of two": (SVC(), DATA.kind == 0),
    "KNeighborsRegressor": (KNeighborsRegressor(), DATA.number),
    "GaussianProcessRegressor": (GaussianProcessRegressor(optimizer=None), DATA.number),
    "KMeans": (KMeans(3, n_init=1, random_state=0), None),
    "VotingClassifier": (
        VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier())], voting="soft"),
        DATA.word,
    ),
    "OneVsRestClassifier": (OneVsRestClassifier(scaled(LogisticRegression())), DATA.kind),
    "MultiOutputRegressor": (MultiOutputRegressor(Ridge()), DATA.numbers),
    "MultiOutputClassifier": (MultiOutputClassifier(GaussianNB()), DATA.kinds),
    "GridSearchCV": (GridSearchCV(scaled(SVC()), {"svc__C": [0.1, 1.0]}, cv=2), DATA.word),
}


# --- the service ----------------------------------------------------------------------------------


def fitted(name: str, values: Any) -> Any:
    estimator, target = ESTIMATORS[name]
    return clone(estimator).fit(values, target)


def saved(model: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    return folder


def as_csv(header: Sequence[str] | None, rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.StringIO()
    write = csv.writer(out)
    if header is not None:
        write.writerow(header)
    write.writerows(rows)
    return out.getvalue().encode()


def as_npy(values: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def said(kind: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"content-type", kind.encode()),)


def unnamed_bodies(values: NDArray[Any]) -> dict[str, tuple[bytes, str]]:
    """The same rows without names, in each format."""
    rows = values.tolist()
    return {
        "list": (json.dumps(rows).encode(), "application/json"),
        "data": (json.dumps({"data": rows}).encode(), "application/json"),
        "input_data": (json.dumps({"input_data": rows}).encode(), "application/json"),
        "instances": (json.dumps({"instances": rows}).encode(), "application/json"),
        "inputs": (json.dumps({"inputs": rows}).encode(), "application/json"),
        "split": (json.dumps({"dataframe_split": {"data": rows}}).encode(), "application/json"),
        "csv": (as_csv(None, rows), "text/csv; header=absent"),
        "npy": (as_npy(values), "application/x-npy"),
        "npy in Fortran's order": (as_npy(np.asfortranarray(values)), "application/x-npy"),
    }


def assert_same(answer: Any, expected: Any) -> None:
    """A JSON answer is what the estimator gave: every bit of every number, in the same nesting."""
    if isinstance(expected, list):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            assert_same(one, other)
    elif expected.dtype.kind in "OU":
        assert answer == expected.tolist()
    else:
        made = np.array(answer, dtype=expected.dtype)
        assert made.shape == expected.shape
        assert made.tobytes() == expected.tobytes()
        assert_kind(answer, expected.dtype.kind)


def assert_kind(answer: Any, kind: str) -> None:
    while isinstance(answer, list):
        answer = answer[0]
    assert type(answer) is {"b": bool, "i": int, "u": int, "f": float}[kind]


def assert_answers(model: Any, given: Any, bodies: Mapping[str, Any], folder: Path) -> None:
    """Every method of ``model`` gives for every body what it gives for ``given``."""
    methods = [each for each in METHODS if hasattr(model, each)]
    asked = [
        (method, name, ScoringRequest(body, said(kind), query=f"method={method}".encode()))
        for method in methods
        for name, (body, kind) in bodies.items()
    ]
    found = answers(saved(model, folder), [request for _, _, request in asked])
    for (method, name, _), response in zip(asked, found, strict=True):
        answer = json.loads(bytes(response.body))  # type: ignore[arg-type]
        if name in ("instances", "inputs", "split", "records"):
            assert list(answer) == ["predictions"], name
            answer = answer["predictions"]
        assert response.status == 200
        assert_same(answer, getattr(model, method)(given))


# --- to the bit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_fitted_on_an_array_answers_as_it_does_itself(name, tmp_path):
    model = fitted(name, DATA.values)
    given = DATA.values[:9]
    assert_answers(model, given, unnamed_bodies(given), tmp_path / "model")


MIXED = pd.DataFrame(
    {
        "age": [31.0, 45.5, 22.0, 60.0, 38.0, 51.0],
        "city": ["Graz", "Linz", "Wien", "Wien", "Graz", "Linz"],
        "size": ["s", "m", "l", "m", "s", "l"],
        "income": [1000, 2000, 1500, 4000, 2500, 3000],
        "note": ["good and late", "late", "very good", "good", "bad, late", "'quoted', \"bad\""],
    }
)
MIXED_COLUMNS = ColumnTransformer(
    [
        ("text", OneHotEncoder(handle_unknown="ignore"), ["city", "size"]),
        ("words", CountVectorizer(), "note"),
        ("number", StandardScaler(), ["age", "income"]),
    ]
)


def test_the_columns_of_a_pipeline_say_which_are_text_and_its_example_scores():
    model = make_pipeline(MIXED_COLUMNS, LogisticRegression()).fit(MIXED, [0, 1, 0, 1, 1, 0])
    served = ScikitLearnModel(model, LIMITS)
    assert served.tabular
    assert served.inputs == tuple(
        Spec(name, "BYTES" if name in ("city", "size", "note") else "FP64", (-1,))
        for name in MIXED.columns
    )
    example = {"age": 0.0, "city": "Graz", "size": "l", "income": 0.0, "note": "text"}
    assert served.example == {"data": [example]}
    invocation = ModelInvocation(served, "m", "1", Settings())
    assert invocation.example_result == model.predict(pd.DataFrame([example])).tolist()


# --- missing values -------------------------------------------------------------------------------


WITH_NAN = np.array([[1.0, np.nan], [np.nan, 2.0], [3.0, 4.0]])
NULLS: list[list[Any]] = [[1.0, None], [None, 2.0], [3.0, 4.0]]
NAN_BODIES = {
    "null": (json.dumps(NULLS).encode(), "application/json"),
    "NaN": (json.dumps(WITH_NAN.tolist()).encode(), "application/json"),
    "csv": (b"1.0,\r\n,2.0\r\n3.0,4.0\r\n", "text/csv"),
    "npy": (as_npy(WITH_NAN), "application/x-npy"),
}
NAN_NAMED = {
    "null": (
        json.dumps({"data": [dict(zip("ab", row, strict=True)) for row in NULLS]}).encode(),
        "application/json",
    ),
    "no key": (b'{"data": [{"a": 1.0}, {"b": 2.0}, {"a": 3.0, "b": 4.0}]}', "application/json"),
    "csv": (b"a,b\r\n1.0,\r\n,2.0\r\n3.0,4.0\r\n", "text/csv"),
}


@pytest.mark.parametrize("named", [False, True], ids=["array", "table"])
def test_missing_values_reach_a_model_that_takes_them(named, tmp_path):
    values = np.vstack([WITH_NAN, WITH_NAN[::-1] * 2] * 5)
    on, given = (pd.DataFrame(each, columns=["a", "b"]) for each in (values, WITH_NAN))
    model = make_pipeline(SimpleImputer(strategy="median"), LinearRegression())
    if named:
        model.fit(on, np.arange(30.0))
        assert_answers(model, given, NAN_NAMED, tmp_path / "model")
    else:
        model.fit(values, np.arange(30.0))
        assert_answers(model, WITH_NAN, NAN_BODIES, tmp_path / "model")


# --- how rows may look ----------------------------------------------------------------------------


LINE = LinearRegression().fit([[0.0, 1.0], [1.0, 0.5], [2.0, 7.0]], [1.0, 2.5, 4.0])


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ('[["1", "2.5e1"]]', [[1, 25]]),
        ('{"data": {"columns": ["x", "y"], "data": [[1, 2]]}}', [[1, 2]]),
        ('{"data": [{"any": 1, "name": 2}]}', [[1, 2]]),
        ('{"inputs": {"X": [[1, 2]]}}', [[1, 2]]),
    ],
)
def test_a_model_without_names_takes_rows_in_many_forms(body, rows):
    expected = LINE.predict(np.array(rows, dtype=np.float64))
    invocation = ModelInvocation(ScikitLearnModel(LINE, LIMITS), "m", "1", Settings())
    answer = json.loads(bytes(invocation(ScoringRequest(body.encode())).body))  # type: ignore[arg-type]
    assert_same(answer["predictions"] if isinstance(answer, dict) else answer, expected)


def test_a_vectorizer_of_text_alone_takes_texts(tmp_path):
    notes = ["good", "bad", "good good", "very bad"]
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(notes, [1, 0, 1, 0])
    given = ["very good", "bad, bad"]
    bodies = {
        "csv without header": (as_csv(None, [[each] for each in given]), "text/csv; header=absent"),
        "npy": (as_npy(np.array(given)), "application/x-npy"),
        "by name": (json.dumps({"input_data": {"X": given}}).encode(), "application/json"),
    }
    assert_answers(model, given, bodies, tmp_path / "model")
    served = ScikitLearnModel(model, LIMITS)
    assert served.inputs == (Spec("X", "BYTES", (-1,)),)
    invocation = ModelInvocation(served, "m", "1", Settings())
    for body, problem in (
        (b"[1]", "The input 'X': at [0] is 1; expected is [any] of BYTES, text."),
        (b"[null]", "The input 'X': at [0] is null; expected is [any] of BYTES, text."),
        (
            b'{"dataframe_records": [{"a": "x", "b": "y"}]}',
            "The table has 2 columns ('a', 'b'); one of text is expected.",
        ),
    ):
        with pytest.raises(SchemaMismatch) as caught:
            invocation(ScoringRequest(body))
        assert str(caught.value) == problem


class Own:
    """A model without scikit-learn, as users write them; its example fails."""

    def __init__(self, names: list[str] | None = None) -> None:
        if names is not None:
            self.classes_ = np.array(names)

    @property
    def labels_(self) -> None:
        raise RuntimeError("not kept")

    def predict(self, values: Any) -> Any:
        if values[0][0] == 7:
            return [1]
        return self.lost  # type: ignore[attr-defined]

    def predict_proba(self, values: Any) -> Any:
        raise LookupError("no rows of zeros")

    decision_function = predict_proba


@pytest.mark.parametrize(
    ("names", "shapes"),
    [
        (None, [("FP64", (-1,)), ("FP64", (-1,)), ("FP64", (-1,))]),
        (["a", "b"], [("BYTES", (-1,)), ("FP64", (-1, -1)), ("FP64", (-1, -1))]),
    ],
    ids=["numbers", "classes"],
)
def test_a_model_whose_example_fails_is_described_by_its_classes(names, shapes):
    model = ScikitLearnModel(Own(names), LIMITS)
    assert [each[1:3] for each in model.outputs] == shapes
    assert model.predict(Rows([[7.0]]), {}, "") == [1]


def test_what_a_model_lacks_itself_is_not_the_clients_fault():
    model = ScikitLearnModel(Own(), LIMITS)
    with pytest.raises(AttributeError, match="lost"):
        model.predict(Rows([[0.0]]), {}, "predict")
    with pytest.raises(LookupError, match="no rows of zeros"):
        model.predict(Rows([[0.0]]), {}, "predict_proba")


# --- method ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(DATA.values[:, :2], DATA.word)


@pytest.fixture
def call(classifier: Any) -> Callable[..., ScoringResponse]:
    invocation = ModelInvocation(ScikitLearnModel(classifier, LIMITS), "m", "1", Settings())

    def called(body: Any, query: str = "", *headers: tuple[bytes, bytes]) -> ScoringResponse:
        return invocation(ScoringRequest(json.dumps(body).encode(), headers, query=query.encode()))

    return called


def answer_of(response: ScoringResponse) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


ROW = [[1.5, -2.0]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["query", "body"])
def test_the_method_is_named_by_the_query_or_the_body(call, classifier, method, place):
    in_query = place == "query"
    body = {"data": ROW} if in_query else {"data": ROW, "method": method}
    response = call(body, f"other=1&method={method}" if in_query else "")
    assert_same(answer_of(response), getattr(classifier, method)(ROW))


def test_without_a_method_it_is_predict_and_the_query_wins_over_the_body(call, classifier):
    assert answer_of(call({"data": ROW})) == classifier.predict(ROW).tolist()
    response = call({"data": ROW, "method": "predict"}, "method=predict_proba")
    assert_same(answer_of(response), classifier.predict_proba(ROW))


@pytest.mark.parametrize("place", ["query", "body"])
@pytest.mark.parametrize("name", ["fit", "__class__", "Predict"])
def test_another_method_is_refused_with_those_there_are(call, place, name):
    body = {"data": ROW} if place == "query" else {"data": ROW, "method": name}
    with pytest.raises(UndecodableInput) as caught:
        call(body, f"method={name}" if place == "query" else "")
    assert str(caught.value) == (
        f"The model has no method {name!r}. It has: predict, predict_proba, decision_function."
    )


def test_a_method_that_is_no_text_is_refused(call):
    with pytest.raises(SchemaMismatch, match=r"^method is 3; expected is a name as text\.$"):
        call({"data": ROW, "method": 3})


def test_outputs_of_v2_are_methods_each_with_its_answer(call, classifier):
    body = {
        "inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 2], "data": [1.5, -2.0]}],
        "outputs": [{"name": "predict_proba"}, {"name": "predict"}],
    }
    outputs = answer_of(call(body))["outputs"]
    assert [each["name"] for each in outputs] == ["predict_proba", "predict"]
    assert outputs[0]["data"] == classifier.predict_proba(ROW)[0].tolist()
    assert outputs[1] == {
        "name": "predict",
        "datatype": "BYTES",
        "shape": [1],
        "data": classifier.predict(ROW).tolist(),
    }


# --- what a model says of itself ------------------------------------------------------------------


class WithoutPredict:
    """Not an estimator."""


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (WithoutPredict(), "WithoutPredict"),
        (make_pipeline(StandardScaler()), "Pipeline"),
        (None, "NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else "model",
)
def test_what_cannot_predict_is_no_model(model, name):
    with pytest.raises(ModelUnusable, match=f"^The model is a {name}, which has no predict"):
        ScikitLearnModel(model, LIMITS)


@pytest.mark.parametrize("model", [make_pipeline(StandardScaler(), SVC()), GridSearchCV(SVC(), {})])
def test_what_was_not_fitted_is_no_model(model):
    with pytest.raises(ModelUnusable, match=r"was not fitted"):
        ScikitLearnModel(model, LIMITS)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("LinearRegression", [("FP64", (-1,))]),
        ("Ridge of two numbers", [("FP64", (-1, 2))]),
        ("KMeans", [("INT32", (-1,))]),
        ("LogisticRegression of three", [("INT64", (-1,)), ("FP64", (-1, 3)), ("FP64", (-1, 3))]),
        ("LogisticRegression of two", [("BOOL", (-1,)), ("FP64", (-1, 2)), ("FP64", (-1,))]),
        ("RandomForestClassifier", [("BYTES", (-1,)), ("FP64", (-1, 3))]),
    ],
)
def test_the_outputs_are_those_of_the_methods(name, outputs):
    """What metadata say of an output is what the estimator gives."""
    model = ScikitLearnModel(fitted(name, DATA.values), LIMITS)
    methods = [each for each in METHODS if hasattr(fitted(name, DATA.values), each)]
    assert [each.name for each in model.outputs] == methods
    assert [tuple(each)[1:3] for each in model.outputs] == outputs


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_example_of_every_estimator_scores(name):
    for values in (DATA.values, pd.DataFrame(DATA.values, columns=NAMES)):
        served = ScikitLearnModel(fitted(name, values), LIMITS)
        invocation = ModelInvocation(served, "m", "1", Settings())
        assert invocation.example == served.example
        assert len(invocation.example_result) == 1
