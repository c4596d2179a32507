"""The packager at its edges: at once, killed, in odd places, with odd names, values and files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import registry
from scoring_runtime.models.manifest import METADATA_FILE
from scoring_runtime.packaging import context as build_context
from scoring_runtime.packaging import model_files, resolution
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.specification import (
    Context,
    Environment,
    Specification,
)
from tests.hosts.standalone import clean_environ

REPOSITORY = Path(__file__).parents[2]
MODULE = (sys.executable, "-m", "scoring_runtime", "package", "--no-resolve")
SCRIPT = "def init():\n    pass\n\n\ndef run(data):\n    return data\n"
KEY = "k3y" * 28 + "K0=="

Package = Callable[..., Context]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a script."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "score.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that stands for a model."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def specification(source: Path, model: Path) -> Specification:
    """A script with its folder and one model."""
    return Specification(
        models=(model_files.from_path("net", 1, model),),
        entry_script=source / "score.py",
        source_dir=source,
    )


@pytest.fixture
def package(tmp_path: Path, specification: Specification) -> Package:
    """``package(output, **changes)``: the context of the specification with these changes."""

    def run(output: str | Path = "package", overwrite: bool = False, **changes: object) -> Context:
        wanted = replace(specification, **changes)  # type: ignore[arg-type]
        return make(wanted, tmp_path / output, resolve=False, overwrite=overwrite)

    return run


class Done(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What ``--json`` printed."""
        document: dict[str, Any] = json.loads(self.out)
        return document


def command(folder: Path, *arguments: str | bytes, **environ: str) -> Done:
    """``scoring-runtime package`` in a process of its own, without asking pip."""
    done = subprocess.run(
        [*MODULE, *arguments],
        cwd=folder,
        env={**clean_environ(), **environ},
        capture_output=True,
        timeout=60,
    )
    out, err = (data.decode("utf-8", "replace") for data in (done.stdout, done.stderr))
    return Done(done.returncode, out, err)


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and mode of every file by path."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hidden(folder: Path) -> list[str]:
    """What a run that did not end well left in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# --- at once, and cut off -------------------------------------------------------------------------


def test_several_at_once_into_one_output(tmp_path: Path, source: Path) -> None:
    """Each makes it whole; the last one stays, with its own model under the same name."""
    models = [tmp_path / f"{index}.bin" for index in range(4)]
    for path in models:
        path.write_bytes(path.name.encode() * 1000)

    def once(index: int) -> Done:
        arguments = ("--entry-script", "source/score.py", "--model", f"net=model/{index}.bin")
        return command(tmp_path, *arguments, "--setting", f"N={index}", "--json")

    (tmp_path / "model").mkdir()
    for path in models:
        path.rename(tmp_path / "model" / path.name)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(once, range(4)))
    assert [(each.code, each.err) for each in done] == [(0, "")] * 4
    assert hidden(tmp_path) == []
    said = json.loads((tmp_path / "package/scoring-package.json").read_text())
    [held] = (tmp_path / "package/azureml-models/net/1").glob("*.bin")
    assert held.name == f"{said['settings']['N']}.bin"
    assert held.read_bytes() == held.name.encode() * 1000
    assert once(int(said["settings"]["N"])).document["unchanged"] is True


def whole(package: Path) -> str:
    """The setting N of a package whose files are all those of its document."""
    said = build_context.read_document(package)
    assert said is not None
    assert build_context.changed_by_hand(package, said) == []
    assert tree(package / "azureml-models/net/1")["model.bin"] == (b"registered", 0o644)
    return said.settings["N"]


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from scoring_runtime.packaging import context

def killed(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

after = sys.argv[1]
if after == "moved":
    rename = Path.rename
    Path.rename = lambda path, to: (rename(path, to), killed())
elif after == "published":
    context._remove = killed
else:
    setattr(context, after, killed)
sys.argv[1:2] = []
from scoring_runtime.cli.main import main
raise SystemExit(main())
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("_check_space", "old"),
        ("_write", "old"),
        ("_place", "old"),
        ("_finish", "old"),
        ("_publish", "old"),
        ("moved", None),
        ("published", "new"),
    ],
)
def test_killed_at_each_step(
    tmp_path: Path, source: Path, model: Path, step: str, left: str | None
) -> None:
    """What is there then is exact; the next run succeeds, and a day later the rest is removed."""
    model.write_bytes(b"registered")
    arguments = ("--entry-script", "source/score.py", "--model", "net=model.bin", "--setting")
    assert command(tmp_path, *arguments, "N=old").code == 0
    killed = [sys.executable, "-c", KILLED_AT, step, *MODULE[3:], *arguments, "N=new"]
    done = subprocess.run(killed, cwd=tmp_path, env=clean_environ(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    package = tmp_path / "package"
    assert (whole(package) if package.exists() else None) == left
    remains = hidden(tmp_path)
    assert remains and all(name.startswith(".package.tmp-") for name in remains)
    for name in remains:
        os.utime(tmp_path / name, (1, 1))
    assert command(tmp_path, *arguments, "N=newer").code == 0
    assert whole(package) == "newer"
    assert hidden(tmp_path) == []


INTERRUPTED_AT = KILLED_AT.replace("SIGKILL", "SIGINT")


@pytest.mark.parametrize("step", ["_previous", "_write", "_place", "_finish", "moved"])
def test_an_interrupt_leaves_all_as_it_was(
    tmp_path: Path, source: Path, model: Path, step: str
) -> None:
    """Ctrl-C at any step: one line, exit code 130, nothing beside the old package."""
    model.write_bytes(b"registered")
    arguments = ("--entry-script", "source/score.py", "--model", "net=model.bin", "--setting")
    assert command(tmp_path, *arguments, "N=old").code == 0
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, step, *MODULE[3:], *arguments, "N=new"],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "scoring-runtime: interrupted\n"
    assert hidden(tmp_path) == []
    assert whole(tmp_path / "package") == "old"


def test_an_interrupt_removes_the_folders_that_were_made(tmp_path: Path, source: Path) -> None:
    """Those that the output would lie in."""
    arguments = ("--entry-script", "source/score.py", "--output", "a/b/c")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, "_finish", *MODULE[3:], *arguments],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


# --- where it is made -----------------------------------------------------------------------------


def test_a_linked_output_is_made_where_the_link_leads(package: Package, tmp_path: Path) -> None:
    """The link stays one, also when the package is replaced."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "package").symlink_to("disk")
    made = package()
    assert made.path == tmp_path / "disk"
    package(environment=Environment(variables={"N": "2"}))
    assert (tmp_path / "package").readlink() == Path("disk")
    assert "N" in json.loads((tmp_path / "disk/scoring-package.json").read_text())["settings"]
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["it's a [package]*", "-package", "größe", "a\nb", 'q"$(x)`'])
def test_odd_names_of_the_output(package: Package, tmp_path: Path, name: str) -> None:
    """Also stale folders are found by it, and none of others."""
    stale = tmp_path / f".{name}.tmp-1"
    other = tmp_path / ".other.tmp-1"
    for folder in (stale, other):
        folder.mkdir()
        os.utime(folder, (1, 1))
    assert package(name).path == tmp_path / name
    assert hidden(tmp_path) == [".other.tmp-1"]
    assert package(name).unchanged


def test_another_file_system(package: Package, tmp_path: Path, model: Path) -> None:
    """What cannot be linked is copied, and is unchanged the second time."""
    registered = registry.register(tmp_path / "registry", "net", model)
    wanted = (model_files.from_registry(tmp_path / "registry", "net"),)
    shared = Path("/dev/shm")
    place = shared if shared.is_dir() else tmp_path
    output = place / f"scoring-{os.getpid()}-{tmp_path.name}"
    try:
        made = package(output, models=wanted)
        there = made.path / "azureml-models/net/1/model.bin"
        assert there.read_bytes() == b"weights"
        same_device = os.stat(place).st_dev == os.stat(tmp_path).st_dev
        assert there.samefile(registered.path / "model.bin") is same_device
        assert package(output, models=wanted).unchanged
    finally:
        shutil.rmtree(output, ignore_errors=True)


def test_an_output_that_holds_the_working_folder(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell would be left in a folder that is gone; unchanged it is nobody's loss."""
    made = package()
    monkeypatch.chdir(made.path)
    assert package().unchanged
    with pytest.raises(PackagingError, match="holds the working folder, which would be replaced"):
        package(target="standalone", triggers=())
    assert (tmp_path / "package").samefile(Path.cwd())


def test_a_mount_point_is_refused(
    package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It cannot be renamed; a folder in it can."""
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path).endswith("/mounted"))
    with pytest.raises(PackagingError, match=r"is a mount point.*such as .*/mounted/package\."):
        package("mounted")
    assert package("mounted/package").path == tmp_path / "mounted/package"


@pytest.mark.parametrize("inside", ["", "/package", "/net", "/net/package", "/net/1/package"])
def test_an_output_in_the_place_of_models(
    package: Package, tmp_path: Path, model: Path, inside: str
) -> None:
    """Nothing is written into a registered model, nor in its place; beside its name it may be."""
    root = tmp_path / "registry"
    registry.register(root, "net", model)
    before = tree(root)
    wanted = (model_files.from_registry(root, "net"),)
    if inside == "/package":
        assert package(f"registry{inside}", models=wanted).path == root / "package"
        assert [each.id for each in registry.listing(root)] == ["net:1"]
        return
    with pytest.raises(PackagingError):
        package(f"registry{inside}", models=wanted)
    assert tree(root) == before


def test_a_model_inside_the_output_is_not_lost(package: Package, tmp_path: Path) -> None:
    """A package is replaced as a whole, with the models that lie in it."""
    made = package()
    inside = model_files.from_path("net", 1, made.path / "azureml-models/net/1")
    with pytest.raises(PackagingError, match=r"lies in the output .* which is replaced as a whole"):
        package(models=(inside,), target="standalone", triggers=())
    assert (made.path / "azureml-models/net/1/model.bin").exists()


def test_what_another_run_makes_is_not_taken(package: Package, source: Path) -> None:
    """Its hidden folder may lie in the source folder at this moment."""
    (source / ".out.tmp-1" / "source").mkdir(parents=True)
    (source / ".out.tmp-1" / "source" / "half.py").write_text("x")
    assert package("source/out").source_files == ("score.py",)


def test_an_output_where_nothing_may_be_written(
    as_nobody: Callable[..., Done], tmp_path: Path
) -> None:
    """The folder is named, and nothing is left."""
    (tmp_path / "closed").mkdir(mode=0o555)
    done = as_nobody("--entry-script", "source/score.py", "--output", "closed/package")
    assert (done.code, done.out) == (1, "")
    assert f"{tmp_path}/closed/package cannot be made: " in done.err
    assert done.err.endswith(": Permission denied.\n") and len(done.err.splitlines()) == 1
    assert os.listdir(tmp_path / "closed") == []


# --- models ---------------------------------------------------------------------------------------

# What is imported on the way may lie where only root can read: once as root, and then as nobody.
AS_NOBODY = """
import os, shutil, sys
from scoring_runtime.cli.main import main
from scoring_runtime.packaging import resolution
os.umask(0o022)
sys.stdout.flush()
kept = os.dup(1)
os.dup2(2, 1)
assert main(["package", "--no-resolve", "--entry-script", "source/score.py", "--output", "w"]) == 0
sys.stdout.flush()
shutil.rmtree("w")
os.dup2(kept, 1)
print(file=sys.stderr)
print("-- now --", file=sys.stderr, flush=True)
if os.geteuid() == 0:
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
raise SystemExit(main())
"""


@pytest.fixture
def as_nobody(tmp_path: Path, source: Path, model: Path) -> Iterator[Callable[..., Done]]:
    """The command as a user who is not root, in a folder that everybody can write to."""
    opened = [tmp_path, *tmp_path.parents]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in opened}
    for path in opened:
        if not modes[path] & 0o001:
            path.chmod(modes[path] | 0o011)
    tmp_path.chmod(0o777)

    def run(*arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *MODULE[3:], *arguments],
            cwd=tmp_path,
            env={**clean_environ(), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr.rpartition("-- now --\n")[2])

    yield run
    for path in opened:
        path.chmod(modes[path])


@pytest.mark.parametrize("kind", ["file", "inside", "folder"])
def test_an_unreadable_model_is_named(
    as_nobody: Callable[..., Done], tmp_path: Path, kind: str
) -> None:
    """Not the output is to blame; a folder below one that cannot be entered is no crash."""
    folder = tmp_path / "net"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "w.bin").write_bytes(b"w")
    closed = {"file": folder / "deep" / "w.bin", "inside": folder / "deep", "folder": folder}
    closed[kind].chmod(0)
    path = "net/deep/w.bin" if kind != "inside" else "net"
    try:
        done = as_nobody("--entry-script", "source/score.py", "--model", f"net={path}")
    finally:
        closed[kind].chmod(0o755)
    assert (done.code, done.out) == (1, "")
    [line] = done.err.splitlines()
    assert "model net" in line and line.endswith("cannot be read: Permission denied.")
    assert not (tmp_path / "package").exists()


def test_the_same_bytes_for_another_user(
    as_nobody: Callable[..., Done], tmp_path: Path, source: Path
) -> None:
    """Also a script that only its owner may run."""
    (source / "tool.sh").write_text("true\n")
    (source / "tool.sh").chmod(0o744)
    arguments = ("--entry-script", "score.py", "--source-dir", "source", "--output")
    assert as_nobody(*arguments, "theirs").code == 0
    assert command(tmp_path, *arguments, "ours").code == 0
    assert tree(tmp_path / "theirs") == tree(tmp_path / "ours")
    assert tree(tmp_path / "ours")["source/tool.sh"][1] == 0o755


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "inside"])
def test_what_is_no_file_is_no_model(tmp_path: Path, kind: str) -> None:
    """A pipe would be waited for; the message names it."""
    path = tmp_path / "odd.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.mkdir()
        os.mkfifo(path / "weights.bin")
    with pytest.raises(PackagingError, match=r"neither a file nor a folder|is no file"):
        model_files.model_files(model_files.from_path("net", 1, path))


def test_links_of_models(package: Package, tmp_path: Path, model: Path) -> None:
    """A link to a file or folder, and links inside; what they lead to is copied."""
    folder = tmp_path / "net"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "w.bin").write_bytes(b"w")
    (folder / "again.bin").symlink_to("deep/w.bin")
    (folder / "beside").symlink_to("deep")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "link.bin").symlink_to(model)
    models = (
        model_files.from_path("folder", 1, tmp_path / "link"),
        model_files.from_path("file", 1, tmp_path / "link.bin"),
    )
    made = package(models=models).path / "azureml-models"
    found = {name: data for name, (data, _) in tree(made).items()}
    assert found == {
        "file/1/link.bin": b"weights",
        "folder/1/link/again.bin": b"w",
        "folder/1/link/beside/w.bin": b"w",
        "folder/1/link/deep/w.bin": b"w",
    }
    assert not any(path.is_symlink() for path in made.rglob("*"))
    assert package(models=models).unchanged


def test_hidden_files_of_models(package: Package, tmp_path: Path) -> None:
    """One alone would not be found, or be taken for metadata; beside others it is kept."""
    for name in (METADATA_FILE, ".model.pkl"):
        (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(PackagingError, match="is a hidden file"):
            model_files.from_path("net", 1, tmp_path / name)


def test_a_model_that_changes_while_it_is_copied(
    specification: Specification, tmp_path: Path, model: Path
) -> None:
    """Its first half and its second would be of two models."""

    def write(done: int, total: int) -> None:
        model.write_bytes(b"others!")
        os.utime(model, (5, 5))

    with pytest.raises(PackagingError, match=r"model\.bin changed while it was packaged"):
        make(specification, tmp_path / "package", resolve=False, progress=write)
    assert not (tmp_path / "package").exists()
    assert hidden(tmp_path) == []


def test_a_source_file_that_changes_while_it_is_copied(
    package: Package, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is noted of it would not be what is there."""
    check = build_context._check_space

    def late(*arguments: Any) -> None:
        check(*arguments)
        (source / "score.py").write_text(SCRIPT + "# saved\n")

    monkeypatch.setattr(build_context, "_check_space", late)
    with pytest.raises(PackagingError, match=r"score\.py changed while it was packaged"):
        package()
    assert not (tmp_path / "package").exists()
    assert hidden(tmp_path) == []


# --- what is unchanged ----------------------------------------------------------------------------


def test_versions_without_metadata_are_copied(package: Package, tmp_path: Path) -> None:
    """Nobody promised that they never change, so they are not linked."""
    version = tmp_path / "registry" / "my.net" / "007"
    version.mkdir(parents=True)
    (version / "w.bin").write_bytes(b"w")
    models = (model_files.from_registry(tmp_path / "registry", "my.net"),)
    made = package(models=models)
    there = made.path / "azureml-models/my.net/7"
    assert made.settings["AZUREML_MODEL_DIR"].endswith("/azureml-models/my.net/7")
    assert os.listdir(there) == ["w.bin"]
    assert not (there / "w.bin").samefile(version / "w.bin")
    assert os.listdir(version) == ["w.bin"]
    (version / "w.bin").write_bytes(b"v")
    assert not package(models=models).unchanged


def _replaced_model(source: Path, model: Path) -> None:
    about = model.stat()
    other = model.with_name("other.bin")
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.rename(model)


def _executable(source: Path, model: Path) -> None:
    (source / "score.py").chmod(0o755)


def _new_file(source: Path, model: Path) -> None:
    (source / "empty.txt").touch()


@pytest.mark.parametrize("change", [_replaced_model, _executable, _new_file])
def test_changed_inputs_are_noticed(
    package: Package, source: Path, model: Path, change: Callable[[Path, Path], None]
) -> None:
    """A model of the same length and time, a script's mode, an empty file."""
    package()
    change(source, model)
    made = package()
    assert not made.unchanged
    assert (made.path / "azureml-models/net/1/model.bin").read_bytes() == model.read_bytes()
    mode = (source / "score.py").stat().st_mode & 0o100
    assert (made.path / "source/score.py").stat().st_mode & 0o100 == mode
    assert package().unchanged


@pytest.mark.parametrize(
    "changes",
    [
        {"triggers": ("blob", "http")},
        {"target": "standalone"},
        {"auth_level": "anonymous"},
        {"environment": Environment(python="3.12")},
        {"environment": Environment(base_image="python:3.12")},
        {"environment": Environment(variables={"A": "2", "B": "1"})},
        {"environment": Environment(variables={"A": "1", "MY_TOKEN": "x"})},
        {"environment": Environment(requirements=("idna==3.7",))},
    ],
    ids=str,
)
def test_changed_options_are_noticed(package: Package, changes: dict[str, object]) -> None:
    """Each makes another package, once."""
    package(triggers=("http", "blob"), environment=Environment(variables={"A": "1"}))
    wanted = {"triggers": ("http", "blob"), **changes}
    assert not package(**wanted).unchanged
    assert package(**wanted).unchanged


def test_another_runtime_is_noticed(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its version, should its files be the same."""
    package()
    monkeypatch.setattr(build_context, "VERSION", "0.0.0")
    assert not package().unchanged
    assert package().unchanged


def test_warnings_are_those_of_now(package: Package) -> None:
    """Also when the package is unchanged; where the folder lies is in no file of it."""
    assert package(environment=Environment(notes=("first",))).warnings == ("first",)
    second = package(environment=Environment(notes=("second",)))
    assert (second.unchanged, second.warnings) == (True, ("second",))
    assert package().warnings == ()


def test_nothing_else_is_a_change(package: Package, source: Path, model: Path) -> None:
    """Times, other modes, ignored files, and the order of variables."""
    (source / ".scoringignore").write_text("*.log\n")
    first = Environment(variables={"A": "1", "B": "2"})
    package(environment=first)
    os.utime(model)
    os.utime(source / "score.py")
    model.chmod(0o600)
    (source / "score.py").chmod(0o600)
    (source / "run.log").write_text("x")
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "score.pyc").write_bytes(b"x")
    made = package(environment=Environment(variables={"B": "2", "A": "1"}))
    assert made.unchanged


def test_the_same_bytes_elsewhere(tmp_path: Path, source: Path, model: Path) -> None:
    """Under another locale, time zone, hash seed, umask and folder."""
    for name in ("b.txt", "Z.txt", "ä.txt"):
        (source / name).write_text(name)
    arguments = ("--entry-script", "score.py", "--source-dir", "source", "--model", "net=model.bin")
    more = ("--setting", "GREETING=grüß $dich", "--pip-package", "idna", "--conda", "conda.yml")
    (tmp_path / "conda.yml").write_text("dependencies:\n- numpy\n- pip:\n  - azureml-defaults\n")
    assert command(tmp_path, *arguments, *more, PYTHONHASHSEED="1").code == 0
    first = tree(tmp_path / "package")
    other = tmp_path / "other" / "place"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("other", "package"))
    umask = os.umask(0o077)
    try:
        environ = {"LC_ALL": "C", "LANG": "C", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}
        done = command(other, *arguments, *more, "--output", "elsewhere", **environ)
    finally:
        os.umask(umask)
    assert done.code == 0, done.err
    assert tree(other / "elsewhere") == first


def test_writing_into_a_linked_model_is_noticed(
    package: Package, tmp_path: Path, model: Path
) -> None:
    """It changes the registry's file too: then it is no longer what was registered."""
    registry.register(tmp_path / "registry", "net", model)
    models = (model_files.from_registry(tmp_path / "registry", "net"),)
    there = package(models=models).path / "azureml-models/net/1/model.bin"
    os.utime(there)
    assert package(models=models).unchanged
    time.sleep(0.02)
    with there.open("r+b") as file:
        file.write(b"W")
    with pytest.raises(PackagingError, match=r"is not what was registered: model\.bin has changed"):
        package(models=models)


def test_a_check_that_was_left_out_is_made_later(
    specification: Specification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip is asked once about the same requirements, also after a run with --no-resolve."""
    asked: list[str] = []

    def check(requirements: str, *others: object) -> tuple[str, ...]:
        asked.append(requirements)
        return ()

    monkeypatch.setattr(resolution, "check", check)
    output = tmp_path / "package"
    make(specification, output, resolve=False)
    assert (make(specification, output).unchanged, len(asked)) == (False, 1)
    assert (make(specification, output).unchanged, len(asked)) == (True, 1)
    assert make(specification, output, resolve=False).unchanged
    other = replace(specification, environment=Environment(variables={"N": "2"}))
    assert (make(other, output).unchanged, len(asked)) == (False, 1)


# --- secrets --------------------------------------------------------------------------------------


def _every_byte(folder: Path) -> bytes:
    return b"".join(data for data, _ in tree(folder).values())


@pytest.mark.parametrize(
    "setting",
    [
        "DB_URL=postgres://me:s3cr3tpw@db/x",
        "MY_PASSWORD=s3cr3tpw",
        "REDIS_URL=rediss://:s3cr3tpw@host:6380",
        "AzureWebJobsStorage=DefaultEndpointsProtocol=https;AccountName=a;AccountKey=s3cr3tpw",
        "ANY=AMQP://me:s3cr3tpw@host",
    ],
)
def test_no_secret_of_a_setting_is_written_or_printed(tmp_path: Path, setting: str) -> None:
    """Only its name is, as one to be set."""
    (tmp_path / "score.py").write_text(SCRIPT)
    done = command(tmp_path, "--entry-script", "score.py", "--setting", setting, "--json")
    assert done.code == 0, done.err
    assert setting.partition("=")[0] in done.document["required_settings"]
    text = _every_byte(tmp_path / "package").decode("utf-8", "replace")
    assert "s3cr3tpw" not in text + done.out + done.err


@pytest.mark.parametrize(
    "wrong", ["=s3cr3tpw", "PASSWORD s3cr3tpw", "A B=s3cr3tpw", "A-B=s3cr3tpw", "1A=s3cr3tpw"]
)
def test_no_value_of_a_wrong_setting_is_printed(tmp_path: Path, wrong: str) -> None:
    """It may be a secret."""
    (tmp_path / "score.py").write_text(SCRIPT)
    done = command(tmp_path, "--entry-script", "score.py", "--setting", wrong)
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "s3cr3tpw" not in done.err


@pytest.mark.parametrize("name", ["config.json", "MLproject"])
def test_a_secret_in_a_model_folder_is_refused(package: Package, tmp_path: Path, name: str) -> None:
    """Its text files are searched as the source's are; the message names file and line."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / name).write_text(f'{{\n"AccountKey": "{KEY}"\n}}\n')
    with pytest.raises(PackagingError) as error:
        package(models=(model_files.from_path("net", 1, tmp_path / "net"),))
    assert str(error.value).startswith(
        f"azureml-models/net/1/net/{name}:2 holds a storage account key"
    )
    assert "take it out of the model" in str(error.value)
    assert KEY not in str(error.value)
    assert not (tmp_path / "package").exists()


# --- values and commands --------------------------------------------------------------------------

ODD = "a $HOME `id` $(id) \"q\" 'r' \\ \\n {x} % # ü"


def test_odd_values_arrive_as_they_are(tmp_path: Path) -> None:
    """In ENV, as docker reads it, in local.settings.json and in the JSON that is printed."""
    (tmp_path / "score.py").write_text(SCRIPT)
    done = command(tmp_path, "--entry-script", "score.py", "--setting", f"ODD={ODD}", "--json")
    assert done.code == 0, done.err
    assert done.document["settings"]["ODD"] == ODD
    local = json.loads((tmp_path / "package/local.settings.json").read_text("utf-8"))
    assert local["Values"]["ODD"] == ODD
    dockerfile = (tmp_path / "package/Dockerfile").read_text("utf-8")
    [quoted] = set(re.findall(r'^    ODD="(.*)"', dockerfile, re.MULTILINE))
    assert re.sub(r"\\(.)", r"\1", quoted) == ODD
    assert not re.search(r"(?<!\\)(?:\\\\)*[$\"]", quoted)


@pytest.mark.parametrize("value", ["a\nRUN x", "a\x85b", b"\xff"], ids=ascii)
def test_values_that_no_image_holds(tmp_path: Path, value: str | bytes) -> None:
    """One sentence that names the setting."""
    (tmp_path / "score.py").write_text(SCRIPT)
    setting = b"ODD=" + (value if isinstance(value, bytes) else value.encode())
    done = command(tmp_path, "--entry-script", "score.py", "--setting", setting)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("scoring-runtime: The value of ODD has a line break, ")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("target", ["functions", "standalone"])
def test_the_commands_can_be_pasted(tmp_path: Path, target: str) -> None:
    """Whatever the names are, a shell runs the commands that are meant and no others."""
    folder = tmp_path / "it's $(touch x) `touch y`; touch z"
    folder.mkdir()
    (folder / "my $(touch x).py").write_text(SCRIPT)
    (folder / "w.bin").write_bytes(b"w")
    done = command(
        folder,
        *("--entry-script", "my $(touch x).py", "--model", "net=w.bin", "--target", target),
        *("--trigger", "http", "--trigger", "blob", "--trigger", "service_bus_queue"),
        *(
            "--input-path",
            "inbox/$(touch x) {blobname}",
            "--output-path",
            "outbox/'; touch y;'{blobname}",
        ),
        *("--input-queue", "a;touch z", "--output-queue", "$(touch x)", "--json"),
        *("--setting", "BLOB_CONNECTION=OtherStorage"),
    )
    assert done.code == 0, done.err
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name in ("az", "docker", "buildah", "curl", "pip", "python"):
        given = 'IN="${AZUREML_ENTRY_SCRIPT+ $AZUREML_ENTRY_SCRIPT}"'
        (stubs / name).write_text(
            f'#!/bin/sh\n{given}\nprintf "%s\\n" "$0 $*$IN" >> "$LOG"\necho said\n'
        )
        (stubs / name).chmod(0o755)
    lines = [line for each in done.document["steps"].values() for line in each]
    shell = "\n".join(re.sub(r"<\w+>", "x", line) for line in lines)
    log = tmp_path / "log"
    before = tree(folder)
    environ = {**os.environ, "PATH": f"{stubs}:/usr/bin:/bin", "LOG": str(log)}
    run = subprocess.run(["sh", "-eu", "-c", shell], cwd=folder, env={**environ, **SET}, timeout=60)
    assert run.returncode == 0
    assert tree(folder) == before
    ran = log.read_text()
    assert f"-t net:1 {folder}/package\n" in ran
    assert "scoring_runtime serve my $(touch x).py\n" in ran
    assert ran.index("servicebus namespace create") < ran.index("servicebus queue create")
    assert "queue create --name a;touch z " in ran
    assert "--connection-string said\n" in ran  # what az printed as that of the account


SET = {
    "OtherStorage": "of-other-storage",
    "ServiceBusConnectionString": "of-bus",
    "AzureWebJobsStorage": "of-host",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setting", "a-b=1"), "'a-b' cannot be the name of a setting: allowed are letters"),
        (
            ("--trigger", "blob", "--setting", 'BLOB_CONNECTION=a"; id; "'),
            "which is not allowed. Allowed: the name of a setting.",
        ),
        (("--setting", "SCORING_TRIGGERS=blob"), "name each with --trigger"),
        (
            ("--trigger", "service_bus_queue", "--input-queue", "Q", "--output-queue", "q"),
            "The queue Q is both the input and the output",
        ),
        (("--tag", "Net:1"), "--tag 'Net:1' is no name for an image: allowed are"),
        (("--tag", "x; id"), "--tag 'x; id' is no name for an image"),
        (("--tag=-x",), "is no name for an image"),
        (("--build-arg", "=x"), "--build-arg is not NAME=VALUE"),
        (("--build-arg", "A=x"), "--build-arg is for --build, which is not given"),
        (("--builder", "docker"), "--builder is for --build, which is not given"),
        (("--model", "net="), "--model 'net=' has no path after '='"),
        (("--model", "net:" + "9" * 5000 + "=w"), "is no whole number"),
        (("--model", "=w"), "'' is not a name for a model"),
        (
            ("--model", "../x"),
            "--model ../x is a path without a name: write NAME=../x.",
        ),
        (
            ("--model", "score.py"),
            "--model score.py is a path without a name: write NAME=score.py.",
        ),
        (("--model", "./scor.py"), "write NAME=./scor.py. Did you mean score.py?"),
        (("--model", "iris=scor.py"), "no such file or folder. Did you mean score.py?"),
        (("--model", "iris=scre.py/1/model"), "no such file or folder. Did you mean score.py?"),
        (
            ("--model", "iris"),
            "There is no model iris: the registry azureml-models does not exist.",
        ),
        (("--output", ""), "--output is empty"),
        (("--trigger", ""), "Allowed: http, blob, service_bus_queue."),
    ],
    ids=lambda each: " ".join(each)[:40] if isinstance(each, tuple) else "",
)
def test_wrong_options_are_named(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """One line on standard error, nothing on standard output, nothing made."""
    (tmp_path / "score.py").write_text(SCRIPT)
    done = command(tmp_path, "--entry-script", "score.py", "--json", *arguments)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"scoring-runtime( package)?: [^\n]*\n", done.err.splitlines(True)[-1])
    assert message in done.err
    assert os.listdir(tmp_path) == ["score.py"]


@pytest.mark.parametrize(
    "tag", ["net", "net:1.0-a_B", "host.example:5000/a/b-c__d.e:3", "Host.example/x", "a--b"]
)
def test_names_of_images(tmp_path: Path, tag: str) -> None:
    """Those that registries take; in Azure the registry is another."""
    (tmp_path / "score.py").write_text(SCRIPT)
    done = command(tmp_path, "--entry-script", "score.py", "--tag", tag, "--json")
    assert done.code == 0, done.err
    assert done.document["image"] == tag
    name = tag.partition("/")[2] if "example" in tag else tag
    [built] = [line for line in done.document["steps"]["Deploy to Azure"] if "acr build" in line]
    assert f"--image {name} " in built


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """As in ``scoring-runtime package … | head -1``: no complaint, and the package is made."""
    (tmp_path / "score.py").write_text(SCRIPT)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*MODULE, "--entry-script", "score.py"],
        cwd=tmp_path,
        env=clean_environ(),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "package/Dockerfile").exists()


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    """Arrows and names are escaped, not a crash; so are names that are no text."""
    (tmp_path / "score.py").write_text(SCRIPT)
    environ = {"PYTHONIOENCODING": "ascii"}
    arguments = ("--entry-script", "score.py", "--trigger", "blob", "--output")
    done = command(tmp_path, *arguments, b"caf\xe9", **environ)
    assert done.code == 0, done.err
    assert "caf\\udce9" in done.out and "\\u2192" in done.out


# --- building -------------------------------------------------------------------------------------


@pytest.fixture
def builder(tmp_path: Path, source: Path) -> Callable[..., Done]:
    """``builder(script, *arguments)``: ``--build`` with a docker that is this shell script."""

    def run(script: str, *arguments: str) -> Done:
        folder = tmp_path / "bin"
        folder.mkdir()
        if script:
            (folder / "docker").write_text(
                f'#!/bin/sh\nexport PATH=/usr/bin:/bin\n[ "$1" = version ] && exit 0\n{script}\n'
            )
            (folder / "docker").chmod(0o755)
        made = ("--entry-script", "source/score.py", "--build", "--json")
        return command(tmp_path, *made, *arguments, PATH=str(folder))

    return run


def test_without_a_builder(builder: Callable[..., Done], tmp_path: Path) -> None:
    """The context is there, and each builder that was tried is named."""
    done = builder("")
    assert (done.code, done.out) == (1, "")
    first, last = done.err.splitlines()
    assert first == f"Made: {tmp_path / 'package'}"
    assert last.startswith(
        "scoring-runtime: No image can be built here: docker is not installed; podman is not "
        "installed; buildah is not installed. "
    )
    assert (tmp_path / "package/Dockerfile").exists()


def test_a_builder_that_fails(builder: Callable[..., Done], tmp_path: Path) -> None:
    """Exit code 1, nothing on standard output, the builder's words on standard error."""
    done = builder("echo step one; echo 'ERROR: no space left' >&2; exit 7")
    assert (done.code, done.out) == (1, "")
    assert "step one\n" in done.err and "(exit code 7)" in done.err
    assert "Traceback" not in done.err


def test_a_builder_that_hangs_ends_with_an_interrupt(tmp_path: Path, source: Path) -> None:
    """And what it started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(
        '#!/bin/sh\n[ "$1" = version ] && exit 0\n/bin/sleep 300 & echo "child $!"; wait\n'
    )
    (folder / "docker").chmod(0o755)
    process = subprocess.Popen(
        [*MODULE, "--entry-script", "source/score.py", "--build"],
        cwd=tmp_path,
        env={**clean_environ(), "PATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None and process.stdout is not None
        said = next(line for line in process.stderr if line.startswith("child "))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert (process.stdout.read(), rest) == ("", "scoring-runtime: interrupted\n")
    assert process.returncode == 130
    child = int(said.split()[1])
    assert not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text()


def test_odd_files_in_a_package(package: Package) -> None:
    """A pipe in the place of a file is a change by hand, and is not waited for."""
    made = package().path
    (made / "host.json").unlink()
    os.mkfifo(made / "host.json")
    with pytest.raises(PackagingError, match=r"was changed after it was made: host\.json\."):
        package()
    package(overwrite=True)
    assert (made / "host.json").is_file()
