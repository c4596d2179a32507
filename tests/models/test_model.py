"""``azureml.core.model.Model`` over a registry folder, as old programs use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scoring_runtime.errors import ModelDamaged, ModelNotFound, RegistrationError
from scoring_runtime.models import folder as models
from scoring_runtime.models.manifest import METADATA_FILE
from scoring_runtime.models.model import Model, folder_of


@pytest.fixture
def workspace(root: Path) -> Path:
    """A registry."""
    return root


@pytest.fixture
def file(model: Path) -> Path:
    """A model that is a file."""
    return model


@pytest.fixture(autouse=True)
def no_model_dir() -> Iterator[None]:
    """The runtime's model folder is not known unless a test sets it."""
    models.use_model_dir(None)
    yield
    models.use_model_dir(None)


# --- registering ----------------------------------------------------------------------------------


def test_register(workspace: Path, file: Path) -> None:
    """With every keyword that old programs pass."""
    model = Model.register(
        workspace=workspace,
        model_path=str(file),
        model_name="iris",
        tags={"stage": "test", "accuracy": 0.9},
        properties={"area": "plants"},
        description="Irises",
        model_framework=Model.Framework.SCIKITLEARN,
        model_framework_version="1.9",
        datasets=[("training", object())],
        sample_input_dataset=object(),
        sample_output_dataset=object(),
        resource_configuration=object(),
    )
    assert (model.name, model.version, model.id) == ("iris", 1, "iris:1")
    assert model.tags == {"stage": "test", "accuracy": "0.9"}
    assert model.properties == {"area": "plants"}
    assert model.description == "Irises"
    assert (model.model_framework, model.model_framework_version) == ("ScikitLearn", "1.9")
    assert model.path == workspace / "iris/1/model.pkl"
    assert model.created_time is not None
    assert abs((datetime.now(UTC) - model.created_time).total_seconds()) < 600
    assert repr(model) == f"Model(workspace='{workspace}', name='iris', version=1)"
    assert vars(Model(workspace, "iris")) == vars(model)
    least = Model.register(workspace, file, "iris")  # by position
    assert (least.id, least.description, least.tags) == ("iris:2", "", {})
    assert (least.properties, least.model_framework) == ({}, None)


# --- workspaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "workspace",
    [
        "models",
        Path("models"),
        SimpleNamespace(folder="models"),
        SimpleNamespace(folder=None, path="models"),
        SimpleNamespace(folder="models", path="elsewhere"),
    ],
    ids=str,
)
def test_what_is_a_workspace(workspace: object) -> None:
    """A path, or an object that has one."""
    assert folder_of(workspace) == Path("models")


@pytest.mark.parametrize("workspace", [None, "", 7, SimpleNamespace(folder=7)], ids=str)
def test_what_is_no_workspace(workspace: object) -> None:
    """The message says what one is."""
    with pytest.raises(RegistrationError) as caught:
        Model(workspace, "iris")
    assert str(caught.value) == (
        f"{type(workspace).__name__} is no workspace here: expected is the registry's folder, a "
        "text or a path, or an object whose attribute folder or path it is."
    )


# --- finding --------------------------------------------------------------------------------------


@pytest.fixture
def filled(workspace: Path, file: Path, saved: Path) -> Path:
    """iris:1 to iris:10 and digits:1."""
    for number in range(1, 11):
        Model.register(workspace, file, "iris", tags={"n": str(number)})
    Model.register(workspace, saved, "digits", tags={"n": "1", "m": ""})
    return workspace


@pytest.mark.parametrize(
    ("arguments", "id"),
    [
        ({"name": "iris"}, "iris:10"),
        ({"name": "iris", "version": 2}, "iris:2"),
        ({"id": "iris:3"}, "iris:3"),
        ({"id": "digits"}, "digits:1"),
        ({"name": "iris", "tags": [["n", "3"]]}, "iris:3"),
        ({"tags": ["m"]}, "digits:1"),
    ],
)
def test_one_model(arguments: dict[str, Any], id: str, filled: Path) -> None:
    """The highest version unless one is named."""
    assert Model(filled, **arguments).id == id


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ({}, ["digits:1", *(f"iris:{number}" for number in range(1, 11))]),
        ({"name": "digits"}, ["digits:1"]),
        ({"latest": True}, ["digits:1", "iris:10"]),
        ({"tags": ["m"]}, ["digits:1"]),
        ({"tags": [["n", "1"]]}, ["digits:1", "iris:1"]),
        ({"tags": ["n", "m"]}, ["digits:1"]),
        ({"tags": [["m"]], "latest": True}, ["digits:1"]),
    ],
)
def test_list(arguments: dict[str, Any], ids: list[str], filled: Path) -> None:
    """By name and version, as numbers; filtered by name and tags."""
    assert [model.id for model in Model.list(filled, **arguments)] == ids


def test_get_model_path(filled: Path) -> None:
    """In the workspace if that is a folder, else in the runtime's model folder."""
    assert Model.get_model_path("iris", _workspace=filled) == str(filled / "iris/10/model.pkl")
    models.use_model_dir(filled)
    assert Model.get_model_path("iris", 2) == str(filled / "iris/2/model.pkl")
    assert Model.get_model_path("digits", _workspace=object()) == str(filled / "digits/1/saved")


def test_get_model_path_takes_a_file_of_the_working_directory(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As azureml-core did: registered models first, then ``./x``; a version is registered."""
    (tmp_path / "x.pkl").touch()
    monkeypatch.chdir(tmp_path)
    models.use_model_dir(filled)
    assert Model.get_model_path("x.pkl") == "x.pkl"
    for name, version, workspace in (
        ("x.pkl", 1, None),
        ("x.pkl", None, filled),
        ("z", None, None),
    ):
        with pytest.raises(ModelNotFound):
            Model.get_model_path(name, version, workspace)


# --- downloading and deleting ---------------------------------------------------------------------


def test_download(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file or folder under its own name, in a folder that is made, or the current one."""
    target = tmp_path / "a/b"
    assert Model(filled, "iris").download(target) == str(target / "model.pkl")
    assert Model(filled, "digits").download(target_dir=str(target)) == str(target / "saved")
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert found == [
        "model.pkl", "saved", "saved/labels.txt", "saved/variables", "saved/variables/weights.bin"
    ]  # fmt: skip
    assert (target / "model.pkl").read_bytes() == b"a pickle"
    monkeypatch.chdir(target / "saved")
    assert Model(filled, "iris").download() == "model.pkl"


def test_download_again(filled: Path, tmp_path: Path) -> None:
    """Only when it is said that it may be there."""
    for name, entry in (("iris", "model.pkl"), ("digits", "saved")):
        model = Model(filled, name)
        model.download(tmp_path / "x")
        with pytest.raises(RegistrationError) as caught:
            model.download(tmp_path / "x")
        assert str(caught.value) == (
            f"{tmp_path}/x/{entry} exists already: pass exist_ok=True to replace it."
        )
    (tmp_path / "x/model.pkl").write_bytes(b"")
    (tmp_path / "x/saved/labels.txt").write_bytes(b"")
    Model(filled, "iris").download(tmp_path / "x", exist_ok=True)
    Model(filled, "digits").download(tmp_path / "x", exist_ok=True)
    assert (tmp_path / "x/model.pkl").read_bytes() == b"a pickle"
    assert (tmp_path / "x/saved/labels.txt").read_bytes() == b"labels"


def test_download_of_several_files(workspace: Path, tmp_path: Path) -> None:
    """A version with more than one entry goes into a folder of the model's name."""
    folder = workspace / "pair/1"
    folder.mkdir(parents=True)
    for name in ("a.onnx", "b.onnx"):
        (folder / name).write_text(name)
    (folder / METADATA_FILE).write_text('{"files": {}}')
    with pytest.raises(ModelDamaged, match=r"a\.onnx was not registered, b\.onnx was not"):
        Model(workspace, "pair").download(tmp_path)
    (folder / METADATA_FILE).unlink()
    assert Model(workspace, "pair").download(tmp_path) == str(tmp_path / "pair")
    assert sorted(path.name for path in (tmp_path / "pair").iterdir()) == ["a.onnx", "b.onnx"]


def test_download_of_a_changed_model(filled: Path, tmp_path: Path) -> None:
    """Nothing is copied."""
    (filled / "iris/10/model.pkl").write_bytes(b"another!")
    with pytest.raises(ModelDamaged, match=r"model\.pkl has changed"):
        Model(filled, "iris").download(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_download_to_where_nothing_can_be_written(filled: Path, file: Path) -> None:
    """What the file system says."""
    with pytest.raises(RegistrationError, match=r"^iris:10 cannot be copied to \S+: \[Errno"):
        Model(filled, "iris").download(file)


def test_what_is_noted_of_it_can_be_changed_and_nothing_else(filled: Path) -> None:
    model = Model(filled, "iris", 3)
    files = Model(filled, "iris", 3)._record.manifest.files
    model.add_tags({"a": 1, "b": "2"})
    model.remove_tags("n")
    model.add_properties({"p": "q"})
    model.update(description="of flowers")
    for each in (model, Model(filled, "iris", 3)):
        assert (each.tags, each.properties) == ({"a": "1", "b": "2"}, {"p": "q"})
        assert (each.description, each._record.manifest.files) == ("of flowers", files)
    model.update(tags={})
    assert (Model(filled, "iris", 3).tags, model.description) == ({}, "of flowers")
    model.download(filled.parent / "there")  # which compares its files
    with pytest.raises(ModelNotFound, match=r"No model iris has the tags \['gone'\]\."):
        Model(filled, "iris", tags=["gone"])
    model.delete()
    with pytest.raises(ModelNotFound, match=r"^iris:3 is not there any more\."):
        model.add_tags({"a": "b"})
    shutil.copytree(Model(filled, "iris", 4).path.parent, filled / "other" / "1")
    with pytest.raises(RegistrationError, match=r"was not registered: register it anew\.$"):
        Model(filled, "other").add_tags({"a": "b"})


def test_delete(filled: Path) -> None:
    """This version only; a second time it is gone."""
    model = Model(filled, "iris", 9)
    model.delete()
    assert [each.version for each in Model.list(filled, "iris")] == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    with pytest.raises(ModelNotFound, match=r"^There is no model iris version 9\. It has version "):
        model.delete()


def test_what_there_is_instead_of_a_model(workspace: Path, file: Path) -> None:
    """The models that there are, never the files that a workspace keeps beside them."""
    packages = workspace / ".azureml/packages/1"
    packages.mkdir(parents=True)
    (packages / "log.txt").touch()
    for there in ("(no models)", "there:1"):
        with pytest.raises(ModelNotFound, match=r"^There is no model nothere\. ") as caught:
            Model(workspace, "nothere")
        assert str(caught.value).splitlines()[1:] == [there]
        Model.register(workspace, file, "there")
