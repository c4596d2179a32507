"""Models that cannot be served: each ends the start with one screen that names the cause."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
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
from tests.hosts.standalone import clean_environ, free_port

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


class Failing:
    """Unpickling it raises."""

    def __reduce__(self) -> Any:
        return (int, ("not a number",))


def written(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def pickled(value: Any, name: str = "model.pkl") -> Break:
    return lambda folder: (folder / name).write_bytes(pickle.dumps(value))


def cut(compress: int) -> Break:
    def broken(folder: Path) -> None:
        path = folder / "model.joblib"
        joblib.dump(fitted(), path, compress=compress)
        os.truncate(path, path.stat().st_size // 2)

    return broken


def of_module(name: str, *, left: str = "") -> Break:
    """A pickle of a class in a module that is not there, or that has ``left`` instead."""

    def broken(folder: Path) -> None:
        module = ModuleType(name)
        kind = type("Model", (), {"__module__": name, "predict": lambda self, rows: rows})
        vars(module)["Model"] = kind
        sys.modules[name] = module
        try:
            (folder / "model.pkl").write_bytes(pickle.dumps(kind()))
        finally:
            del sys.modules[name]
        if left:
            (folder / f"{name}.py").write_text(left)

    return broken


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


def newer(domain: str) -> onnx.ModelProto:
    return identity(opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(domain, 99)])


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


# What is in the folder → what the last line says of it; {} is the folder.
SCREENS: dict[str, tuple[Break, str]] = {
    "empty pickle": (
        written("model.pkl", b""),
        "{}/model.pkl cannot be loaded: EOFError. The file was cut short, or "
        "is of another kind: copy it again.",
    ),
    "truncated pickle": (
        lambda folder: written("model.pkl", pickle.dumps(fitted())[:-40])(folder),
        "{}/model.pkl cannot be loaded: UnpicklingError: pickle exhausted before end of frame. The "
        "file is no pickle, or was changed: save the model again.",
    ),
    "truncated joblib": (cut(0), "{}/model.joblib cannot be loaded: "),
    "truncated compressed joblib": (cut(3), "{}/model.joblib cannot be loaded: "),
    "not a pickle": (
        written("model.pkl", b"a,b\n1,2\n"),
        "{}/model.pkl cannot be loaded: IndexError: pop from empty list. It starts with "
        "b'a,b\\n1,2\\n', as no pickle does: copy it again, or save it again.",
    ),
    "a web page": (
        written("model.joblib", b"<!DOCTYPE html><html></html>"),
        "{}/model.joblib cannot be loaded: KeyError: 60. It starts with b'<!DOCTYPE ht', as no "
        "pickle does: copy it again, or save it again.",
    ),
    "pickle whose module is missing": (
        of_module("modelling_code"),
        "{}/model.pkl cannot be loaded: it needs the module modelling_code, which is not there: ",
    ),
    "pickle whose module is in another package": (
        of_module("sklearn.not_there_any_more"),
        "{}/model.pkl cannot be loaded: it needs the module sklearn.not_there_any_more, which is "
        "not there: ",
    ),
    "pickle of a class of the main program": (
        written("model.pkl", b"\x80\x02c__main__\nModelOfMine\n)\x81."),
        "{}/model.pkl cannot be loaded: AttributeError: ",
    ),
    "pickle that raises": (
        pickled(Failing()),
        "{}/model.pkl cannot be loaded: ValueError: invalid literal for int() with base 10: 'not a "
        "number'.",
    ),
    "pickle that ends the process": (
        pickled(Leaving()),
        "{}/model.pkl cannot be loaded: SystemExit: 0.",
    ),
    "pickle of no model": (
        pickled({"weights": [1, 2]}),
        "{}/model.pkl: The model is a dict, which has no predict(). Models that score without a "
        "script have one; for another write an entry script.",
    ),
    "pickle of an array": (
        pickled(np.ones(3)),
        "{}/model.pkl: The model is a ndarray, which has no predict(). ",
    ),
    "pickle of a class": (
        pickled(LinearRegression),
        "{}/model.pkl: The model is the class LinearRegression itself, not an instance of it: ",
    ),
    "model that was not fitted": (
        pickled(LinearRegression()),
        "{}/model.pkl: The model, a LinearRegression, was not fitted: call its fit(), then save it "
        "again.",
    ),
    "empty ONNX": (
        written("model.onnx", b""),
        "onnxruntime cannot load {}/model.onnx: No graph was found in the protobuf. The file was "
        "cut short, or is of another kind: copy it again.",
    ),
    "ONNX that is text": (
        written("model.onnx", b"hello, I am no model"),
        "onnxruntime cannot load {}/model.onnx: Protobuf parsing failed. The file was cut short, "
        "or is of another kind: copy it again.",
    ),
    "truncated ONNX": (
        in_onnx(identity(), -9),
        "onnxruntime cannot load {}/model.onnx: "
        "Protobuf parsing failed. The file was cut short, or is of another "
        "kind: copy it again.",
    ),
    "newer opset": (
        in_onnx(identity(opset_imports=[helper.make_opsetid("", 99)])),
        "onnxruntime cannot load {}/model.onnx: ONNX Runtime only *guarantees* support "
        "for models stamped with official released onnx opset versions. Opset 99 is under "
        "development",
    ),
    "newer opset of ai.onnx.ml": (
        in_onnx(newer("ai.onnx.ml")),
        "onnxruntime cannot load {}/model.onnx: ONNX Runtime only *guarantees* support "
        "for models stamped with official released onnx opset versions. Opset 99 is under "
        "development",
    ),
    "newer IR version": (
        in_onnx(identity(ir_version=99)),
        "onnxruntime cannot load {}/model.onnx: Unsupported model IR version: 99, max "
        "supported IR version: ",
    ),
    "operator that is not there": (
        in_onnx(with_operator("Own")),
        "onnxruntime cannot load {}/model.onnx: Fatal error: my.ops:Own(-1) is not a "
        "registered function/op. It has operators that onnxruntime does not: write an entry script "
        "that registers them.",
    ),
    "external data missing": (
        external(Path.unlink),
        "onnxruntime cannot load {}/model.onnx: External data path validation failed ",
    ),
    "external data cut": (
        external(lambda path: os.truncate(path, 10)),
        "onnxruntime cannot load {}/model.onnx: ",
    ),
    "external data outside": (
        external(linked_outside),
        "onnxruntime cannot load {}/model.onnx: External data path validation failed ",
    ),
    "two models": (
        two,
        "{} holds several models: model.onnx, model.pkl. Without an entry script one is expected: "
        "leave one there, or register each with scoring-runtime models register.",
    ),
    "MLmodel without a loader": (
        written("MLmodel", b"flavors:\n  python_function:\n    env: conda.yaml\n"),
        "{} cannot be loaded: ",
    ),
}
ADVICE = {
    "pickle of a class of the main program": (
        "Its class was defined in the notebook or program that saved it: put the class into a "
        "module of its own, save the model again, and ship that module with it."
    ),
    "newer opset": "Export it for an older opset, or install a newer onnxruntime.",
    "newer IR version": "Export it for an older opset, or install a newer onnxruntime.",
    "external data missing": (
        "Its external data file is missing: put it beside the model, under the same name."
    ),
    "external data cut": ("Its external data file is shorter than the model says: copy it again."),
    "external data outside": "Its external data must be in a file beside the model.",
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
    break_it, expected = SCREENS[case]
    folder = tmp_path / "model"
    folder.mkdir()
    break_it(folder)
    error, screen = failed(folder)
    assert isinstance(error, ModelUnusable)
    cause = assert_one_screen(screen, folder)
    expected = expected.replace("{}", str(folder))
    assert cause.startswith(expected)
    if expected.endswith("."):
        assert cause == expected
    assert cause.endswith(ADVICE.get(case, ""))


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


def registered(tmp_path: Path, name: str = "line") -> Path:
    """The folder of version 1 of a model in a registry."""
    source = tmp_path / "made" / "model.pkl"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(pickle.dumps(fitted()))
    registry = tmp_path / "azureml-models"
    register(registry, name, source)
    return registry / name / "1"


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


def test_one_wrong_model_among_several_is_named(tmp_path):
    registered(tmp_path, "good")
    folder = registered(tmp_path, "bad")
    (folder / "model.pkl").write_bytes(b"garbage")
    _, screen = failed(tmp_path / "azureml-models")
    cause = screen.splitlines()[-1]
    assert cause.startswith(f"Cause: The model in {folder} is not what was registered: model.pkl")


# --- the processes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    ["truncated pickle", "pickle that ends the process", "newer opset", "external data missing",
     "two models"],
)  # fmt: skip
def test_serve_ends_with_3_and_the_same_cause_as_its_last_line(case, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    SCREENS[case][0](folder)
    _, screen = failed(folder)
    served = subprocess.run(
        [sys.executable, "-m", "scoring_runtime", "serve", "--port", str(free_port())],
        env=clean_environ(AZUREML_MODEL_DIR=str(folder), SERVER_HOST="127.0.0.1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert served.returncode == 3
    assert "Traceback" not in served.stdout + served.stderr
    assert served.stderr.rstrip().splitlines()[-1] == screen.splitlines()[-1]


def test_in_functions_the_import_of_the_app_raises_with_the_same_screen(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    SCREENS["truncated pickle"][0](folder)
    _, screen = failed(folder)
    environ = clean_environ(AZUREML_MODEL_DIR=str(folder), AML_APP_ROOT=str(tmp_path))
    with pytest.raises(RuntimeError) as caught, FunctionsHost(ROOT, environ):
        pass
    assert screen.splitlines()[-1] in str(caught.value)
