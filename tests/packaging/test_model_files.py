"""What a package takes of a model, and what it says that the model's files still need."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import manifest
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.environment.pip import from_packages
from scoring_runtime.packaging.model_files import from_path
from scoring_runtime.packaging.specification import Context, Environment, Specification

OWN = "import os\nfrom own_words import WORDS\n\n\nclass Step:\n    words = WORDS\n"
SCRIPT = "def init():\n    pass\n\n\ndef run(data):\n    return data\n"

Make = Callable[..., Context]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """``made(model, script="", *packages)``: the context of both, nothing allowed to be missing."""
    monkeypatch.chdir(tmp_path)

    def run(model: Path, script: str = "", *packages: str, **others: object) -> Context:
        named: dict[str, object] = {
            "environment": from_packages(packages) if packages else Environment()
        }
        if script:
            (tmp_path / "src").mkdir(exist_ok=True)
            (tmp_path / "src/score.py").write_text(script)
            named["entry_script"] = tmp_path / "src/score.py"
        models = (from_path("m", 1, model),)
        wanted = Specification(models=models, **{**named, **others})  # type: ignore[arg-type]
        return make(wanted, tmp_path / "package", resolve=False, allow_missing=False)

    return run


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pickle of a class in a module beside it, which imports another."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "own_step.py").write_text(OWN)
    for name in ("own_words.py", "train.py", "notes.txt", "sample_input.json"):
        (folder / name).write_text("WORDS = 1\n")
    monkeypatch.syspath_prepend(folder)
    import own_step  # type: ignore[import-not-found]

    (folder / "m.pkl").write_bytes(pickle.dumps(own_step.Step()))
    for name in ("own_step", "own_words"):
        sys.modules.pop(name)
    return folder / "m.pkl"


def of_model(context: Context) -> set[str]:
    folder = context.path / "azureml-models/m/1"
    manifest.check(folder)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_a_model_alone_needs_beside_it_is_taken(made: Make, own: Path) -> None:
    there = {"m.pkl", "own_step.py", "own_words.py", "sample_input.json"}
    assert of_model(made(own)) == there
    assert made(own).unchanged
    (own.parent / "own_words.py").write_text("WORDS = 2\n")
    assert not made(own).unchanged


def test_a_folder_has_its_modules(made: Make, own: Path) -> None:
    (own.parent / "train.py").write_text("import gone1")
    [warning] = made(own.parent).warnings
    assert warning.startswith("trained/train.py line 1 imports gone1, which no requirement ")
    (own.parent / "own_step.py").unlink()
    with pytest.raises(PackagingError, match="needs own_step, which no requirement provides"):
        made(own.parent)


def test_a_module_that_a_pickle_names_beside_the_script_is_taken(
    made: Make, own: Path, tmp_path: Path
) -> None:
    """The script does not import it itself; beside the model alone it would not be found."""
    with pytest.raises(PackagingError) as caught:
        made(own, SCRIPT)
    assert str(caught.value).startswith(
        f"The model m (m.pkl) needs own_step, which lies in {own.parent} and is not packaged: "
    )
    for name in ("own_step.py", "own_words.py"):
        (own.parent / name).rename(tmp_path / "src" / name)
    context = made(own, SCRIPT)
    assert context.source_files == ("own_step.py", "own_words.py", "score.py")
    assert of_model(context) == {"m.pkl"}


def test_the_weights_of_an_onnx_file_are_taken(made: Make, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    value = onnx.numpy_helper.from_array(np.ones((400, 4), "float32"), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, size])
        for name, size in (("x", 400), ("y", 4))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [value]), ir_version=9
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.weights.bin")
    (tmp_path / "other.bin").touch()
    assert of_model(made(tmp_path / "m.onnx")) == {"m.onnx", "m.weights.bin"}


def test_a_file_cannot_name_others_of_this_machine(made: Make, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "here").mkdir()
    names = [b"../secret", bytes(tmp_path / "secret"), b"a/../../secret"]
    entries = b"".join(b"\x0a\x08location\x12" + bytes([len(name)]) + name for name in names)
    (tmp_path / "here/m.onnx").write_bytes(entries)
    assert of_model(made(tmp_path / "here/m.onnx")) == {"m.onnx"}


GONE = pickle.dumps(np.float64(1)).replace(b"numpy", b"gone1")


@pytest.mark.parametrize("script", ["", SCRIPT])
def test_what_a_pickle_needs_is_named(made: Make, tmp_path: Path, script: str) -> None:
    """Or the image would start, and fail."""
    (tmp_path / "m.pkl").write_bytes(GONE.replace(b"gone1", b"xgbst"))
    with pytest.raises(PackagingError) as caught:
        made(tmp_path / "m.pkl", script)
    assert str(caught.value) == (
        "The model m (m.pkl) needs xgbst, which no requirement provides: add --pip-package xgbst. "
        "If they are there all the same where the image runs: --allow-missing."
    )
    assert not (tmp_path / "package").exists()
    assert made(tmp_path / "m.pkl", script, "xgbst==1.0").warnings == ()
    based = Environment(base_image="own:1")
    [warning] = made(tmp_path / "m.pkl", script, environment=based).warnings
    assert "needs xgbst, which no requirement" in warning


@pytest.mark.parametrize(
    ("texts", "needed"),
    [
        ({"score": f"import gone1\n{SCRIPT}"}, True),
        ({"score": f"import used\n{SCRIPT}", "used": "import gone1"}, True),
        ({"score": SCRIPT, "train": "import gone1"}, False),
        ({"score": f"try:\n    import gone1\nexcept ImportError:\n    pass\n{SCRIPT}"}, False),
    ],
    ids=["script", "imported", "beside", "guarded"],
)
def test_what_a_script_needs_is_named(
    texts: dict[str, str], needed: bool, made: Make, tmp_path: Path
) -> None:
    """Of the script and what it imports; a file that only lies beside it is warned about."""
    (tmp_path / "src").mkdir()
    for name, text in texts.items():
        (tmp_path / "src" / f"{name}.py").write_text(text)
    (tmp_path / "m.bin").touch()
    if needed:
        with pytest.raises(PackagingError, match="imports gone1, which no requirement provides"):
            made(tmp_path / "m.bin", texts["score"], source_dir=tmp_path / "src")
        return
    context = made(tmp_path / "m.bin", texts["score"], source_dir=tmp_path / "src")
    assert len(context.warnings) == ("train" in texts)


@pytest.mark.parametrize(
    ("operator", "package", "installed"),
    [
        ("StringNormalizer", "", "locales"),
        ("Identity", "", ""),
        ("Identity", "lightgbm>=4", "libgomp1"),
        ("StringNormalizer", "lightgbm", "libgomp1 locales"),
        ("", "lightgbm-tools", ""),
    ],
)
def test_the_image_has_what_models_need_of_the_system(
    operator: str, package: str, installed: str, made: Make, tmp_path: Path
) -> None:
    model = tmp_path / "m.onnx"
    text = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, ["N"])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, ["N"])
    nodes = [onnx.helper.make_node(operator, ["x"], ["y"])] if operator else []
    graph = onnx.helper.make_graph(nodes, "g", [text], [same])
    model.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    context = made(model, SCRIPT, *([package] if package else []))
    lines = (context.path / "Dockerfile").read_text().splitlines()
    wanted = f"    && apt-get install -y -qq --no-install-recommends {installed} \\"
    assert lines.count(wanted) == (2 if installed else 0)
    assert any("localedef" in line for line in lines) is ("locales" in installed)
