"""Models that cannot be served: each ends the start with one screen that names the cause."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LinearRegression

from scoring_runtime import Settings, build
from scoring_runtime.errors import ModelDamaged, ModelUnusable, ScoringRuntimeError
from scoring_runtime.models.registry import register
from scoring_runtime.scoring.diagnosis import diagnosis
from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parents[2]
Break = Callable[[Path], object]


def fitted() -> Any:
    return LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])


class Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


class Leaving:
    """Unpickling it ends the process."""

    def __reduce__(self) -> Any:
        return (sys.exit, (0,))


def written(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def pickled(value: Any, name: str = "model.pkl") -> Break:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(value))


def identity(**changes: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )
    return helper.make_model(
        graph,
        **{"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 9, **changes},
    )


def in_onnx(model: onnx.ModelProto, end: int | None = None) -> Break:
    return written("model.onnx", model.SerializeToString()[:end])


def with_operator(name: str) -> onnx.ModelProto:
    model = identity(opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("my.ops", 1)])
    model.graph.node[0].domain, model.graph.node[0].op_type = "my.ops", name
    return model


def external(break_it: Callable[[Path], object]) -> Break:
    def broken(folder: Path) -> None:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
            [numpy_helper.from_array(np.ones((8, 8), np.float32), "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save_model(
            model,
            str(folder / "model.onnx"),
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=1,
        )
        break_it(folder / "weights.bin")

    return broken


def linked_outside(path: Path) -> None:
    path.rename(path.parent.parent / "outside.bin")
    path.symlink_to(path.parent.parent / "outside.bin")


def two(folder: Path) -> None:
    pickled(fitted())(folder)
    in_onnx(identity())(folder)


UNPICKLED, UNREAD = "{}/model.pkl cannot be loaded: ", "onnxruntime cannot load {}/model.onnx: "
CUT = " The file was cut short, or is of another kind: copy it again."
OUTSIDE = UNREAD + "External data path validation failed "
OLDER = "Export it for an older opset, or install a newer onnxruntime."

# What is in the folder → how the last line begins and ends; {} is the folder.
SCREENS: dict[str, tuple[Break, str, str]] = {
    "truncated pickle": (
        written("model.pkl", pickle.dumps(fitted())[:-40]),
        UNPICKLED + "UnpicklingError: pickle exhausted before end of frame.",
        CUT,
    ),
    "not a pickle": (
        written("model.pkl", b"a,b\n1,2\n"),
        UNPICKLED + "IndexError: pop from empty list. It starts with b'a,b\\n1,2\\n', as",
        "no pickle does: copy it again, or save it again.",
    ),
    "pointer of Git LFS": (
        written("model.pkl", b"version https://git-lfs.github.com/spec/v1\n"),
        UNPICKLED,
        "It is a pointer of Git LFS in place of the file: run git lfs pull.",
    ),
    "pickle that ends the process": (pickled(Leaving()), UNPICKLED + "SystemExit: 0.", ""),
    "pickle of no model": (
        pickled({"weights": [1, 2]}),
        "{}/model.pkl: The model is a dict, which has no predict(). Models that score without",
        "a script have one; for another write an entry script.",
    ),
    "pickle of a class": (
        pickled(LinearRegression),
        "{}/model.pkl: The model is the class LinearRegression itself, not an instance of it: ",
        "",
    ),
    "model that was not fitted": (
        pickled(LinearRegression()),
        "{}/model.pkl: The model, a LinearRegression, was not fitted",
        ": call its fit(), then save it again.",
    ),
    "empty ONNX": (written("model.onnx", b""), UNREAD + "No graph was found in the protobuf.", CUT),
    "truncated ONNX": (in_onnx(identity(), -9), UNREAD + "Protobuf parsing failed.", CUT),
    "newer opset": (
        in_onnx(identity(opset_imports=[helper.make_opsetid("", 99)])),
        UNREAD + "ONNX Runtime only *guarantees* support for models stamped with official",
        OLDER,
    ),
    "newer IR version": (
        in_onnx(identity(ir_version=99)),
        UNREAD + "Unsupported model IR version: 99, max supported IR version: ",
        OLDER,
    ),
    "operator that is not there": (
        in_onnx(with_operator("Own")),
        UNREAD + "Fatal error: my.ops:Own(-1) is not a registered function/op. It has operators",
        "that onnxruntime does not: write an entry script that registers them.",
    ),
    "external data missing": (
        external(Path.unlink),
        OUTSIDE,
        "Its external data file is missing: put it beside the model, under the same name.",
    ),
    "external data cut": (
        external(lambda path: os.truncate(path, 10)),
        UNREAD,
        "Its external data file is shorter than the model says: copy it again.",
    ),
    "external data outside": (
        external(linked_outside),
        OUTSIDE,
        "Its external data must be in a file beside the model.",
    ),
    "two models": (
        two,
        "{} holds several models: model.onnx, model.pkl. Without an entry script one is expected:",
        "leave one there, or register each with scoring-runtime models register.",
    ),
}


def failed(folder: Path) -> tuple[ScoringRuntimeError, str]:
    """The error that a start with this model folder ends with, and the screen that shows it."""
    settings = Settings.from_environ(
        {"AZUREML_MODEL_DIR": str(folder), "AML_APP_ROOT": str(folder.parent)}
    )

    async def main() -> None:
        runtime = build(settings)
        runtime.start()
        try:
            await runtime.started()
        finally:
            await runtime.stop(0)

    with pytest.raises(ScoringRuntimeError) as caught:
        asyncio.run(asyncio.wait_for(main(), 60))
    return caught.value, diagnosis(caught.value, settings)


def assert_one_screen(screen: str, folder: Path) -> str:
    """No traceback, the folder's tree, the cause at the end; the result is the cause."""
    assert "Traceback" not in screen
    assert str(ROOT / "scoring_runtime") not in screen
    assert str(folder) in screen
    assert len(screen.splitlines()) <= 24
    cause = screen.splitlines()[-1]
    assert cause.startswith("Cause: ")
    assert len(cause) < 900
    return cause.removeprefix("Cause: ")


@pytest.mark.parametrize("case", SCREENS)
def test_a_wrong_model_is_one_screen_with_the_file_and_the_cause(case, tmp_path):
    break_it, start, end = SCREENS[case]
    folder = tmp_path / "model"
    folder.mkdir()
    break_it(folder)
    error, screen = failed(folder)
    assert isinstance(error, ModelUnusable)
    cause = assert_one_screen(screen, folder)
    assert cause.startswith(start.replace("{}", str(folder)))
    assert cause.endswith(end or cause)


@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
def test_a_folder_without_a_model_is_named_with_what_could_be_in_it(there, tmp_path):
    folder = tmp_path / "model"
    if there:
        folder.mkdir()
    _, screen = failed(folder)
    assert "Traceback" not in screen
    assert str(folder) in screen
    assert ".pkl, .pickle, .joblib, .sav, .onnx or a folder with a file MLmodel" in screen


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("joblib", "model.pkl", "sklearn"), ("onnxruntime", "model.onnx", "onnx")],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    package, name, extra, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    folder.mkdir()
    (pickled(fitted()) if name == "model.pkl" else in_onnx(identity()))(folder)
    monkeypatch.setitem(sys.modules, package, None)
    error, screen = failed(folder)
    assert isinstance(error, ModelUnusable)
    cause = assert_one_screen(screen, folder)
    assert f"pip install 'scoring-runtime[{extra}]'" in cause
    assert name in cause


# --- registered models ----------------------------------------------------------------------------


def registered(tmp_path: Path) -> Path:
    """The folder of version 1 of a model in a registry."""
    source = tmp_path / "made" / "model.pkl"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(pickle.dumps(fitted()))
    registry = tmp_path / "azureml-models"
    register(registry, "line", source)
    return registry / "line" / "1"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder, evil: (folder / "model.pkl").write_bytes(evil), "model.pkl has changed"),
        (lambda folder, evil: (folder / "other.pkl").write_bytes(evil), "was not registered"),
        (lambda folder, evil: (folder / "model.pkl").unlink(), "model.pkl is missing"),
    ],
    ids=["changed", "added", "missing"],
)
def test_of_a_registered_model_that_was_changed_nothing_is_unpickled(change, problem, tmp_path):
    folder = registered(tmp_path)
    mark = tmp_path / "it was unpickled"
    change(folder, pickle.dumps(Evil(mark)))
    error, screen = failed(tmp_path / "azureml-models")
    assert isinstance(error, ModelDamaged)
    cause = assert_one_screen(screen, folder)
    assert cause.startswith(f"The model in {folder} is not what was registered: ")
    assert problem in cause
    assert not mark.exists()


# --- the processes --------------------------------------------------------------------------------


def test_in_functions_the_import_of_the_app_raises_with_the_same_screen(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    SCREENS["truncated pickle"][0](folder)
    _, screen = failed(folder)
    environ = clean_environ(AZUREML_MODEL_DIR=str(folder), AML_APP_ROOT=str(tmp_path))
    with pytest.raises(RuntimeError) as caught, FunctionsHost(ROOT, environ):
        pass
    assert screen.splitlines()[-1] in str(caught.value)
