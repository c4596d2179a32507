"""The packager at its edges: at once, killed, in odd places, with odd names, values and files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import registry
from scoring_runtime.models.manifest import METADATA_FILE
from scoring_runtime.packaging import context as build_context
from scoring_runtime.packaging import model_files, resolution
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.specification import Environment, Specification
from tests.hosts.standalone import clean_environ
from tests.packaging.conftest import (
    MODULE,
    SCRIPT,
    Done,
    Package,
    command,
    hidden,
    ordinary_user,
)

KEY = "k3y" * 28 + "K0=="


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and mode of every file by path."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- at once, and cut off -------------------------------------------------------------------------


def test_several_at_once_into_one_output(tmp_path: Path, source: Path) -> None:
    """Each makes it whole; the last one stays, with its own model under the same name."""
    (tmp_path / "model").mkdir()
    for index in range(4):
        (tmp_path / f"model/{index}.bin").write_bytes(f"{index}.bin".encode() * 1000)

    def once(index: int) -> Done:
        arguments = ("--entry-script", "source/score.py", "--model", f"net=model/{index}.bin")
        return command(tmp_path, *arguments, "--setting", f"N={index}", "--json")

    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(once, range(4)))
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 4
    assert hidden(tmp_path) == []
    said = json.loads((tmp_path / "package/scoring-package.json").read_text())
    [held] = (tmp_path / "package/azureml-models/net/1").glob("*.bin")
    assert held.name == f"{said['settings']['N']}.bin"
    assert held.read_bytes() == held.name.encode() * 1000
    assert json.loads(once(int(said["settings"]["N"])).stdout)["unchanged"] is True


def whole(package: Path) -> str:
    """The setting N of a package whose files are all those of its document."""
    said = build_context.read_document(package)
    assert said is not None
    assert build_context.changed_by_hand(package, said) == []
    assert tree(package / "azureml-models/net/1")["model.bin"] == (b"registered", 0o644)
    return said.settings["N"]


CUT_OFF_AT = """
import os, signal, sys
from pathlib import Path
from scoring_runtime.packaging import context

def killed(*arguments, **named):
    os.kill(os.getpid(), signal.SIGNAL)

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


def cut_off(folder: Path, step: str, sign: str) -> Done:
    """A run with the setting N=new over one with N=old, which gets this signal at that step."""
    (folder / "model.bin").write_bytes(b"registered")
    arguments = ("--entry-script", "source/score.py", "--model", "net=model.bin", "--setting")
    assert command(folder, *arguments, "N=old").returncode == 0
    code = CUT_OFF_AT.replace("SIGNAL", sign)
    words = [sys.executable, "-c", code, step, *MODULE[3:], *arguments, "N=new"]
    return subprocess.run(words, cwd=folder, env=clean_environ(), capture_output=True, text=True)


@pytest.mark.parametrize(
    ("step", "left"), [("_write", "old"), ("moved", None), ("published", "new")]
)
def test_killed_at_each_step(tmp_path: Path, source: Path, step: str, left: str | None) -> None:
    """What is there then is exact; the next run succeeds, and a day later the rest is removed."""
    assert cut_off(tmp_path, step, "SIGKILL").returncode == -signal.SIGKILL
    package = tmp_path / "package"
    assert (whole(package) if package.exists() else None) == left
    remains = hidden(tmp_path)
    assert remains and all(name.startswith(".package.tmp-") for name in remains)
    for name in remains:
        os.utime(tmp_path / name, (1, 1))
    arguments = ("--entry-script", "source/score.py", "--model", "net=model.bin", "--setting")
    assert command(tmp_path, *arguments, "N=newer").returncode == 0
    assert whole(package) == "newer"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("step", ["_previous", "_finish", "moved"])
def test_an_interrupt_leaves_all_as_it_was(tmp_path: Path, source: Path, step: str) -> None:
    done = cut_off(tmp_path, step, "SIGINT")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "scoring-runtime: interrupted\n"
    assert hidden(tmp_path) == []
    assert whole(tmp_path / "package") == "old"


# --- where it is made -----------------------------------------------------------------------------


def test_a_linked_output_is_made_where_the_link_leads(package: Package, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "package").symlink_to("disk")
    made = package()
    assert made.path == tmp_path / "disk"
    package(environment=Environment(variables={"N": "2"}))
    assert (tmp_path / "package").readlink() == Path("disk")
    assert "N" in json.loads((tmp_path / "disk/scoring-package.json").read_text())["settings"]
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["it's a [package]*", "-größe\n"])
def test_odd_names_of_the_output(package: Package, tmp_path: Path, name: str) -> None:
    stale = tmp_path / f".{name}.tmp-1"
    other = tmp_path / ".other.tmp-1"
    for folder in (stale, other):
        folder.mkdir()
        os.utime(folder, (1, 1))
    assert package(name).path == tmp_path / name
    assert hidden(tmp_path) == [".other.tmp-1"]
    assert package(name).unchanged


@pytest.mark.parametrize("inside", ["", "/net", "/net/1/package"])
def test_an_output_in_the_place_of_models(
    package: Package, tmp_path: Path, model: Path, inside: str
) -> None:
    root = tmp_path / "registry"
    registry.register(root, "net", model)
    before = tree(root)
    wanted = (model_files.from_registry(root, "net"),)
    with pytest.raises(PackagingError):
        package(f"registry{inside}", models=wanted)
    assert tree(root) == before
    assert package("registry/package", models=wanted).path == root / "package"
    assert [each.id for each in registry.listing(root)] == ["net:1"]


def test_a_model_inside_the_output_is_not_lost(package: Package, tmp_path: Path) -> None:
    made = package()
    inside = model_files.from_path("net", 1, made.path / "azureml-models/net/1")
    with pytest.raises(PackagingError, match=r"lies in the output .* which is replaced as a whole"):
        package(models=(inside,), target="standalone", triggers=())
    assert (made.path / "azureml-models/net/1/model.bin").exists()


def test_what_another_run_makes_is_not_taken(package: Package, source: Path) -> None:
    """Its hidden folder may lie in the source folder at this moment."""
    (source / ".out.tmp-1" / "source").mkdir(parents=True)
    (source / ".out.tmp-1" / "source" / "half.py").write_text("x")
    assert package("source/out").source_files == ("helper.py", "labels.txt", "score.py")
    assert package("source/out").unchanged  # nor is the package itself


def test_what_permissions_forbid_is_named(
    package: Package, source: Path, model: Path, open_folder: Path
) -> None:
    package()  # all that is imported on the way is
    (open_folder / "closed").mkdir(mode=0o555)
    (open_folder / "net").mkdir()
    (open_folder / "net/w.bin").write_bytes(b"w")
    net = model_files.from_path("net", 1, open_folder / "net")
    (open_folder / "net/w.bin").chmod(0)
    shutil.copytree(source, open_folder / "source")
    script = {"entry_script": open_folder / "source/score.py", "source_dir": None}
    with ordinary_user():
        with pytest.raises(PackagingError, match=r"/closed/package cannot be made: .* denied\.$"):
            package(open_folder / "closed/package", models=(), **script)
        with pytest.raises(PackagingError, match=r"model net cannot be read: Permission denied\.$"):
            package(open_folder / "package", models=(net,), **script)
    (open_folder / "net").chmod(0)
    with ordinary_user(), pytest.raises(PackagingError, match="cannot be read: Permission denied"):
        model_files.from_path("net", 1, open_folder / "net/w.bin")
    assert sorted(os.listdir(open_folder)) == ["closed", "net", "source"]
    assert os.listdir(open_folder / "closed") == []


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "/weights.bin"])
def test_what_is_no_file_is_no_model(tmp_path: Path, inside: str) -> None:
    """A pipe would be waited for; the message names it."""
    path = tmp_path / "odd.onnx"
    if inside:
        path.mkdir()
    os.mkfifo(f"{path}{inside}")
    with pytest.raises(PackagingError, match=r"neither a file nor a folder|is no file"):
        model_files.model_files(model_files.from_path("net", 1, path))


def test_links_of_models(package: Package, tmp_path: Path, model: Path) -> None:
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
    write = build_context._write

    def late(*arguments: Any) -> None:
        (source / "score.py").write_text(SCRIPT + "# saved\n")
        write(*arguments)

    monkeypatch.setattr(build_context, "_write", late)
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


@pytest.mark.parametrize("changed", ["model", "mode", "file"])
def test_changed_inputs_are_noticed(
    package: Package, source: Path, model: Path, changed: str
) -> None:
    """A model of the same length and time, a script's mode, an empty file."""
    package()
    if changed == "model":
        about = model.stat()
        other = model.with_name("other.bin")
        other.write_bytes(b"WEIGHTS")
        os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
        other.rename(model)
    elif changed == "mode":
        (source / "score.py").chmod(0o755)
    else:
        (source / "empty.txt").touch()
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
        {"environment": Environment(base_image="python:3.12")},
        {"environment": Environment(variables={"A": "1", "MY_TOKEN": "x"})},
    ],
    ids=str,
)
def test_changed_options_are_noticed(package: Package, changes: dict[str, object]) -> None:
    package(triggers=("http", "blob"), environment=Environment(variables={"A": "1"}))
    wanted = {"triggers": ("http", "blob"), **changes}
    assert not package(**wanted).unchanged
    assert package(**wanted).unchanged


def test_another_runtime_is_noticed(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    package()
    monkeypatch.setattr(build_context, "VERSION", "0.0.0")
    assert not package().unchanged
    assert package().unchanged


def test_warnings_are_those_of_now(package: Package) -> None:
    assert package(environment=Environment(notes=("first",))).warnings == ("first",)
    second = package(environment=Environment(notes=("second",)))
    assert (second.unchanged, second.warnings) == (True, ("second",))
    assert package().warnings == ()


def test_nothing_else_is_a_change(package: Package, source: Path, model: Path) -> None:
    (source / ".scoringignore").write_text("*.log\n")
    package(environment=Environment(variables={"A": "1", "B": "2"}))
    for path in (model, source / "score.py"):
        os.utime(path)
        path.chmod(0o600)
    (source / "run.log").write_text("x")
    assert package(environment=Environment(variables={"B": "2", "A": "1"})).unchanged


def test_the_same_bytes_elsewhere(tmp_path: Path, source: Path, model: Path) -> None:
    for name in ("b.txt", "Z.txt", "ä.txt"):
        (source / name).write_text(name)
    (source / "Z.txt").chmod(0o744)  # its owner may run it
    arguments = ("--entry-script", "score.py", "--source-dir", "source", "--model", "net=model.bin")
    more = ("--setting", "GREETING=grüß $dich", "--pip-package", "idna", "--conda", "conda.yml")
    (tmp_path / "conda.yml").write_text("dependencies:\n- numpy\n- pip:\n  - azureml-defaults\n")
    assert command(tmp_path, *arguments, *more, PYTHONHASHSEED="1").returncode == 0
    first = tree(tmp_path / "package")
    assert first["source/Z.txt"][1] == 0o755
    other = tmp_path / "other" / "place"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("other", "package"))
    umask = os.umask(0o077)
    try:
        environ = {"LC_ALL": "C", "LANG": "C", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}
        done = command(other, *arguments, *more, "--output", "elsewhere", **environ)
    finally:
        os.umask(umask)
    assert done.returncode == 0, done.stderr
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


def test_a_secret_in_a_model_folder_is_refused(package: Package, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/config.json").write_text(f'{{\n"AccountKey": "{KEY}"\n}}\n')
    with pytest.raises(PackagingError) as error:
        package(models=(model_files.from_path("net", 1, tmp_path / "net"),))
    assert str(error.value).startswith(
        "azureml-models/net/1/net/config.json:2 holds a storage account key"
    )
    assert "take it out of the model" in str(error.value)
    assert KEY not in str(error.value)
    assert not (tmp_path / "package").exists()


# --- values and commands --------------------------------------------------------------------------


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
        *("--input-path", "inbox/$(touch x) {blobname}"),
        *("--output-path", "outbox/'; touch y;'{blobname}"),
        *("--input-queue", "a;touch z", "--output-queue", "$(touch x)", "--json"),
        *("--setting", "BLOB_CONNECTION=OtherStorage"),
    )
    assert done.returncode == 0, done.stderr
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name in ("az", "docker", "buildah", "curl", "pip", "python"):
        given = 'IN="${AZUREML_ENTRY_SCRIPT+ $AZUREML_ENTRY_SCRIPT}"'
        (stubs / name).write_text(
            f'#!/bin/sh\n{given}\nprintf "%s\\n" "$0 $*$IN" >> "$LOG"\necho said\n'
        )
        (stubs / name).chmod(0o755)
    lines = [line for each in json.loads(done.stdout)["steps"].values() for line in each]
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


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    environ = {"PYTHONIOENCODING": "ascii"}
    arguments = ("--entry-script", "score.py", "--trigger", "blob", "--output")
    done = command(tmp_path, *arguments, b"caf\xe9", **environ)
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9" in done.stdout and "\\u2192" in done.stdout


# --- building -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "scoring-runtime: No image can be built here: docker is not installed; podman is not"),
        ("echo step one; echo 'ERROR: no space left' >&2; exit 7", "(exit code 7)"),
    ],
)
def test_without_a_builder_that_works(script: str, said: str, tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    if script:
        (folder / "docker").write_text(f'#!/bin/sh\n[ "$1" = version ] && exit 0\n{script}\n')
        (folder / "docker").chmod(0o755)
    made = ("--entry-script", "source/score.py", "--build", "--json")
    done = command(tmp_path, *made, PATH=str(folder))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == f"Made: {tmp_path / 'package'}"
    assert said in done.stderr and "Traceback" not in done.stderr
    assert ("step one\n" in done.stderr) == bool(script)
    assert (tmp_path / "package/Dockerfile").exists()


def test_odd_files_in_a_package(package: Package) -> None:
    """A pipe in the place of a file is a change by hand, and is not waited for."""
    made = package().path
    (made / "host.json").unlink()
    os.mkfifo(made / "host.json")
    with pytest.raises(PackagingError, match=r"was changed after it was made: host\.json\."):
        package()
    package(overwrite=True)
    assert (made / "host.json").is_file()
