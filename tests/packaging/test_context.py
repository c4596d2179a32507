"""Build contexts: what is in them, that they are whole or not there, and the same each time."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import manifest, registry
from scoring_runtime.packaging import model_files
from scoring_runtime.packaging.app_settings import required_settings
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.dockerfile import FUNCTION_APP, host_json
from scoring_runtime.packaging.specification import Context, Environment, Specification
from scoring_runtime.settings.settings import Settings
from tests.hosts.standalone import clean_environ

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import helper


def init():
    pass


def run(data):
    return helper.answer(data)
"""
KEY = "k3y" * 28 + "K0=="
CONNECTION = f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY}"

Package = Callable[..., Context]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a script, a module it imports, and a file."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "score.py").write_text(SCRIPT)
    (folder / "helper.py").write_text("def answer(data):\n    return data\n")
    (folder / "labels.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that stands for a model."""
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture
def specification(source: Path, model: Path) -> Specification:
    """A script with its folder and one model, for HTTP on Functions."""
    return Specification(
        models=(model_files.from_path("net", 3, model),),
        entry_script=source / "score.py",
        source_dir=source,
    )


@pytest.fixture
def package(tmp_path: Path, specification: Specification) -> Package:
    """``package(output, **changes)``: the context of the specification with these changes."""

    def run(output: str = "package", overwrite: bool = False, **changes: object) -> Context:
        wanted = replace(specification, **changes)  # type: ignore[arg-type]
        return make(wanted, tmp_path / output, resolve=False, overwrite=overwrite)

    return run


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those of the runtime itself, by path."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    return {name: data for name, data in named.items() if not name.startswith("scoring_runtime/")}


def hidden(folder: Path) -> list[str]:
    """What a run that did not end well left in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# --- what is in it --------------------------------------------------------------------------------


def test_it_holds_what_an_image_needs(package: Package) -> None:
    """Every file that design.md's layout names, and no other."""
    made = package()
    assert sorted(files(made.path)) == [
        ".dockerignore",
        "Dockerfile",
        "app-settings.json",
        "azureml-models.scoring/net/3.json",
        "azureml-models/net/3/model.bin",
        "function_app.py",
        "host.json",
        "local.settings.json",
        "requirements.txt",
        "scoring-package.json",
        "source/helper.py",
        "source/labels.txt",
        "source/score.py",
    ]
    assert made.source_files == ("helper.py", "labels.txt", "score.py")
    assert made.models == ("net:3",)


def test_the_runtime_in_it_is_this_one(package: Package) -> None:
    """Each module, byte for byte; no compiled ones."""
    made = package().path / "scoring_runtime"
    here = REPOSITORY / "scoring_runtime"
    wanted = {path.relative_to(here): path.read_bytes() for path in here.rglob("*.py")}
    wanted[Path("py.typed")] = (here / "py.typed").read_bytes()
    found = {path.relative_to(made): path.read_bytes() for path in made.rglob("*.*")}
    assert found == wanted


def test_the_host_files_are_those_of_the_repository() -> None:
    """function_app.py and host.json at the top level are what is packaged by default."""
    assert (REPOSITORY / "function_app.py").read_text("utf-8") == FUNCTION_APP
    settings = Settings.from_environ({}, defaults={"AML_APP_ROOT": "/nonexistent"})
    assert (REPOSITORY / "host.json").read_text("utf-8") == host_json(settings)


@pytest.mark.parametrize(
    ("milliseconds", "renewal"),
    [
        ("3600000", "01:05:00"),
        ("1000", "00:05:01"),
        ("86400000", "1.00:05:00"),
        ("0", "1.00:05:00"),
    ],
)
def test_a_lock_is_renewed_as_long_as_run_may_take(
    package: Package, milliseconds: str, renewal: str
) -> None:
    """maxAutoLockRenewalDuration follows SCORING_TIMEOUT_MS, as a .NET TimeSpan."""
    environment = Environment(variables={"SCORING_TIMEOUT_MS": milliseconds})
    document = json.loads((package(environment=environment).path / "host.json").read_text())
    assert document["extensions"]["serviceBus"]["maxAutoLockRenewalDuration"] == renewal


def test_settings_are_in_the_image_by_absolute_paths(package: Package) -> None:
    """Paths are where the context lies in each target's image."""
    assert package().settings == {
        "AML_APP_ROOT": "/home/site/wwwroot/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "/home/site/wwwroot/azureml-models/net/3",
        "SCORING_TRIGGERS": "http",
    }
    made = package("other", target="standalone", triggers=(), input_queue="in")
    assert made.settings == {
        "AML_APP_ROOT": "/var/azureml-app/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "/var/azureml-app/azureml-models/net/3",
        "SERVICEBUS_INPUT_QUEUE": "in",
    }


def test_local_settings_start_in_the_context(package: Package) -> None:
    """``func start`` in the folder: paths are relative to it, storage is Azurite."""
    made = package(triggers=("http", "blob"))
    values = json.loads((made.path / "local.settings.json").read_text())["Values"]
    assert values == {
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        "TriggerConnectionString": "UseDevelopmentStorage=true",
        "AML_APP_ROOT": "source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "azureml-models/net/3",
        "SCORING_TRIGGERS": "http,blob",
    }


def test_a_registered_model_is_linked(package: Package, tmp_path: Path, model: Path) -> None:
    """A version of a registry takes no room twice, and brings its metadata."""
    registered = registry.register(tmp_path / "registry", "net", model, description="noted")
    wanted = model_files.from_registry(tmp_path / "registry", "net")
    made = package(models=(wanted,)).path / "azureml-models/net/1"
    assert (made / "model.bin").samefile(registered.path / "model.bin")
    noted = manifest.read(made)
    assert noted is not None and noted.description == "noted"
    by_path = package("again", models=(model_files.from_path("net", 1, registered.path),)).path
    assert (by_path / "azureml-models/net/1/model.bin").samefile(registered.path / "model.bin")


def test_a_model_that_others_cannot_read_is_copied(
    package: Package, tmp_path: Path, model: Path
) -> None:
    """The user of the image can read every file; the registry's own stays as it is."""
    model.chmod(0o600)
    registered = registry.register(tmp_path / "registry", "net", model)
    wanted = model_files.from_registry(tmp_path / "registry", "net")
    there = package(models=(wanted,)).path / "azureml-models/net/1/model.bin"
    assert stat.S_IMODE(there.stat().st_mode) == 0o644
    assert stat.S_IMODE((registered.path / "model.bin").stat().st_mode) == 0o600


# --- the same each time ---------------------------------------------------------------------------


def test_an_unchanged_second_run_leaves_it_alone(package: Package) -> None:
    """It says so, and not a file is written."""
    first = package()
    before = {path: path.stat().st_ctime_ns for path in first.path.rglob("*")}
    second = package()
    assert (first.unchanged, second.unchanged) == (False, True)
    assert {path: path.stat().st_ctime_ns for path in first.path.rglob("*")} == before
    assert replace(second, unchanged=False) == first


def test_a_changed_script_replaces_it_and_keeps_the_model(package: Package, source: Path) -> None:
    """The model's file is linked from the context that is replaced, not copied again."""
    first = package()
    inode = (first.path / "azureml-models/net/3/model.bin").stat().st_ino
    (source / "helper.py").write_text("def answer(data):\n    return 2\n")
    second = package()
    assert not second.unchanged
    assert (second.path / "source/helper.py").read_text().endswith("return 2\n")
    assert (second.path / "azureml-models/net/3/model.bin").stat().st_ino == inode


def test_a_changed_model_is_taken(package: Package, model: Path) -> None:
    """Also when its length stays."""
    package()
    model.write_bytes(bytes(reversed(model.read_bytes())))
    os.utime(model, (2, 2))
    made = package()
    assert not made.unchanged
    assert (made.path / "azureml-models/net/3/model.bin").read_bytes() == model.read_bytes()


def test_an_input_that_is_written_to_does_not_change_the_package(
    package: Package, model: Path
) -> None:
    """A model that is no registry's is a copy."""
    made = package()
    with model.open("r+b") as file:
        file.write(b"changed")
    assert (made.path / "azureml-models/net/3/model.bin").read_bytes()[:7] == bytes(range(7))


def test_a_package_inside_the_source_folder_is_not_packaged(package: Package, source: Path) -> None:
    """Also the second time, when the first is there."""
    first = package("source/out")
    assert first.source_files == ("helper.py", "labels.txt", "score.py")
    assert package("source/out").unchanged


def test_a_model_in_the_source_folder_is_packaged_twice_and_said(
    package: Package, source: Path
) -> None:
    """Whether the script opens it there nobody knows; an ignore file decides."""
    path = source / "model.bin"
    path.write_bytes(b"weights")
    models = (model_files.from_path("net", 1, path),)
    [warning] = package(models=models).warnings
    assert warning == (
        f"The model net at {path} is in the source folder too, so it is packaged twice: name it in "
        ".scoringignore unless the script opens it there."
    )
    (source / ".scoringignore").write_text("/model.bin\n")
    made = package(models=models)
    assert made.warnings == ()
    assert "model.bin" not in made.source_files


# --- wrong input ----------------------------------------------------------------------------------


def refused(package: Package, tmp_path: Path, **changes: object) -> str:
    """The message of a package that is refused; nothing of it is there."""
    with pytest.raises(PackagingError) as error:
        package("refused", **changes)
    assert not (tmp_path / "refused").exists()
    assert not [name for name in hidden(tmp_path) if "refused" in name]
    return str(error.value)


SECRETS = Environment(variables={"AZUREML_MODEL_DIR": "/x"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "lambda"}, "There is no target 'lambda'. Allowed: functions, standalone."),
        (
            {"triggers": ("kafka",)},
            "There is no trigger 'kafka'. Allowed: http, blob, service_bus.",
        ),
        (
            {"entry_script": None, "source_dir": None, "models": ()},
            "There is nothing to package: give an entry script (--entry-script score.py), a model "
            "(--model NAME=PATH), or both.",
        ),
        (
            {"input_path": "input/{blobname}.json"},
            "--input-path is for the trigger blob, which is not packaged: add --trigger blob or "
            "leave --input-path out.",
        ),
        (
            {"auth_level": "function", "triggers": ("blob",)},
            "--auth-level is for the trigger http, which is not packaged: add --trigger http or "
            "leave --auth-level out.",
        ),
        (
            {"output_queue": "out"},
            "--output-queue is for the trigger service_bus_queue, which is not packaged: add "
            "--trigger service_bus_queue or leave --output-queue out.",
        ),
        (
            {"auth_level": "root"},
            "SCORING_AUTH_LEVEL has the value 'root', which is not allowed. Allowed: anonymous, "
            "function or admin.",
        ),
        (
            {"triggers": ("blob",), "output_path": "input/{blobname}.json"},
            "BLOB_OUTPUT_PATH has the value 'input/{blobname}.json', which is not allowed: ",
        ),
        (
            {"environment": SECRETS},
            "The environment's variables set AZUREML_MODEL_DIR, which the packager sets to where "
            "the files lie in the image: leave it out.",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_packaged_is_named(
    package: Package, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """One message, and no half-made context."""
    assert refused(package, tmp_path, **changes).startswith(message)


def test_a_model_that_needs_a_script_is_refused_without(package: Package, tmp_path: Path) -> None:
    """A file of no known kind cannot score by itself."""
    message = refused(package, tmp_path, entry_script=None, source_dir=None)
    assert message.startswith(f"The model net at {tmp_path / 'model.bin'} is none that scores")
    assert message.endswith("Add --entry-script score.py.")


def test_an_unknown_registered_model_lists_those_there_are(tmp_path: Path, model: Path) -> None:
    """As ``model_path`` does."""
    registry.register(tmp_path / "registry", "net", model)
    with pytest.raises(PackagingError, match=r"There is no model nets?.*Did you mean net\?"):
        model_files.from_registry(tmp_path / "registry", "nett")
    with pytest.raises(PackagingError, match=r"There is no model net version 7. It has version 1."):
        model_files.from_registry(tmp_path / "registry", "net", 7)


def test_a_folder_with_something_else_is_left_alone(package: Package, tmp_path: Path) -> None:
    """Its files are named, none is touched."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(PackagingError) as error:
        package("full", overwrite=True)
    assert str(error.value) == (
        f"The output folder {tmp_path / 'full'} is not empty and holds no package: it has "
        "thesis.tex. Name a folder that is empty or not there."
    )
    assert files(tmp_path / "full") == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 1, "files": 3}', b"\xff{{"])
def test_a_damaged_document_is_no_package(package: Package, tmp_path: Path, content: bytes) -> None:
    """Then nobody knows what in the folder is whose."""
    made = package().path
    (made / "scoring-package.json").write_bytes(content)
    with pytest.raises(PackagingError, match="is not empty and holds no package"):
        package()


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_named_and_never_written(package: Package) -> None:
    """Variables that hold one are listed with what has to be set; no file has their text."""
    variables = {
        "TriggerConnectionString": CONNECTION,
        "REDIS_PASSWORD": "sw0rdfish",
        "MY_API_TOKEN": "t0ken",
        "STORE": CONNECTION,
        "GREETING": "hello",
    }
    made = package(
        triggers=("http", "blob", "service_bus"), environment=Environment(variables=variables)
    )
    assert [each.name for each in made.required] == [
        "AzureWebJobsStorage",
        "TriggerConnectionString",
        "ServiceBusConnectionString",
        "MY_API_TOKEN",
        "REDIS_PASSWORD",
        "STORE",
    ]
    assert made.settings["GREETING"] == "hello"
    everything = b"".join(files(made.path).values())
    for secret in (KEY, "sw0rdfish", "t0ken"):
        assert secret.encode() not in everything
    listed = json.loads((made.path / "app-settings.json").read_text())
    assert set(listed["required"]) == {each.name for each in made.required}
    assert listed["in_image"] == made.settings


@pytest.mark.parametrize(
    ("target", "triggers", "names"),
    [
        ("functions", ("http",), ["AzureWebJobsStorage"]),
        ("functions", ("blob",), ["AzureWebJobsStorage", "TriggerConnectionString"]),
        ("functions", ("service_bus",), ["AzureWebJobsStorage", "TriggerConnectionString"]),
        ("standalone", (), []),
        ("standalone", ("http", "blob"), ["TriggerConnectionString"]),
    ],
)
def test_required_settings_are_those_of_the_triggers(
    specification: Specification, target: str, triggers: tuple[str, ...], names: list[str]
) -> None:
    """By the names that the runtime reads."""
    wanted = replace(specification, target=target, triggers=triggers)
    assert [each.name for each in required_settings(wanted)] == names


# --- whole or not at all --------------------------------------------------------------------------


def test_a_model_larger_than_the_disk_is_refused_before_it_is_copied(
    package: Package, tmp_path: Path
) -> None:
    """The bytes that it needs and those that are free are said."""
    huge = tmp_path / "huge.bin"
    size = shutil.disk_usage(tmp_path).free + (1 << 34)
    with huge.open("wb") as file:
        file.truncate(size)
    message = refused(package, tmp_path, models=(model_files.from_path("net", 1, huge),))
    assert message.startswith(f"{tmp_path / 'refused'} cannot be made: ")
    assert f"the models have {size:,} bytes and " in message
    assert message.endswith("Free some space, or name another disk.")


PROGRAM = """
import sys
from pathlib import Path
from scoring_runtime.packaging import model_files
from scoring_runtime.packaging.context import make
from scoring_runtime.packaging.specification import Specification

model, script, output = map(Path, sys.argv[1:4])
specification = Specification(
    models=(model_files.from_path("net", 1, model),), entry_script=script
)


def progress(done, total):
    print(done, total, flush=True)


try:
    make(specification, output, progress=progress, resolve=False)
except Exception as error:
    print(type(error).__name__, error, flush=True)
    raise SystemExit(1)
"""


@contextmanager
def packaging(
    model: Path, source: Path, output: Path, largest_file: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that packages the model; no file it writes may get larger than that."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-c", PROGRAM, str(model), str(source / "score.py"), str(output)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(PYTHONPATH=str(REPOSITORY)),
        preexec_fn=limit,
    ) as process:
        yield process


def test_an_error_while_writing_leaves_nothing(tmp_path: Path, source: Path) -> None:
    """The message names the file; neither the context nor a part of it is there."""
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * 5_000_000)
    with packaging(large, source, tmp_path / "package", largest_file=4_000_000) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    last = out.splitlines()[-1]
    assert last.startswith(f"PackagingError {tmp_path / 'package'} cannot be made")
    assert last.endswith("File too large.")
    assert not (tmp_path / "package").exists()
    assert hidden(tmp_path) == []


def test_a_large_model_is_never_held_in_memory(tmp_path: Path, source: Path) -> None:
    """The peak stays below 100 MB while 300 MB are copied, with their progress."""
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(300_000_000)
    # ru_maxrss would be that of this process, from before exec().
    measured = PROGRAM + "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    output = tmp_path / "package"
    command = [sys.executable, "-c", measured, str(large), str(source / "score.py"), str(output)]
    environ = clean_environ(PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120)
    *said, peak = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert said[-1] == "300000000 300000000"
    assert int(peak) < 100_000  # kB
    large.unlink()
    shutil.rmtree(output)


def test_several_models_are_below_one_folder(package: Package, model: Path) -> None:
    """AZUREML_MODEL_DIR is the folder of all when there are several."""
    models = tuple(model_files.from_path(name, 1, model) for name in ("one", "two"))
    made = package(models=models)
    assert made.settings["AZUREML_MODEL_DIR"] == "/home/site/wwwroot/azureml-models"
    assert (made.path / "azureml-models/two/1/model.bin").read_bytes() == model.read_bytes()


def test_a_damaged_model_is_not_packaged(package: Package, tmp_path: Path, model: Path) -> None:
    """Its files are compared with what was registered."""
    registered = registry.register(tmp_path / "registry", "net", model)
    (registered.path / "model.bin").write_bytes(b"other")
    wanted = model_files.from_registry(tmp_path / "registry", "net")
    with pytest.raises(PackagingError, match=r"model\.bin has changed"):
        package(models=(wanted,))
    assert not (tmp_path / "package").exists()


def test_a_model_given_twice_is_refused(
    package: Package, tmp_path: Path, specification: Specification
) -> None:
    """Two files for one name and version."""
    twice = (*specification.models, *specification.models)
    assert refused(package, tmp_path, models=twice) == "The model net:3 is given twice."


def test_changes_by_hand_are_kept_until_they_are_overwritten(
    package: Package, source: Path
) -> None:
    """Changed, missing and new files are named; --overwrite loses them."""
    made = package().path
    with (made / "Dockerfile").open("a") as file:
        file.write("RUN echo by hand\n")
    (made / "host.json").unlink()
    (made / "notes.txt").write_text("mine")
    (source / "labels.txt").write_text("c\n")
    with pytest.raises(PackagingError) as error:
        package()
    assert str(error.value) == (
        f"{made} was changed after it was made: Dockerfile, host.json (missing), notes.txt (new). "
        "Name another output folder, or --overwrite it and lose the changes."
    )
    assert (made / "notes.txt").read_text() == "mine"
    package(overwrite=True)
    assert not (made / "notes.txt").exists()
    assert (made / "source/labels.txt").read_text() == "c\n"
