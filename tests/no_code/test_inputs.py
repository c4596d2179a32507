"""What decides a model's input where its columns say too little, and what is refused at the start.

Samples, texts and records, boosters as they are saved, columns that may be there or not, and the
parameters of methods; the answers to compare with are the libraries' own.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from scoring_runtime.cli.main import main
from scoring_runtime.errors import (
    InputError,
    InputTooLarge,
    ModelUnusable,
    RegistrationError,
    SchemaMismatch,
)
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.models import registry
from scoring_runtime.models.model import Model
from scoring_runtime.no_code.loading import load
from scoring_runtime.no_code.scikit_learn import ScikitLearnModel
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.settings.settings import Settings
from scoring_runtime.values.content import Limits, Rows
from tests.no_code.test_input_frames import FRAMES, LIMITS, Y

JSON, CSV, LINES = "application/json", "text/csv", "application/jsonl"


def serving(model: Any, limits: Limits = LIMITS) -> ModelInvocation:
    return ModelInvocation(ScikitLearnModel(model, limits), "m", "1", Settings())


def served(folder: Path) -> ModelInvocation:
    return ModelInvocation(load(folder, Settings()), "m", "1", Settings())


def asked(
    service: ModelInvocation, body: Any, kind: str = JSON, query: str = "", **head: str
) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [(b"content-type", kind.encode())]
    headers += [(name.encode(), value.encode()) for name, value in head.items()]
    answer = bytes(service(ScoringRequest(data, tuple(headers), query=query.encode())).body)  # type: ignore[arg-type]
    return answer.decode() if head else json.loads(answer)


# --- text and records -----------------------------------------------------------------------------

NOTES = ["good", "bad, bad", "very good", "so bad"] * 3


class Wrapped(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A model as people write them: the vectorizer is one of its parts."""

    def fit(self, X: Any, y: Any) -> Wrapped:
        self.words_ = TfidfVectorizer().fit(X)
        self.model_ = LogisticRegression().fit(self.words_.transform(X), y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X: Any) -> Any:
        return self.model_.predict(self.words_.transform(X))


def of_words() -> Any:
    return make_pipeline(TfidfVectorizer(), LogisticRegression())


TEXT_MODELS: Mapping[str, Any] = {
    "a union": make_pipeline(
        FeatureUnion(
            [("words", TfidfVectorizer()), ("pairs", TfidfVectorizer(ngram_range=(2, 2)))]
        ),
        LogisticRegression(),
    ),
    "a search in a union": GridSearchCV(
        make_pipeline(FeatureUnion([("w", TfidfVectorizer())]), LogisticRegression()),
        {"logisticregression__C": [1.0, 2.0]},
        cv=2,
    ),
    "an own class": Wrapped(),
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_vectorizer_anywhere_takes_texts(name):
    model = TEXT_MODELS[name].fit(NOTES, Y)
    service, given = serving(model), ["so good", "bad"]
    assert service.example == {"data": ["text"]}
    expected = model.predict(given).tolist()
    assert asked(service, given) == expected
    assert asked(service, {"data": [[each] for each in given]}) == expected
    assert asked(service, b"note\nso good\nbad\n", f"{CSV}; header=present") == expected
    assert asked(service, b'"so good"\n"bad"\n', LINES) == expected


def test_records_go_to_a_dict_vectorizer_as_they_are():
    rows = [{"city": "Graz", "n": 1.5}, {"city": "Linz", "zip": "01"}, {"n": 3.0, "zip": "1"}] * 4
    model = make_pipeline(DictVectorizer(), LogisticRegression()).fit(rows, Y)
    service, expected = serving(model), model.predict_proba(rows[:3]).tolist()
    assert service.example == {"data": [{"city": "Graz", "n": 0.0, "zip": "01"}]}
    lines = b"\n".join(json.dumps(each).encode() for each in rows[:3])
    table = b"other,zip,n,city\nx,,1.5,Graz\nx,01,,Linz\nx,1,3,\n"
    for body, kind in (({"data": rows[:3]}, JSON), (lines, LINES), (table, CSV)):
        assert asked(service, body, kind, "method=predict_proba") == expected


# --- boosters -------------------------------------------------------------------------------------


def booster_of(library: str, frame: Any) -> tuple[Any, list[float]]:
    """A booster as its own library makes it, and what it gives for the frame."""
    if library == "xgboost":
        data = xgboost.DMatrix(frame, Y, enable_categorical=True)
        model: Any = xgboost.train({"objective": "binary:logistic"}, data, 3)
        return model, model.predict(data).tolist()
    params = {"objective": "binary", "min_data_in_leaf": 1, "verbose": -1}
    model = lightgbm.train(params, lightgbm.Dataset(frame, Y), 3)
    return model, model.predict(frame).tolist()


@pytest.mark.parametrize("native", [False, True], ids=["pickled", "its own file"])
@pytest.mark.parametrize("frame", ["categories", "names with spaces", "an array"])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_booster_scores_as_it_does_itself(library, frame, native, tmp_path):
    table = pd.DataFrame(np.arange(24.0).reshape(12, 2)) if frame == "an array" else FRAMES[frame]
    given = table.to_numpy() if frame == "an array" else table
    model, expected = booster_of(library, given)
    if native:
        model.save_model(tmp_path / {"xgboost": "model.json", "lightgbm": "model.txt"}[library])
    else:
        joblib.dump(model, tmp_path / "model.pkl.gz")
    service = served(tmp_path)
    assert service.example is not None
    found = asked(service, table.to_csv(index=False).encode(), CSV)
    assert np.array(found, np.float32).tolist() == np.array(expected, np.float32).tolist()


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_an_estimator_that_xgboost_saved_has_its_methods(suffix, tmp_path):
    model = xgboost.XGBClassifier(n_estimators=3).fit(FRAMES["numbers"], Y)
    model.save_model(tmp_path / f"model.{suffix}")
    (tmp_path / "config.json").write_text('{"learner_rate": 1}')
    (tmp_path / "notes.txt").write_text("tree of notes")
    service, body = served(tmp_path), FRAMES["numbers"].to_csv(index=False).encode()
    assert asked(service, body, CSV) == model.predict(FRAMES["numbers"]).tolist()
    found = np.array(asked(service, body, CSV, "method=predict_proba"), np.float32)
    assert np.array_equal(found, model.predict_proba(FRAMES["numbers"]))


def test_a_category_that_only_xgboost_refuses_is_refused():
    """LightGBM takes it for a missing value."""
    frame = FRAMES["names with spaces"]
    body = b"my number,its kind\n1.0,777\n"
    model, _ = booster_of("lightgbm", frame)
    row = pd.DataFrame({"my number": [1.0], "its kind": pd.Categorical(["777"])})
    assert asked(serving(model), body, CSV) == model.predict(row).tolist()
    with pytest.raises(SchemaMismatch, match=r"'its kind' has '777', .* it knows: '01010', '8010'"):
        asked(serving(booster_of("xgboost", frame)[0]), body, CSV)


@pytest.mark.parametrize("names", [["Malmö", "Oslo"], ["Köln", "Wien"]], ids=["cut", "shifted"])
def test_categories_that_xgboost_keeps_wrongly_are_told_by_a_sample(names, tmp_path, caplog):
    """XGBoost 3.1 and 3.2 count characters where they store bytes."""
    frame = pd.DataFrame({"n": np.arange(12.0), "city": pd.Categorical(names * 6)})
    model, expected = booster_of("xgboost", frame)
    model.save_model(tmp_path / "model.json")
    with pytest.raises(SchemaMismatch, match="The model refuses the input"):
        asked(served(tmp_path), frame.to_csv(index=False).encode(), CSV)
    assert "The categories of the column 'city' are not all ASCII" in caplog.text
    frame.head(2).to_json(tmp_path / "sample_input.json", orient="table")
    found = asked(served(tmp_path), frame.to_csv(index=False).encode(), CSV)
    assert np.array(found, np.float32).tolist() == np.array(expected, np.float32).tolist()


WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from scoring_runtime.no_code.loading import load
from scoring_runtime.settings.settings import Settings
load(Path(sys.argv[1]), Settings())
"""


@pytest.mark.parametrize("frame", ["categories", "numbers"])
def test_only_categories_of_xgboost_need_pyarrow(frame, tmp_path):
    """It is no dependency of xgboost's."""
    booster_of("xgboost", FRAMES[frame])[0].save_model(tmp_path / "model.json")
    command = [sys.executable, "-c", WITHOUT_PYARROW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (1 if frame == "categories" else 0), done.stderr
    assert done.stderr.endswith("needs pyarrow: pip install pyarrow.\n") == (frame == "categories")


# --- columns that may be there or not -------------------------------------------------------------

PEOPLE = pd.DataFrame(
    {"id": ["a1", "a2", "a3"] * 4, "zip": ["01", "1", "02"] * 4, "n": range(12), "x": Y}
)


@pytest.mark.parametrize("around", [lambda m: m, lambda m: CalibratedClassifierCV(m, cv=2)])
def test_columns_that_a_column_transformer_leaves_alone_may_be_missing_or_more(around):
    chosen = ColumnTransformer([("e", OneHotEncoder(), [1]), ("n", StandardScaler(), ["n"])])
    model = around(make_pipeline(chosen, LogisticRegression())).fit(PEOPLE, Y)
    service = serving(model)
    expected = model.predict_proba(PEOPLE).tolist()
    for frame in (PEOPLE, PEOPLE.drop(columns=["id", "x"]), PEOPLE.assign(more="?")[::1]):
        assert model.predict_proba(frame).tolist() == expected
        for body, kind in (
            (frame.to_csv(index=False).encode(), CSV),
            ({"data": frame.to_dict("records")}, JSON),
        ):
            assert asked(service, body, kind, "method=predict_proba") == expected
    with pytest.raises(SchemaMismatch, match="Missing columns: 'zip'"):
        asked(service, {"data": PEOPLE.drop(columns="zip").to_dict("records")})


def test_where_all_that_is_left_passes_on_no_column_may_be_missing():
    chosen = ColumnTransformer([("e", OneHotEncoder(), ["id", "zip"])], remainder="passthrough")
    service = serving(make_pipeline(chosen, DecisionTreeClassifier()).fit(PEOPLE, Y))
    with pytest.raises(SchemaMismatch, match="Missing columns: 'x'"):
        asked(service, {"data": PEOPLE.drop(columns="x").to_dict("records")})


def test_text_in_an_array_without_names_goes_by_position():
    values = PEOPLE.to_numpy(dtype=object)
    chosen = ColumnTransformer([("e", OneHotEncoder(), [0, 1])], remainder="passthrough")
    model = make_pipeline(chosen, DecisionTreeClassifier()).fit(values, Y)
    service, expected = serving(model), model.predict_proba(values).tolist()
    for body, kind in (
        (values.tolist(), JSON),
        (PEOPLE.to_csv(index=False).encode(), CSV),
        (PEOPLE.to_csv(index=False, header=False).encode(), f"{CSV}; header=absent"),
    ):
        assert asked(service, body, kind, "method=predict_proba") == expected


# --- a sample -------------------------------------------------------------------------------------


def in_hours(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"hour": (frame["end"] - frame["start"]).dt.seconds, "n": frame["n"]})


def of_kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Only for what is a category, a missing integer and a text."""
    codes = frame["kind"].cat.codes + 10 * frame["k"].isna()
    return pd.DataFrame({"code": codes, "long": frame["zip"].str.len()})


SPANS = pd.DataFrame(
    {
        "start": pd.date_range("2024-03-01", periods=12, freq="h", tz="UTC"),
        "end": pd.date_range("2024-03-01T02:00", periods=12, freq="2h", tz="UTC"),
        "n": np.linspace(0, 1, 12),
    }
)
KINDS = pd.DataFrame(
    {
        "kind": pd.Categorical(["b", "a", "c"] * 4, categories=["c", "b", "a"]),
        "k": pd.array([1, None, 3] * 4, dtype="Int64"),
        "zip": ["01", "1", "001"] * 4,
    }
)
SAMPLED = {"moments": (SPANS, in_hours), "kinds": (KINDS, of_kinds)}


def sampled(name: str) -> tuple[pd.DataFrame, Any]:
    frame, function = SAMPLED[name]
    model = make_pipeline(FunctionTransformer(function), DecisionTreeClassifier())
    return frame, model.fit(frame, Y)


def place_of_sample(place: str, frame: pd.DataFrame, model: Any, folder: Path) -> Path:
    """The folder to serve, with a sample beside the model or registered with it."""
    beside = folder / "model"
    beside.mkdir()
    joblib.dump(model, beside / "model.joblib.z", compress=("zlib", 3))
    shown = folder / "shown.json"
    frame.head(2).to_json(shown, orient="table", index=place == "beside")
    if place == "beside":
        shown.rename(beside / "sample_input.json")
        return beside
    root = folder / "azureml-models"
    if place == "Model.register":
        return Model.register(root, beside, "m", sample_input_dataset=frame).path.parent
    named = ["--name", "m", "--path", str(beside), "--registry", str(root)]
    assert main(["models", "register", *named, "--sample", str(shown)]) == 0
    return registry.details(root).path


@pytest.mark.parametrize("place", ["beside", "models register", "Model.register"])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_decides_names_types_and_the_example(name, place, tmp_path, caplog):
    frame, model = sampled(name)
    service = served(place_of_sample(place, frame, model, tmp_path))
    assert "does not score" not in caplog.text
    assert service.example is not None
    assert list(service.example["data"][0]) == list(frame.columns)
    assert service.example_result == model.predict(frame)[: len(service.example["data"])].tolist()
    plain = frame.astype({each: str for each in frame.select_dtypes(["datetimetz", "category"])})
    records = json.loads(plain.to_json(orient="records"))
    expected = model.predict_proba(frame).tolist()
    for body, kind in (
        ({"data": records}, JSON),
        (plain.to_csv(index=False).encode(), CSV),
        (plain.to_csv(index=False, header=False).encode(), f"{CSV}; header=absent"),
        (b"\n".join(json.dumps(each).encode() for each in records), LINES),
    ):
        assert asked(service, body, kind, "method=predict_proba") == expected


class Own:
    """A class without names of its own, which takes a table."""

    def predict(self, table: Any) -> Any:
        return [f"{a}{type(b).__name__}" for a, b in zip(table["a"], table["b"], strict=True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sample_input.json", '{"data": [{"a": "01", "b": 3}]}'),
        ("sample_input.json", '{"dataframe_split": {"columns": ["a", "b"], "data": [["01", 3]]}}'),
        ("sample_input.csv", "a,b\nx,3\n"),
        ("sample_input.csv", ",a,b\n0,x,3\n"),
    ],
)
def test_a_sample_gives_names_to_a_model_that_has_none(name, text, tmp_path):
    joblib.dump(Own(), tmp_path / "model.pkl")
    (tmp_path / name).write_text(text)
    service = served(tmp_path)
    assert service.model.tabular
    assert service.example is not None
    for body, kind in (({"data": [{"b": 7, "a": "07"}]}, JSON), (b"b,a\n7,07\n", CSV)):
        assert asked(service, body, kind) == ["07int"]


def test_a_table_goes_as_it_is_to_code_that_says_nothing_of_its_columns():
    """As a pipeline whose first step is a class of the user's own."""
    service = serving(Own())
    assert asked(service, {"data": [{"b": True, "a": "x"}]}) == ["xbool"]
    assert asked(service, b"a,b\nx,1.5\n", CSV) == ["xfloat"]


def test_a_table_that_code_of_such_a_kind_refuses_is_the_client_s_fault():
    rows = [{"n": float(each), "city": "Graz"} for each in Y]
    hashing = make_pipeline(FeatureHasher(8), LogisticRegression()).fit(rows, Y)
    with pytest.raises(SchemaMismatch, match=r"refuses the input: .* No numbers are in: 'city'\.$"):
        asked(serving(hashing), {"data": rows})


def test_a_sample_that_is_none_is_named_and_left_alone(tmp_path, caplog):
    joblib.dump(LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]), tmp_path / "m.pkl")
    (tmp_path / "sample_input.json").write_text("{")
    assert asked(served(tmp_path), [[3.0]]) == pytest.approx([3.0])
    assert "sample_input.json is no input that can be read" in caplog.text


@pytest.mark.parametrize(("name", "text"), [("a.txt", "1"), ("a.json", "{"), ("none.json", None)])
def test_only_a_sample_can_be_registered_as_one(name, text, tmp_path):
    model, shown = tmp_path / "m.pkl", tmp_path / name
    model.write_bytes(b"x")
    if text is not None:
        shown.write_text(text)
    with pytest.raises(RegistrationError, match=f"The sample {shown} "):
        registry.register(tmp_path / "azureml-models", "m", model, sample=shown)
    assert not registry.listing(tmp_path / "azureml-models")


def test_columns_that_code_takes_for_moments_need_a_sample(caplog):
    """The start says so, and the client is told."""
    frame = SPANS.drop(columns="end").assign(start=SPANS["start"].dt.tz_localize(None))
    by_hour = FunctionTransformer(lambda table: table.assign(start=table["start"].dt.hour))
    service = serving(make_pipeline(by_hour, DecisionTreeClassifier()).fit(frame, Y))
    assert "sample_input.json" in caplog.text
    with pytest.raises(SchemaMismatch, match=r"refuses the input: Can only use \.dt accessor"):
        asked(service, b"start,n\n2024-03-01T00:00:00,0\n", CSV)


def test_a_whole_number_beyond_all_floats_is_the_clients_fault():
    """A column of numbers may come as text too, so that it is the model that meets it."""
    service = serving(LinearRegression().fit(pd.DataFrame({"a": [1.0, 2.0]}), [1.0, 2.0]))
    with pytest.raises(SchemaMismatch, match="int too large to convert to float"):
        asked(service, {"data": [[10**400]]})


# --- at the start ---------------------------------------------------------------------------------


class Refusing(BaseEstimator):  # type: ignore[misc]
    def predict(self, X: Any) -> Any:
        raise ValueError("only images of 28 by 28")


def test_an_example_that_does_not_score_is_said_with_the_reason_and_the_way_out(caplog):
    assert serving(Refusing()).example is None
    [record] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "only images of 28 by 28" in record.getMessage()
    assert "sample_input.json" in record.getMessage()


def test_a_model_whose_own_parts_are_missing_is_not_ready():
    """As when it was saved by another version: nothing could ever score."""
    model = RandomForestClassifier(2).fit([[1.0], [2.0]], [0, 1])
    del model.n_outputs_
    with pytest.raises(ModelUnusable, match=r"cannot score anything here: .*'n_outputs_'"):
        ScikitLearnModel(model, LIMITS)


class Sparse(BaseEstimator):  # type: ignore[misc]
    def predict(self, X: Any) -> Any:
        return sparse.csr_matrix(np.asarray(X) > 1)


def test_a_sparse_answer_is_written_whole_within_the_limits():
    rows = [[1, 2], [3, 0]]
    assert asked(serving(Sparse()), rows) == [[False, True], [True, False]]
    small = ScikitLearnModel(Sparse(), Limits(10, 3, 1000))
    with pytest.raises(InputTooLarge, match=r"sparse, of the shape \[2, 2\]; at most 3 values"):
        small.predict(Rows(rows), {}, "")


# --- parameters -----------------------------------------------------------------------------------

POINTS = np.array([[0.0, 1.0], [2.0, 0.5], [4.0, 3.0]])
PROCESS = GaussianProcessRegressor(optimizer=None).fit(POINTS, [1.0, 2.0, 4.0])
RIDGE = make_pipeline(StandardScaler(), BayesianRidge()).fit(POINTS, [1.0, 2.0, 4.0])


def infer(**parameters: Any) -> dict[str, Any]:
    tensor = {"name": "X", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 1.0]}
    return {"inputs": [tensor], "parameters": parameters}


@pytest.mark.parametrize("model", [PROCESS, RIDGE], ids=["itself", "the last of a pipeline"])
def test_parameters_that_the_method_takes_are_used(model):
    given = np.array([[1.0, 1.0]])
    mean, std = (each.tolist() for each in model.predict(given, return_std=True))
    service = serving(model)
    body = {"data": given.tolist(), "params": {"return_std": True}}
    assert asked(service, body) == {"predict": mean, "std": std}
    outputs = asked(service, infer(return_std=True))["outputs"]
    assert {each["name"]: each["data"] for each in outputs} == {"predict": mean, "std": std}
    assert asked(service, {**body, "params": {"return_std": False}}) == mean
    assert asked(service, body, accept=CSV).splitlines()[0] == "predict,std"


def test_a_method_may_be_a_parameter():
    model = LogisticRegression().fit(POINTS, [0, 1, 1])
    expected = model.predict_proba([[1.0, 1.0]]).tolist()
    [output] = asked(serving(model), infer(method="predict_proba", content_type="np"))["outputs"]
    assert (output["name"], output["data"]) == ("predict_proba", expected[0])
    body = {"data": [[1.0, 1.0]], "params": {"method": "predict_proba"}}
    assert asked(serving(model), body) == expected


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"return_all": 1}, "does not take the parameters 'return_all'. It takes: return_std, ret"),
        ({"return_std": "false"}, "The parameter return_std is text 'false'; expected is true or"),
        ({"method": "predict_proba"}, "The model has no method 'predict_proba'. It has: predict."),
        ({"method": 3}, "method is 3; expected is a name as text."),
    ],
)
def test_parameters_that_a_model_could_only_ignore_are_refused(parameters, problem):
    with pytest.raises(InputError) as caught:
        asked(serving(PROCESS), {"data": [[1.0, 1.0]], "params": parameters})
    assert problem in str(caught.value)


def test_checks_of_the_input_cannot_be_turned_off():
    tree = DecisionTreeClassifier().fit(POINTS, [0, 1, 1])
    with pytest.raises(SchemaMismatch, match=r"'check_input'. It takes none\."):
        asked(serving(tree), {"data": [[1.0, 1.0]], "params": {"check_input": False}})


# --- several outputs ------------------------------------------------------------------------------


def test_probabilities_of_several_outputs_have_rows_first_where_lines_are_rows():
    kinds = np.stack([Y, np.arange(12) % 3], axis=1)
    model = RandomForestClassifier(3, random_state=0).fit(FRAMES["numbers"], kinds)
    service, rows = serving(model), FRAMES["numbers"].to_numpy()[:4]
    two, three = (each.tolist() for each in model.predict_proba(FRAMES["numbers"][:4]))
    query = "method=predict_proba"
    assert asked(service, rows.tolist(), query=query) == [two, three]
    lines = [
        json.loads(e) for e in asked(service, rows.tolist(), query=query, accept=LINES).split()
    ]
    expected = [[[*a, None], b] for a, b in zip(two, three, strict=True)]
    assert [each["predict_proba"] for each in lines] == expected
    assert service.outputs[1].shape == (-1, 2, 3)
