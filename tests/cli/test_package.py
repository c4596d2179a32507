"""``scoring-runtime package``: what it makes, what it prints, and its exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scoring_runtime.cli.main import main
from scoring_runtime.models import registry
from tests.hosts.standalone import clean_environ
from tests.models_for_tests import iris_estimator, saved

REPOSITORY = Path(__file__).parents[2]
MODULE = (sys.executable, "-m", "scoring_runtime", "package")


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


Command = Callable[..., Done]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a script and a model in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "score.py").write_text("def init():\n    pass\n\n\ndef run(data):\n    return data\n")
    (folder / "net.bin").write_bytes(b"weights")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return folder


@pytest.fixture
def package(here: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``package("--model", …)``: the command in this process; pip is not asked."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = main(["package", "--no-resolve", *map(str, arguments)])
        except SystemExit as error:
            code = int(str(error.code))
        return Done(code, *capsys.readouterr())

    return run


SCRIPT = ("--entry-script", "score.py")
MODEL = ("--model", "net:2=net.bin")


# --- what is made ---------------------------------------------------------------------------------


def test_a_script_and_a_model(package: Command, here: Path) -> None:
    """The defaults: Functions, HTTP, ./package."""
    done = package(*SCRIPT, *MODEL, "--json")
    assert (done.code, done.err) == (0, "")
    document = done.document
    assert document["path"] == str(here / "package")
    assert (document["target"], document["triggers"]) == ("functions", ["http"])
    assert (document["models"], document["source_files"]) == (["net:2"], ["score.py"])
    assert (document["built"], document["unchanged"]) == (False, False)
    assert document["image"] == "net:2"
    assert (here / "package/azureml-models/net/2/net.bin").read_bytes() == b"weights"


def test_a_registered_model(package: Command, here: Path) -> None:
    """By name and version in --registry, the highest without one; ./azureml-models by default."""
    for _ in range(2):
        registry.register(here / "models", "net", here / "net.bin")
    registry.register(here / "azureml-models", "own", here / "net.bin")
    done = package(*SCRIPT, "--registry", "models", "--model", "net:1", "--json")
    assert done.document["models"] == ["net:1"]
    done = package(*SCRIPT, "--registry", "models", "--model", "net", "--json", "--output", "b")
    assert done.document["models"] == ["net:2"]
    assert package(*SCRIPT, "--model", "own", "--json", "--output", "c").document["models"] == [
        "own:1"
    ]


def test_a_model_without_a_script(package: Command, tmp_path: Path) -> None:
    """Its library is pinned to the version that wrote it."""
    import sklearn

    path = saved(tmp_path / "iris", iris_estimator())
    done = package("--model", f"iris={path}", "--target", "standalone", "--json")
    assert done.code == 0, done.err
    text = (Path(done.document["path"]) / "requirements.txt").read_text()
    assert f"scikit-learn=={sklearn.__version__}" in text.splitlines()
    assert "AZUREML_ENTRY_SCRIPT" not in done.document["settings"]
    assert "pandas>=2" in text.splitlines()  # it may have been fitted on a table


def test_triggers_and_their_options(package: Command) -> None:
    """By their old names; each option becomes a setting in the image."""
    done = package(
        *(*SCRIPT, *MODEL, "--json", "--auth-level", "anonymous"),
        *("--trigger", "http", "--trigger", "blob", "--trigger", "service_bus_queue"),
        *("--input-path", "asked/{blobname}.csv", "--output-path", "out/{blobname}.json"),
        *("--input-queue", "in", "--output-queue", "answered"),
        *("--setting", "SCORING_TIMEOUT_MS=5000", "--setting", "GREETING=a=b c"),
    )
    assert done.code == 0, done.err
    assert done.document["settings"] == {
        "AML_APP_ROOT": "/home/site/wwwroot/source",
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AZUREML_MODEL_DIR": "/home/site/wwwroot/azureml-models/net/2",
        "SCORING_TRIGGERS": "http,blob,service_bus",
        "SCORING_AUTH_LEVEL": "anonymous",
        "BLOB_INPUT_PATH": "asked/{blobname}.csv",
        "BLOB_OUTPUT_PATH": "out/{blobname}.json",
        "SERVICEBUS_INPUT_QUEUE": "in",
        "SERVICEBUS_OUTPUT_QUEUE": "answered",
        "SCORING_TIMEOUT_MS": "5000",
        "GREETING": "a=b c",
    }


def test_the_environment_from_files(package: Command, here: Path) -> None:
    """conda, requirements and single packages together."""
    (here / "conda.yml").write_text(
        "dependencies:\n- scikit-learn=1.5\n- pip:\n  - azureml-defaults\n  - nltk>=3\n"
    )
    (here / "more.txt").write_text("pillow>=10  # images\n")
    done = package(
        *(*SCRIPT, "--conda", "conda.yml", "--requirements", "more.txt"),
        *("--pip-package", "idna==3.7"),
    )
    assert done.code == 0, done.err
    lines = (here / "package/requirements.txt").read_text().splitlines()
    assert {"scikit-learn==1.5.*", "nltk>=3", "pillow>=10", "idna==3.7"} <= set(lines)
    assert "azureml-defaults" not in "".join(lines)
    assert "warning: " in done.err and "azureml-defaults" in done.err


def test_an_inference_configuration(package: Command, here: Path) -> None:
    """The old command line's file: script, folder, packages and variables."""
    (here / "source_dir").mkdir()
    (here / "source_dir" / "score.py").write_text((here / "score.py").read_text())
    (here / "source_dir" / "labels.txt").write_text("a\n")
    document = {
        "entryScript": "score.py",
        "sourceDirectory": "./source_dir",
        "environment": {
            "name": "project_environment",
            "python": {"condaDependencies": {"dependencies": [{"pip": ["idna==3.7"]}]}},
            "environmentVariables": {"GREETING": "hello"},
        },
    }
    (here / "inferenceconfig.json").write_text(json.dumps(document))
    done = package("--inference-config", "inferenceconfig.json", "--json")
    assert done.code == 0, done.err
    assert done.document["source_files"] == ["labels.txt", "score.py"]
    assert done.document["settings"]["GREETING"] == "hello"
    assert "idna==3.7" in (here / "package/requirements.txt").read_text().splitlines()


# --- what is printed ------------------------------------------------------------------------------


def test_it_ends_with_the_next_steps(package: Command, here: Path) -> None:
    """Where it is, what has to be set, and the commands of each trigger."""
    out = package(
        *(*SCRIPT, *MODEL, "--trigger", "http", "--trigger", "blob"),
        *("--trigger", "service_bus_queue", "--output-queue", "done"),
    ).out
    folder = here / "package"
    assert out.splitlines()[:6] == [
        f"Made: {folder}  (functions: net:2, 1 source file)",
        "  source/score.py",
        "To be set where it runs, never in the image:",
        "  AzureWebJobsStorage  connection string of the storage account that the Functions host "
        "keeps its own in",
        "  TriggerConnectionString  connection string of the storage account with the input and "
        "output containers",
        "  ServiceBusConnectionString  connection string of the Service Bus namespace with the "
        "input and output queues",
    ]
    wanted = [
        f"docker build --target functions -t net:2 {folder}",
        "pip install -r requirements.txt uvicorn httptools",
        "http://localhost:8080/score",
        f"az acr build --registry $REGISTRY --image net:2 --target functions {folder}",
        "az storage account create --name $STORAGE ",
        "TriggerConnectionString=$(az storage account show-connection-string ",
        "az servicebus namespace create --name $NAMESPACE ",
        "ServiceBusConnectionString=$(az servicebus namespace authorization-rule keys list ",
        "az functionapp create --name $APP ",
        "az functionapp config appsettings set --name $APP ",
        "https://$APP.azurewebsites.net/score?code=$KEY",
        "az storage container create --name input ",
        "az storage blob upload --container-name input --name first.json --file input.json ",
        "az storage blob download --container-name output --name first_out.json ",
        "az servicebus queue create --name done ",
    ]
    places = [out.find(line) for line in wanted]
    assert -1 not in places, wanted[places.index(-1)]
    assert places == sorted(places)


def test_a_sample_beside_the_script_is_named(package: Command, here: Path) -> None:
    """By its path in the package; without one the user has to have an input."""
    (here / ".scoringignore").write_text("/package\n/net.bin\n")
    assert "-d @input.json " in package(*SCRIPT, "--source-dir", ".").out
    (here / "sample_input.json").write_text("1")
    out = package(*SCRIPT, "--source-dir", ".").out
    assert f"-d @{here}/package/source/sample_input.json http://localhost:5001/score" in out


def test_of_several_models_one_is_asked_by_name(package: Command, tmp_path: Path) -> None:
    """/score alone is answered 404 there, unless one is the default."""
    path = saved(tmp_path / "iris", iris_estimator())
    models = ("--model", f"b={path}", "--model", f"a={path}", "--target", "standalone")
    assert " http://localhost:5001/score/b\n" in package(*models).out
    default = package(*models, "--setting", "SCORING_DEFAULT_MODEL=a").out
    assert " http://localhost:5001/score\n" in default


def test_an_identity_needs_no_connection_string(package: Command) -> None:
    """The setting that says where the service is takes its place."""
    address = "TriggerConnectionString__blobServiceUri=https://account.blob.example"
    done = package(*SCRIPT, "--trigger", "blob", "--setting", address, "--json")
    assert list(done.document["required_settings"]) == ["AzureWebJobsStorage"]
    assert done.document["warnings"] == []


def test_a_setting_that_is_none_is_said(package: Command) -> None:
    """Names that look like the runtime's; the near one is shown."""
    done = package(*SCRIPT, "--setting", "SCORING_TIMEOUT=3", "--json")
    assert done.document["warnings"] == [
        "There is no setting SCORING_TIMEOUT, so it is only a variable of the script. Did you mean "
        "SCORING_TIMEOUT_MS?"
    ]


def test_the_commands_are_shell(package: Command) -> None:
    """Every line can be parsed by a shell, and options are split as meant."""
    for target in ("functions", "standalone"):
        done = package(*SCRIPT, *MODEL, "--target", target, "--json", "--output", f"it's {target}")
        steps = done.document["steps"]
        lines = [line for each in steps.values() for line in each if not line.startswith("#")]
        assert len(lines) > 6
        for line in lines:
            assert subprocess.run(["sh", "-n", "-c", re.sub(r"<\w+>", "x", line)]).returncode == 0
        build = next(line for line in lines if line.startswith("buildah"))
        assert shlex.split(build)[-1] == done.document["path"]


PLACES = """
import os


def init():
    pass


def run(data):
    return [os.environ["AML_APP_ROOT"], os.environ["AZUREML_MODEL_DIR"], os.getcwd(), data]
"""


@pytest.mark.parametrize("target", ["standalone", "functions"])
def test_the_command_to_try_it_works(target: str, package: Command, here: Path) -> None:
    """It runs the packaged runtime and script, with the paths that the image has."""
    (here / "score.py").write_text(PLACES)
    document = package(*SCRIPT, *MODEL, "--target", target, "--json").document
    change, _, *into, command, _ = (
        line for line in document["steps"]["Try it here without an image"] if line[0] != "#"
    )
    made = here / "package"
    assert change == f"cd {made}"
    score = re.sub("serve$", "score", command).replace("python ", f"{sys.executable} ")
    tried = " && ".join([change, *(each.partition(" #")[0] for each in into), score])
    asked = f"cd {here} && echo '\"7\"' | ({tried})"
    done = subprocess.run(
        ["sh", "-c", asked], capture_output=True, text=True, env=clean_environ(), timeout=60
    )
    assert done.returncode == 0, done.stderr
    working = made / "source" if target == "standalone" else made
    said = [str(each) for each in (made / "source", made / "azureml-models/net/2", working)]
    assert json.loads(done.stdout) == [*said, '"7"\n']


def test_what_is_sent_fits_the_script(package: Command, here: Path) -> None:
    """A script that takes the raw body is sent a file, not JSON."""
    text = (here / "score.py").read_text()
    (here / "score.py").write_text(text.replace("def run", "@rawhttp\ndef run"))
    said = package(*SCRIPT, *MODEL).out
    assert "application/json" not in said
    raw = "curl -H 'Content-Type: application/octet-stream' --data-binary @input.bin "
    assert said.count(raw) == 3


@pytest.mark.parametrize(
    ("path", "place"), [("net", "net/w.bin"), ("net/", "net/w.bin"), ("net/.", "w.bin")]
)
def test_a_folder_keeps_its_name(path: str, place: str, package: Command, here: Path) -> None:
    """As Azure ML registered it; ``/.`` names its content."""
    (here / "net").mkdir()
    (here / "net/w.bin").touch()
    assert package(*SCRIPT, "--model", f"my net={path}").code == 0
    folder = here / "package/azureml-models/my net/1"
    found = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]
    assert found == [place]


def test_a_script_in_the_models_folder_is_no_fault(package: Command, here: Path) -> None:
    """There is nothing that could be left out."""
    (here / "net.bin").rename(here / "w.bin")
    options = ("--source-dir", here, "--model", f"net={here}", "--output", "../out", "--json")
    assert package(*SCRIPT, *options).document["warnings"] == []


def test_what_nothing_provides_ends_it(package: Command, here: Path) -> None:
    """Nothing is made, unless that is allowed."""
    (here / "score.py").write_text("import gone1\n" + (here / "score.py").read_text())
    done = package(*SCRIPT)
    assert (done.code, done.out, (here / "package").exists()) == (1, "", False)
    assert done.err.endswith(" where the image runs: --allow-missing.\n")
    allowed = package(*SCRIPT, "--allow-missing")
    assert (allowed.code, allowed.err.count("imports gone1")) == (0, 1)
    assert package(*SCRIPT, "--pip-package", "gone1").err == ""


def test_a_terminal_gets_a_progress_bar(here: Path) -> None:
    """On standard error, up to 100 %; standard output stays JSON."""
    main_end, terminal = pty.openpty()
    command = [*MODULE, "--no-resolve", *SCRIPT, *MODEL, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=clean_environ())
    os.close(terminal)
    shown = os.read(main_end, 100_000).decode()
    os.close(main_end)
    assert json.loads(done.stdout)["models"] == ["net:2"]
    assert "[##############################] 100%" in shown


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "There is nothing to package: give an entry script"),
        (("--entry-script", "scoer.py"), "scoer.py"),
        ((*SCRIPT, "--source-dir", "nowhere"), "nowhere"),
        ((*SCRIPT, "--model", "net=missing.bin"), "There is no model net at missing.bin"),
        ((*SCRIPT, "--model", "net:x=net.bin"), "the version 'x' is no whole number"),
        ((*SCRIPT, "--setting", "X"), "--setting 'X' is not NAME=VALUE."),
        ((*SCRIPT, "--setting", "SERVER_PORT=x"), "SERVER_PORT has the value 'x'"),
        ((*SCRIPT, "--conda", "none.yml"), "none.yml"),
        ((*SCRIPT, "--pip-package", "a b c"), "a b c"),
        ((*SCRIPT, "--output", "score.py"), "score.py cannot be the output: Not a directory."),
        ((*SCRIPT, "--output", "."), "is not empty and holds no package"),
        ((*SCRIPT, "--build", "--builder", "kaniko"), "kaniko"),
        ((*SCRIPT, "--nonsense"), "unrecognized arguments: --nonsense"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_wrong_input_is_one_message(
    package: Command, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Exit code 1, one line that names it, no stack trace, and nothing that is left behind."""
    before = sorted(here.iterdir())
    done = package(*arguments)
    assert (done.code, done.out) == (1, "")
    *usage, line = done.err.strip().splitlines()
    assert line.startswith("scoring-runtime: ") or usage[0].startswith("usage: ")
    assert message in done.err and "Traceback" not in done.err
    assert sorted(here.iterdir()) == before


def test_a_package_that_does_not_exist_is_found_out(here: Path) -> None:
    """pip is asked before anything is written."""
    name = "there-is-no-such-package-for-certain"
    command = [*MODULE, *SCRIPT, "--pip-package", name]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environ(), timeout=200)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert name in line
    assert not (here / "package").exists()


def test_no_replies(package: Command) -> None:
    """An empty output queue is no queue, not the default one."""
    done = package(*SCRIPT, "--trigger", "service_bus_queue", "--output-queue", "", "--json")
    assert done.document["settings"]["SERVICEBUS_OUTPUT_QUEUE"] == ""
