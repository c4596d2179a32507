"""``scoring-runtime models``: what each command prints, where, and its exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scoring_runtime.cli.main import main
from scoring_runtime.cli.terminal import Bar
from scoring_runtime.models.registry import details, listing, register
from tests.hosts.standalone import clean_environ

MODULE = (sys.executable, "-m", "scoring_runtime", "models")


class Done(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


Models = Callable[..., Done]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Models:
    """``models("list", "--json")``: the command, run in this process in an empty folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = main(["models", *map(str, arguments)])
        except SystemExit as error:
            code = int(str(error.code))
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A model that is a file."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"a pickle")
    return path


@pytest.fixture
def root(tmp_path: Path, file: Path) -> Path:
    """A registry with iris:1, iris:2 and digits:1."""
    root = tmp_path / "registry"
    register(root, "iris", file, description="First\nlines")
    register(root, "iris", file, tags={"stage": "test", "by": "me"}, description="Second")
    register(root, "digits", file)
    return root


# --- register -------------------------------------------------------------------------------------


def test_register(models: Models, file: Path) -> None:
    assert models("register", "-n", "iris", "-p", file) == Done(
        0, "iris:1  azureml-models/iris/1\n", ""
    )
    assert models("register", "--name", "iris", "--path", file).out == (
        "iris:2  azureml-models/iris/2\n"
    )
    assert Path("azureml-models/iris/2/model.pkl").read_bytes() == b"a pickle"


def test_register_with_everything(models: Models, file: Path, tmp_path: Path) -> None:
    done = models(
        "register", "-n", "iris", "-p", file, "--registry", tmp_path / "r",
        "--tag", "a=1", "--tag", "b=x=y", "--tag", "c=", "--property", "p=q",
        "--description", "Irises", "--json",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    record = details(tmp_path / "r", "iris")
    assert json.loads(done.out) == record.document()
    assert record.manifest.tags == {"a": "1", "b": "x=y", "c": ""}
    assert record.manifest.properties == {"p": "q"}
    assert record.manifest.description == "Irises"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "a/b", "-p", "."], "scoring-runtime: 'a/b' is not a name for a model: "),
        (["-n", "iris", "-p", "nope"], "here/nope cannot be registered: it does not exist.\n"),
        (["-n", "iris"], "scoring-runtime models register: the following arguments are required"),
        (["-n", "a", "-p", "b", "--tag", "x"], "argument --tag: 'x' is not KEY=VALUE\n"),
        (["-n", "a", "-p", "b", "--property", "=x"], "argument --property: '=x' is not KEY=VAL"),
    ],
    ids=["name", "path", "required", "tag", "property"],
)
def test_register_refuses(arguments: list[str], message: str, models: Models) -> None:
    done = models("register", *arguments)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert not Path("azureml-models").exists()


# --- which registry -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_dir", "used"),
    [
        ("registry", "registry"),
        ("new", "new"),
        ("registry/iris/1", "here/azureml-models"),
        ("plain", "here/azureml-models"),
        ("model.pkl", "here/azureml-models"),
        ("", "here/azureml-models"),
    ],
)
def test_the_registry_without_an_option(
    model_dir: str, used: str, models: Models, root: Path, file: Path, monkeypatch: Any
) -> None:
    """AZUREML_MODEL_DIR if it is one or can become one, else ./azureml-models; an option wins."""
    (root.parent / "plain").mkdir()
    (root.parent / "plain/model.onnx").touch()
    if model_dir:
        monkeypatch.setitem(os.environ, "AZUREML_MODEL_DIR", str(root.parent / model_dir))
    assert models("register", "-n", "new", "-p", file).code == 0
    assert (root.parent / used / "new/1/model.pkl").exists()
    assert models("register", "-n", "new", "-p", file, "--registry", "other").code == 0
    assert Path("other/new/1").is_dir()


# --- list -----------------------------------------------------------------------------------------


def test_list(models: Models, root: Path) -> None:
    done = models("list", "--registry", root)
    assert (done.code, done.err) == (0, "")
    head, *rows = [line.split(None, 4) for line in done.out.splitlines()]
    assert head == ["NAME", "VERSION", "KIND", "CREATED", "DESCRIPTION"]
    created = {record.id: record.manifest.created for record in listing(root)}
    assert rows == [
        ["digits", "1", "scikit-learn", created["digits:1"]],
        ["iris", "1", "scikit-learn", created["iris:1"], "First lines"],
        ["iris", "2", "scikit-learn", created["iris:2"], "Second"],
    ]
    assert len({line.index("scikit-learn") for line in done.out.splitlines()[1:]}) == 1


def test_list_as_json(models: Models, root: Path) -> None:
    """What is noted of each, but the files; an empty list is said beside the output."""
    done = models("list", "iris", "--registry", root, "--json")
    noted = [record.document() for record in listing(root) if record.name == "iris"]
    assert json.loads(done.out) == [
        {key: value for key, value in each.items() if key != "files"} for each in noted
    ]
    said = "scoring-runtime: there are no models in azureml-models\n"
    assert models("list") == Done(0, "", said)
    assert models("list", "--json") == Done(0, "[]\n", said)


# --- show -----------------------------------------------------------------------------------------


def test_show(models: Models, root: Path) -> None:
    done = models("show", "iris", "--registry", root)
    noted = details(root, "iris").manifest
    libraries = ", ".join(f"{name}={version}" for name, version in noted.libraries.items())
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "id: iris:2",
        "name: iris",
        "version: 2",
        f"path: {root}/iris/2",
        "description: Second",
        "tags: stage=test, by=me",
        f"created: {noted.created}",
        "kind: scikit-learn",
        f"libraries: {libraries}",
        f"file: model.pkl 8 bytes sha256 {noted.files['model.pkl'].sha256}",
    ]


@pytest.mark.parametrize(
    ("words", "version"),
    [(["iris:1"], 1), (["iris"], 2), (["-n", "iris:1"], 1), (["--name", "iris"], 2)],
)
def test_show_as_json(words: list[str], version: int, models: Models, root: Path) -> None:
    done = models("show", *words, "--registry", root, "--json")
    assert json.loads(done.out) == details(root, "iris", version).document()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "irs"], "There is no model irs. Did you mean iris? The model folder is "),
        (["list", "irs"], "There is no model irs. Did you mean iris? The model folder is "),
        (["delete", "iris", "--yes"], "iris has the versions 1, 2: say which one to delete, or"),
        (["delete", "iris:1", "--all-versions"], "1 and --all-versions exclude each other\n"),
        (["delete", "iris:1"], "nothing was deleted; --yes deletes without asking\n"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_or_not_enough(
    arguments: list[str], message: str, models: Models, root: Path
) -> None:
    done = models(*arguments, "--registry", root)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"scoring-runtime: {message}")
    assert len(listing(root)) == 3


# --- delete ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "deleted", "left"),
    [
        (["iris:1"], ["iris:1"], ["digits:1", "iris:2"]),
        (["iris", "--all-versions"], ["iris:1", "iris:2"], ["digits:1"]),
        (["digits"], ["digits:1"], ["iris:1", "iris:2"]),
    ],
)
def test_delete(
    arguments: list[str], deleted: list[str], left: list[str], models: Models, root: Path
) -> None:
    done = models("delete", *arguments, "--yes", "--registry", root)
    assert done == Done(0, "".join(f"deleted {id}\n" for id in deleted), "")
    assert [record.id for record in listing(root)] == left


# --- as a process, at a terminal ------------------------------------------------------------------


def at_a_terminal(folder: Path, *arguments: str | Path, answer: str = "") -> Done:
    """A command whose standard input and error are a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [*MODULE, *map(str, arguments)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=clean_environ(),
            cwd=folder,
        )
        os.close(theirs)
        terminal.write(answer.encode())
        written = b""
        try:
            while chunk := terminal.read(4096):
                written += chunk
        except OSError:  # Linux: the other side is closed
            pass
        out, _ = process.communicate(timeout=60)
    return Done(process.returncode, out.decode(), written.decode())


def test_a_progress_bar(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(4 << 20))
    done = at_a_terminal(tmp_path, "register", "-n", "big", "-p", "model.onnx")
    assert done == Done(
        0,
        "big:1  azureml-models/big/1\n",
        "\r[#######                       ]  25%"
        "\r[###############               ]  50%"
        "\r[######################        ]  75%"
        "\r[##############################] 100%\r\n",
    )


def test_the_bar_is_written_only_when_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    for done in range(1000, 3000):
        bar(done, 200_000)
    bar(200_001, 200_000)
    bar.close()
    assert capsys.readouterr() == (
        "",
        f"\r[{' ' * 30}]   0%\r[{' ' * 30}]   1%\r[{'#' * 30}] 100%\n",
    )


@pytest.mark.parametrize(("answer", "left"), [("y\n", 2), ("n\n", 3), ("\n", 3)])
def test_delete_asks(answer: str, left: int, root: Path) -> None:
    done = at_a_terminal(root, "delete", "digits", "--registry", root, answer=answer)
    assert f"Delete digits:1 from {root}? [y/N] " in done.err
    assert len(listing(root)) == left
    assert (done.code, done.out) == ((0, "deleted digits:1\n") if left == 2 else (1, ""))


def test_the_commands_as_processes(root: Path, tmp_path: Path) -> None:

    def run(*arguments: str) -> Any:
        return subprocess.run(
            [*MODULE, *arguments],
            capture_output=True,
            text=True,
            env=clean_environ(AZUREML_MODEL_DIR=str(root)),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    refused = run("delete", "digits")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "scoring-runtime: nothing was deleted; --yes deletes without asking\n"
    help_text = run("--help").stdout
    assert re.findall(r"^    (\w+) ", help_text, re.MULTILINE) == [
        "register", "list", "show", "use", "delete"
    ]  # fmt: skip
