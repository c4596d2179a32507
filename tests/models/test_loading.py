"""Loading a model by its kind: what is loaded, the warnings, and what each damage says."""

from __future__ import annotations

import gzip
import operator
import pickle
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoring_runtime.errors import ModelDamaged, ModelNotFound, ModelUnusable
from scoring_runtime.models import folder as models
from scoring_runtime.models import manifest
from scoring_runtime.models.kinds import candidates
from scoring_runtime.models.loading import (
    VersionDifference,
    find_model_file,
    load_model,
    recorded_versions,
    version_differences,
)
from scoring_runtime.models.manifest import Manifest
from scoring_runtime.models.registry import register

ROWS = np.array([[0.0, 1.0], [2.0, 5.0], [3.0, 3.0]])


Warned = Callable[[], list[str]]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Warned:
    """The warnings in the log so far."""
    return lambda: [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def fitted() -> Any:
    return make_pipeline(StandardScaler(), LinearRegression()).fit(ROWS, [1.0, 2.0, 4.0])


def save_pickle(path: Path, model: Any) -> Path:
    path.write_bytes(pickle.dumps(model))
    return path


def save_onnx(path: Path, opset: int = 17) -> Path:
    """A model that doubles its input ``x``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    imports = [helper.make_opsetid("", opset)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    )
    return path


# --- what is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "compress"),
    [("m.pkl", 0), ("M.PICKLE", 3), ("m.sav.xz", ("xz", 3)), ("m.joblib.z", ("zlib", 3)),
     ("m.pickle.lzma", ("lzma", 3)), ("m.pkl.bz2", ("bz2", 3)), ("m.pkl.gz", None), ("m", None)],
)  # fmt: skip
def test_pickles(name: str, compress: Any, root: Path, tmp_path: Path, warned: Warned) -> None:
    """pickle's and joblib's files, whatever they are called; they predict the same to the bit."""
    model, path = fitted(), tmp_path / (name if "." in name else f"{name}.joblib")
    if compress is None:
        content = pickle.dumps(model)
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    else:
        joblib.dump(model, path, compress=compress)
    register(root, "iris", path)
    assert load_model(root=root).predict(ROWS).tobytes() == model.predict(ROWS).tobytes()
    assert warned() == []


def test_an_onnx_file(root: Path, tmp_path: Path, warned: Warned) -> None:
    """A session of onnxruntime."""
    register(root, "double", save_onnx(tmp_path / "m.onnx"))
    session = load_model("double", root=root)
    assert isinstance(session, onnxruntime.InferenceSession)
    [answer] = session.run(None, {"x": np.array([[1, 2]], np.float32)})
    assert answer.tolist() == [[2.0, 4.0]]
    assert warned() == []


@pytest.fixture(scope="module")
def mlflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scikit-learn model as mlflow saves it."""
    folder = tmp_path_factory.mktemp("mlflow") / "regression"
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_TRACKING_URI", folder.with_name("runs").as_uri())
        warnings.simplefilter("ignore")
        import mlflow.sklearn

        mlflow.sklearn.save_model(fitted(), str(folder), pip_requirements=["scikit-learn"])
    return folder


def test_an_mlflow_folder(mlflow_folder: Path, root: Path, warned: Warned) -> None:
    """As mlflow.pyfunc loads it; what is left behind in the folder is no damage."""
    record = register(root, "regression", mlflow_folder)
    assert record.manifest.kind == "mlflow"
    assert record.manifest.libraries == {
        "scikit-learn": version("scikit-learn"),
        "mlflow": version("mlflow"),
    }
    for _ in range(2):
        loaded = load_model("regression", root=root)
        assert loaded.predict(ROWS).tobytes() == fitted().predict(ROWS).tobytes()
    assert (type(loaded).__module__, type(loaded).__name__) == ("mlflow.pyfunc", "PyFuncModel")
    assert warned() == []


def test_which_model(root: Path, tmp_path: Path) -> None:
    """By name, version and file, as model_path; of several files one has to be named."""
    (tmp_path / "pair").mkdir()
    for name in ("a.pkl", "b.pkl"):
        save_pickle(tmp_path / "pair" / name, name)
    for _ in range(2):
        register(root, "pair", tmp_path / "pair")
    (root / "pair/2/pair/b.pkl").touch()
    assert load_model("pair", 1, file="pair/a.pkl", root=str(root)) == "a.pkl"
    with pytest.raises(ModelNotFound, match=r"^There is no pair/c\.pkl in \S+/pair/2\. Did you"):
        load_model("pair", file="pair/c.pkl", root=root)
    with pytest.raises(ModelUnusable, match=r"/pair/2/pair holds several models: a\.pkl, b"):
        load_model("pair", root=root)


def test_the_folder_of_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root= it is the one that the runtime has set; a plain folder or file will do."""
    path = save_pickle(tmp_path / "m.pkl", 7)
    for folder in (tmp_path, path):
        monkeypatch.setattr(models, "_root", folder)
        assert load_model() == 7


# --- which file -----------------------------------------------------------------------------------


def test_the_file_to_load(tmp_path: Path) -> None:
    """The only one of a known kind, however deep; the file MLmodel stands for its folder."""
    (tmp_path / "a/saved").mkdir(parents=True)
    (tmp_path / "a/saved/m.onnx").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/MLmodel").touch()
    assert find_model_file(tmp_path / "a") == ("onnx", tmp_path / "a/saved/m.onnx")
    assert find_model_file(tmp_path / "a/saved/m.onnx") == ("onnx", tmp_path / "a/saved/m.onnx")
    assert find_model_file(tmp_path / "b") == ("mlflow", tmp_path / "b")
    assert find_model_file(tmp_path / "b/MLmodel") == ("mlflow", tmp_path / "b")


KINDS = "expected is .pkl, .pickle, .joblib, .sav, .onnx or an MLflow folder (with a file MLmodel)."


@pytest.mark.parametrize(
    ("files", "folder", "problem"),
    [
        (["m.h5"], "", f" holds no model that can be loaded: {KINDS}"),
        (["m.h5"], "m.h5", f" is no model of a known kind: {KINDS}"),
        ([], "m.pt", " cannot be loaded: it does not exist."),
        (["b.onnx", "a.pkl"], "", " holds several models: a.pkl, b.onnx. Name one with file=."),
    ],
)
def test_no_file_to_load(files: list[str], folder: str, problem: str, tmp_path: Path) -> None:
    """The message says what there is and what could be loaded."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ModelUnusable) as caught:
        find_model_file(tmp_path / folder)
    assert str(caught.value).startswith(f"{tmp_path / folder}{problem}")


# --- damaged --------------------------------------------------------------------------------------


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_nothing_of_a_changed_model_is_loaded(root: Path, tmp_path: Path) -> None:
    """The files are compared before anything is unpickled."""
    folder = register(root, "iris", save_pickle(tmp_path / "m.pkl", 1)).path
    save_pickle(folder / "m.pkl", Trap(tmp_path / "sprung"))
    with pytest.raises(ModelDamaged, match=r"is not what was registered: m\.pkl has changed\. "):
        load_model("iris", root=root)
    assert not (tmp_path / "sprung").exists()
    manifest.notes_file(folder).unlink()
    load_model("iris", root=root)
    assert (tmp_path / "sprung").exists()


def test_nothing_beside_a_registered_model_is_loaded(root: Path, tmp_path: Path) -> None:
    """Nor through file=, nor for one version's own folder."""
    folder = register(root, "iris", save_pickle(tmp_path / "m.pkl", 1)).path
    save_pickle(folder / "n.pkl", Trap(tmp_path / "sprung"))
    for place in (root, folder):
        with pytest.raises(ModelDamaged, match=r": n\.pkl was not registered\. "):
            load_model("iris", file="n.pkl", root=place)
    assert not (tmp_path / "sprung").exists()


def test_nothing_of_a_changed_folder_is_loaded_by_its_own_name(root: Path, tmp_path: Path) -> None:
    """A folder in the only model, named as if it were one, is a part of what was registered."""
    (tmp_path / "saved").mkdir()
    save_pickle(tmp_path / "saved/m.pkl", 1)
    folder = register(root, "iris", tmp_path / "saved").path
    assert load_model("saved", root=folder) == 1
    save_pickle(folder / "saved/m.pkl", Trap(tmp_path / "sprung"))
    with pytest.raises(ModelDamaged, match=r": saved/m\.pkl has changed\. "):
        load_model("saved", root=folder)
    assert not (tmp_path / "sprung").exists()


def truncated(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def newer_opset(path: Path) -> Path:
    return save_onnx(path, opset=999)


def without_its_data(path: Path) -> Path:
    model = onnx.load(save_onnx(path))
    tensor = onnx.numpy_helper.from_array(np.ones((1000, 2), np.float32), "w")
    model.graph.initializer.append(tensor)
    model.graph.node[0].input[1] = "w"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    path.with_name("w.data").unlink()
    return path


def written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


WRONG: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "empty pickle": ("m.pkl", written(b""), "EOFError. The file was cut short, or is of anoth"),
    "truncated pickle": (
        "m.pkl",
        lambda path: truncated(save_pickle(path, fitted())),
        " The file was cut short, or is of another kind: copy it again.",
    ),
    "text": ("m.pkl", written(b"hello"), "UnpicklingError: "),
    "a pickle that raises lines": (
        "m.pkl",
        written(b"cbuiltins\nexec\n(Vraise ValueError('two\\nlines')\ntR."),
        "ValueError: two lines.",
    ),
    "a class of the notebook": (
        "m.pkl",
        written(b"c__main__\nMyModel\n."),
        "put the class into a module of its own, save the model again, and ship that module",
    ),
    "a module that is not there": (
        "m.pkl",
        written(b"cmy_features.scaling\nScaler\n."),
        "it needs the module my_features, which is not there: install its package, or put the "
        "folder of that module on PYTHONPATH.",
    ),
    "truncated ONNX": ("m.onnx", lambda path: truncated(save_onnx(path)), "InvalidProtobuf: "),
    "a newer opset": (
        "m.onnx",
        newer_opset,
        "The model was made for a newer onnxruntime: install t",
    ),
    "ONNX without its data": ("m.onnx", without_its_data, "w.data"),
}


@pytest.mark.parametrize(("name", "save", "cause"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_loaded(
    name: str, save: Callable[[Path], Path], cause: str, tmp_path: Path
) -> None:
    """One sentence names the file and the cause; the error itself is kept for the diagnosis."""
    path = save(tmp_path / name)
    with pytest.raises(ModelUnusable) as caught:
        load_model(root=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be loaded: ")
    assert cause in message
    assert message.endswith(".")
    assert "Traceback" not in message
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.parametrize("compress", [0, 3])
def test_a_pickle_cut_anywhere(compress: int, tmp_path: Path) -> None:
    """Wherever it ends, it is a model that cannot be used, not a crash."""
    path = tmp_path / "m.joblib"
    joblib.dump(fitted(), path, compress=compress)
    content = path.read_bytes()
    # The last bytes are the pickle's end, or zlib's checksum, without which joblib has the object.
    for length in range(0, len(content) - 8, 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelUnusable, match=rf"^{path} cannot be loaded: "):
            load_model(root=tmp_path)


@pytest.mark.usefixtures("mlflow_folder")  # mlflow is imported without its warnings there
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("flavors: {}\n", "python_function"),
        (
            "flavors:\n  python_function:\n    loader_module: no_such_loader\n",
            "it needs the module no_such_loader, which is not there",
        ),
        ("{", "cannot be loaded: "),
    ],
)
def test_an_mlflow_folder_that_cannot_be_loaded(content: str, cause: str, tmp_path: Path) -> None:
    """What mlflow says, in one sentence."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/MLmodel").write_text(content)
    with pytest.raises(ModelUnusable) as caught:
        load_model(root=tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/m cannot be loaded: ")
    assert cause in str(caught.value)


# --- packages that are not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("m.pkl", "joblib", "sklearn"),
        ("m.pkl", "sklearn", "sklearn"),
        ("m.onnx", "onnxruntime", "onnx"),
        ("MLmodel", "mlflow", "mlflow"),
    ],
)
def test_a_package_that_is_not_there(
    name: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names it and what to install."""
    save_pickle(tmp_path / name, fitted())
    for module in [package, *(each for each in sys.modules if each.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path if name == "MLmodel" else tmp_path / name
    with pytest.raises(ModelUnusable) as caught:
        load_model(root=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be loaded: it needs the module {package}")
    assert message.endswith(f", which is not there: pip install 'scoring-runtime[{extra}]'.")


# --- versions -------------------------------------------------------------------------------------

SKLEARN, NUMPY = version("scikit-learn"), version("numpy")
MINOR = ".".join(SKLEARN.split(".")[:2])


@pytest.mark.parametrize(
    ("recorded", "differs"),
    [
        (SKLEARN, False),
        (f"{MINOR}.999", False),
        (MINOR, False),
        (f"{MINOR}9.0", True),
        ("unknown", True),
    ],
)
def test_which_versions_differ(recorded: str, differs: bool) -> None:
    """Those whose major or minor number is another one."""
    found = version_differences({"scikit-learn": recorded, "no-such-library": "1.0"})
    expected = [VersionDifference("scikit-learn", recorded, SKLEARN)] if differs else []
    assert found == expected


def test_a_version_without_a_minor_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 0."""
    folder = tmp_path / "made_up-3.0.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 3.0.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert version_differences({"made-up": "3"}) == []
    assert version_differences({"made-up": "3.1"}) == [VersionDifference("made-up", "3.1", "3.0.2")]


def test_the_versions_of_a_folder_in_a_registered_model(root: Path, tmp_path: Path) -> None:
    """Those of the registration; of a model that nobody registered none are known."""
    (tmp_path / "saved").mkdir()
    path = save_pickle(tmp_path / "saved/m.pkl", 1)
    folder = register(root, "iris", tmp_path / "saved").path / "saved"
    assert recorded_versions(folder, "scikit-learn", folder / "m.pkl") == {
        name: version(name) for name in ("scikit-learn", "joblib", "numpy")
    }
    assert recorded_versions(path.parent, "scikit-learn", path) == {}


def test_a_model_of_other_versions(root: Path, tmp_path: Path, warned: Warned) -> None:
    """One warning names each library, its recorded and its installed version; it is loaded."""
    record = register(root, "iris", save_pickle(tmp_path / "m.pkl", 5))
    libraries = {"scikit-learn": "0.24.2", "numpy": "1.20.1", "joblib": version("joblib")}
    manifest.write(
        record.path, "iris", 1, Manifest(libraries=libraries, files=record.manifest.files)
    )
    assert recorded_versions(record.path, "scikit-learn", record.path / "m.pkl") == libraries
    assert load_model("iris", root=root) == 5
    assert warned() == [
        f"{root}/iris/1/m.pkl was made with other versions of its libraries: scikit-learn was "
        f"0.24.2, installed is {SKLEARN}; numpy was 1.20.1, installed is {NUMPY}."
    ]


def test_a_pickle_of_another_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    """What its estimators know is told once, also of a model that nobody registered, and when
    loading it fails then."""
    model = fitted()
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "0.24.2")
        path = save_pickle(tmp_path / "m.pkl", model)
        broken = save_pickle(tmp_path / "broken.pkl", [model, Broken()])
    expected = (
        " was made with other versions of its libraries: scikit-learn was 0.24.2, installed is "
        f"{SKLEARN}."
    )
    loaded = load_model(root=path)
    assert loaded.predict(ROWS).tobytes() == model.predict(ROWS).tobytes()
    with pytest.raises(ModelUnusable, match="ZeroDivisionError"):
        load_model(root=broken)
    assert warned() == [f"{path}{expected}", f"{broken}{expected}"]


class Broken:
    """Cannot be loaded."""

    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


def test_other_warnings_of_a_pickle_come_through(tmp_path: Path) -> None:
    """They are the model's own."""
    (tmp_path / "m.pkl").write_bytes(b"cwarnings\nwarn\n(Vwatch out\ntR.")
    with pytest.warns(UserWarning, match="^watch out$"):
        load_model(root=tmp_path)


# --- names of files, and what lies beside them ----------------------------------------------------


def test_a_module_beside_the_model_is_found_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_model.py").write_text("class Kept:\n    x = 7\n")
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    (tmp_path / "m.pkl").write_bytes(b"cbeside_the_model\nKept\n.")
    assert load_model(root=tmp_path).x == 7
    assert sys.path[-1] == str(tmp_path.resolve())


def test_other_files_of_those_names_are_no_boosters(tmp_path: Path) -> None:
    for name in ("a.json", "a.ubj", "a.txt"):
        for content in (b"{", b'{"learners": 1}', b"tree of texts", b""):
            (tmp_path / name).write_bytes(content)
            assert candidates(tmp_path) == []


def test_a_booster_that_was_cut_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(b'{"learner":{"attributes":{}')
    with pytest.raises(ModelUnusable, match=r"m\.json cannot be loaded: XGBoostError: (?!.*Stack)"):
        load_model(root=tmp_path)
