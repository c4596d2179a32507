"""What is served: the entry script where there is one, else the models in the folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring_runtime import Settings
from scoring_runtime.errors import ConfigurationError, UnknownModel
from scoring_runtime.scoring.served import Served, chosen, default, served


@pytest.fixture(autouse=True)
def own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Folders that are put on sys.path leave it again, and no ``main`` is known."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "main", raising=False)
    yield


def settings(root: Path, **environ: str) -> Settings:
    said = {"AML_APP_ROOT": str(root / "app"), "AZUREML_MODEL_DIR": str(root / "models")}
    (root / "app").mkdir(exist_ok=True)
    return Settings.from_environ({**said, **environ})


def versions(root: Path, *names: str) -> Path:
    for name in names:
        (root / "models" / name).mkdir(parents=True)
        (root / "models" / name / "model.pkl").touch()
    return root


def test_a_named_script_scores_whatever_models_there_are(tmp_path: Path) -> None:
    """It finds them itself; it is called by the one model's name when there is one."""
    versions(tmp_path, "iris/1", "wine/1")
    named = settings(tmp_path, AZUREML_ENTRY_SCRIPT="score.py")
    assert served(named) == [Served("model", "1", None)]
    one = settings(
        tmp_path,
        AZUREML_ENTRY_SCRIPT="score.py",
        AZUREML_MODEL_DIR=str(tmp_path / "models" / "iris" / "1"),
    )
    assert served(one) == [Served("iris", "1", None)]


def test_without_a_script_each_version_of_each_model_is_served_in_numeric_order(
    tmp_path: Path,
) -> None:
    """Version 10 is higher than version 9."""
    versions(tmp_path, "iris/9", "iris/10", "wine/1")
    found = served(settings(tmp_path))
    assert [each.identity for each in found] == ["iris:9", "iris:10", "wine:1"]
    assert [each.folder for each in found] == [
        tmp_path / "models" / each for each in ("iris/9", "iris/10", "wine/1")
    ]


@pytest.mark.parametrize("content", ["nothing", "no model", "no folder"])
def test_a_folder_without_a_model_leaves_it_to_the_script(content: str, tmp_path: Path) -> None:
    """Whose absence is what is told."""
    if content != "no folder":
        (tmp_path / "models").mkdir()
    if content == "no model":
        (tmp_path / "models" / "notes.txt").touch()
    assert served(settings(tmp_path)) == [Served("model", "1", None)]


def test_the_name_of_a_plain_folder_is_the_folders_unless_a_default_is_named(
    tmp_path: Path,
) -> None:
    """V2 clients ask for it by name."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.onnx").touch()
    assert served(settings(tmp_path))[0].identity == "models:1"
    assert served(settings(tmp_path, SCORING_DEFAULT_MODEL="mine"))[0].identity == "mine:1"


THERE = [Served("a", "1", Path("1")), Served("a", "2", Path("2")), Served("b", "7", Path("7"))]


@pytest.mark.parametrize(
    ("wanted", "identity"),
    [("a", "a:2"), ("a:1", "a:1"), ("a/1", "a:1"), ("a:2", "a:2"), ("b", "b:7"), ("b:7", "b:7")],
)
def test_a_name_means_its_highest_version(wanted: str, identity: str) -> None:
    assert chosen(THERE, wanted).identity == identity
    named = Settings.from_environ({"SCORING_DEFAULT_MODEL": wanted})
    found = default(THERE, named)
    assert found is not None and found.identity == identity


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("c", "There is no model 'c' here. Served: a, b."),
        ("a:3", "The model a has no version '3'. It has: 1, 2."),
        ("a:", None),
        ("", "There is no model '' here. Served: a, b."),
    ],
)
def test_what_is_not_there_is_said_with_what_is(wanted: str, message: str | None) -> None:
    if message is None:
        assert chosen(THERE, wanted).identity == "a:2"
        return
    with pytest.raises(UnknownModel) as caught:
        chosen(THERE, wanted)
    assert str(caught.value) == message


def test_a_default_that_is_not_there_names_its_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"SCORING_DEFAULT_MODEL is 'c'\. There is no"):
        default(THERE, Settings.from_environ({"SCORING_DEFAULT_MODEL": "c"}))


def test_a_default_that_is_not_in_the_registry_is_refused_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="SCORING_DEFAULT_MODEL is 'none'"):
        served(settings(versions(tmp_path, "iris/1"), SCORING_DEFAULT_MODEL="none"))


def test_several_names_have_no_default_of_their_own() -> None:
    assert default(THERE, Settings()) is None
    assert default(THERE[:2], Settings()) == THERE[1]


NOT_SCRIPTS = {
    "words": "# init the app, then run it\nprint('started')\ndef main(): pass\n",
    "methods": "class App:\n    def init(self): ...\n    def run(self): ...\n",
    "one": "def run(data): return data\n",
    "inside": "def main():\n    def init(): ...\n    def run(data): ...\n",
}
SCRIPTS = {
    "functions": "def init(): ...\nasync def run(data): ...\n",
    "assigned": "init = run = lambda data=None: data\n",
    "imported": "from inner import init, other as run\n",
    "star": "from inner import *\n",
    "in a try": "try:\n    from a import init\nexcept ImportError:\n    def init(): ...\n"
    "if True:\n    def run(data): ...\n",
    "broken": "def init(:\n",
}


@pytest.mark.parametrize("case", [*NOT_SCRIPTS, *SCRIPTS])
def test_a_main_py_is_a_script_by_the_names_it_binds(case: str, tmp_path: Path) -> None:
    """It is not run to know it; a broken one is a script, so that its error is told."""
    versions(tmp_path, "iris/1")
    said = settings(tmp_path)
    (tmp_path / "app" / "main.py").write_text({**NOT_SCRIPTS, **SCRIPTS}[case])
    assert (served(said)[0].folder is None) is (case in SCRIPTS)
