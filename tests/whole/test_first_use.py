"""What somebody meets who serves a model of their own for the first time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from scoring_runtime import Settings
from scoring_runtime.errors import ModelUnusable, SchemaMismatch, UnsupportedContentType
from scoring_runtime.formats import by_content_type
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.no_code import input_frame, scikit_learn
from scoring_runtime.no_code.onnx import OnnxModel
from scoring_runtime.triggers.blob_paths import blob_paths
from scoring_runtime.values.content import Limits, Rows, Tensors
from tests.hosts.standalone import clean_environ
from tests.models_for_tests import (
    ModelHost,
    identity_onnx,
    named_iris_estimator,
    onnx_model,
    replies,
)

LIMITS = Limits(1000, 100_000, 1_000_000)
IRIS = [5.1, 3.5, 1.4, 0.2]


def test_a_model_fitted_on_a_table_needs_pandas_to_go_by_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it columns would be taken in any order: it says what to install."""
    monkeypatch.setattr(input_frame, "find_spec", lambda name: None)
    with pytest.raises(ModelUnusable, match="pip install pandas"):
        scikit_learn.ScikitLearnModel(named_iris_estimator(), LIMITS)


def test_one_matrix_of_a_v2_client_is_the_table() -> None:
    """Clients send one tensor of all columns, under a name of their own."""
    model = scikit_learn.ScikitLearnModel(named_iris_estimator(), LIMITS)
    expected = model.predict(Rows([IRIS]), {}, "")
    assert list(model.predict(Tensors({"predict": np.array([IRIS])}), {}, "")) == list(expected)
    with pytest.raises(SchemaMismatch, match="Missing columns"):
        model.predict(Tensors({"predict": np.array([IRIS[:3]])}), {}, "")


def test_rows_are_not_cut_into_several_wide_inputs(tmp_path: Path) -> None:
    """Who forgets the second input is told so, instead of getting an answer to something else."""
    (tmp_path / "model.onnx").write_bytes(identity_onnx(("INT32", "INT64"), ("n", "l")))
    model = OnnxModel(tmp_path / "model.onnx", Settings())
    with pytest.raises(SchemaMismatch) as caught:
        model.predict(Rows([[1, 2]]), {}, "")
    assert str(caught.value) == (
        "The model has several inputs: 'in_INT32', 'in_INT64'. Send each by its name, as in "
        """{"inputs": {name: values}}; 'in_INT32' takes [any, any] of INT32."""
    )


def test_an_unknown_header_parameter_of_csv_is_refused() -> None:
    request = ScoringRequest(b"1,2\n", ((b"content-type", b"text/csv; header=maybe"),))
    with pytest.raises(UnsupportedContentType, match="Allowed: header=present, header=absent"):
        by_content_type.read(request, LIMITS)


@pytest.mark.parametrize(
    ("said", "base"),
    [
        ("input/{model}/{blobname}.json", "{model}/{blobname}"),
        ("in-box/{name}.csv", "{name}"),
        ("input/{day}/{name}", "{day}/{name}"),
        ("input/{blobname}.json", "{blobname}"),
    ],
)
def test_the_output_follows_the_input_path_unless_it_is_set(said: str, base: str) -> None:
    paths = blob_paths(Settings.from_environ({"BLOB_INPUT_PATH": said}))
    assert paths.output.text == f"output/{base}_out.json"
    assert paths.error.text == f"output/{base}_error.json"


def test_bad_requests_write_nothing_of_onnxruntimes_own(tmp_path: Path) -> None:
    """Its lines hold paths of its sources, and a client could flood the log with them."""
    from onnx import helper

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(
        onnx_model(
            [helper.make_node("Reshape", ["x", "shape"], ["y"])],
            [helper.make_tensor_value_info("x", 1, ["n", "m"])],
            [helper.make_tensor_value_info("y", 1, [2, 3])],
            [helper.make_tensor("shape", 7, [2], [2, 3])],
        )
    )
    with ModelHost(folder) as host:
        answer = httpx.post(f"{host.url}/score", json={"data": [[1.0, 2.0]]})
        log = host.log
    assert answer.status_code == 400
    assert "The model refuses the input" in answer.json()["message"]
    assert "onnxruntime:" not in log and ".cc:" not in log


def test_what_is_no_model_folder_is_said_in_the_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scoring_runtime", "serve", "--model-dir", "nowhere"]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert ", which does not exist;" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("policy", ["null", "error"])
def test_an_example_that_gives_nan_keeps_no_model_from_starting(
    policy: str, tmp_path: Path
) -> None:
    """Whatever SCORING_NAN says: 0 divided by 0 is the answer to an example of zeros."""
    from onnx import helper

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(
        onnx_model(
            [helper.make_node("Div", ["x", "x"], ["y"])],
            [helper.make_tensor_value_info("x", 1, ["n", 1])],
            [helper.make_tensor_value_info("y", 1, ["n", 1])],
        )
    )
    [found] = replies(folder, "POST", "/score", body=b'{"data": [[2.0]]}', SCORING_NAN=policy)
    assert found == (200, [[1.0]])
    [(status, document)] = replies(folder, "GET", "/swagger.json", body=b"", SCORING_NAN=policy)
    assert status == 200
    assert "ServiceInput" in document["definitions"]
