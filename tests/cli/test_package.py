"""``scoring-runtime package``: what it makes, what it prints, and its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scoring_runtime.cli.main import main
from scoring_runtime.models import registry
from tests.hosts.certificates import Authority
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
    """``package("--model", …)``: the command in this process; pip is not asked, nothing tried."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        try:
            code = main(["package", "--no-resolve", "--no-check", *map(str, arguments)])
        except SystemExit as error:
            code = int(str(error.code))
        return Done(code, *capsys.readouterr())

    return run


SCRIPT = ("--entry-script", "score.py")


@pytest.mark.parametrize("option", ["--model-dir", "--model_dir"])
def test_the_model_dir_of_other_commands_is_told_its_options_here(
    option: str, package: Command, here: Path
) -> None:
    (here / "a b").mkdir()
    done = package(*SCRIPT, option, "a b/")
    assert (done.code, done.out) == (1, "")
    assert "--model 'NAME=a b/.' for what lies in the folder" in done.err
    assert "--registry 'a b/' --model NAME\n" in done.err
    assert "--model-dir" not in package("--help").out


MODEL = ("--model", "net:2=net.bin")


# --- what is made ---------------------------------------------------------------------------------


def test_a_script_and_a_model(package: Command, here: Path) -> None:
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
    for _ in range(2):
        registry.register(here / "models", "net", here / "net.bin")
    registry.register(here / "azureml-models", "own", here / "net.bin")
    for arguments, found in (
        (("--registry", "models", "--model", "net:1"), "net:1"),
        (("--registry", "models", "--model", "net"), "net:2"),
        (("--model", "own"), "own:1"),
    ):
        assert package(*SCRIPT, *arguments, "--json").document["models"] == [found]


def test_triggers_and_their_options(package: Command) -> None:
    """By their old names; each option becomes a setting in the image."""
    done = package(
        *(*SCRIPT, *MODEL, "--json", "--auth-level", "anonymous"),
        *("--trigger", "http", "--trigger", "blob", "--trigger", "service_bus_queue"),
        *("--input-path", "asked/{blobname}.csv", "--output-path", "out/{blobname}.json"),
        *("--input-queue", "in", "--output-queue", ""),  # no queue, not the default one
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
        "SERVICEBUS_OUTPUT_QUEUE": "",
        "SCORING_TIMEOUT_MS": "5000",
        "GREETING": "a=b c",
    }


def test_the_environment_from_files(package: Command, here: Path) -> None:
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
    (here / "source_dir").mkdir()
    (here / "source_dir" / "score.py").write_text((here / "score.py").read_text())
    environment = {
        "python": {"condaDependencies": {"dependencies": [{"pip": ["idna==3.7"]}]}},
        "environmentVariables": {"GREETING": "hello"},
    }
    document = {"entryScript": "score.py", "sourceDirectory": "./source_dir"}
    (here / "i.json").write_text(json.dumps({**document, "environment": environment}))
    done = package("--inference-config", "i.json", "--json")
    assert done.code == 0, done.err
    assert done.document["source_files"] == ["score.py"]
    assert done.document["settings"]["GREETING"] == "hello"
    assert "idna==3.7" in (here / "package/requirements.txt").read_text().splitlines()


# --- what is printed ------------------------------------------------------------------------------


def test_it_ends_with_the_next_steps(package: Command, here: Path) -> None:
    out = package(
        *(*SCRIPT, *MODEL, "--trigger", "http", "--trigger", "blob"),
        *("--trigger", "service_bus_queue", "--output-queue", "done"),
    ).out
    folder = here / "package"
    storage, bus = "TriggerConnectionString", "ServiceBusConnectionString"
    wanted = [
        f"Made: {folder}  (functions: net:2, 1 source file)\n  source/score.py\n",
        "To be set where it runs, never in the image:\n  AzureWebJobsStorage  connection string ",
        f"  {storage}  connection string of the storage account with the input and output ",
        f"  {bus}  connection string of the Service Bus namespace with the input ",
        f"docker build --target functions -t net:2 {folder}",
        "pip install -r requirements.txt uvicorn httptools",
        "http://localhost:8080/score",
        f"az acr build --registry $REGISTRY --image net:2 --target functions {folder}",
        "az storage account create --name $STORAGE ",
        f"{storage}=$(az storage account show-connection-string ",
        "az servicebus namespace create --name $NAMESPACE ",
        f"{bus}=$(az servicebus namespace authorization-rule keys list ",
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


def test_the_file_that_a_setting_names_is_no_secret(package: Command) -> None:
    """As it is called like a key, it was only to be set where the image runs."""
    key = "SCORING_TLS_KEY=/run/secrets/tls.key"
    document = package(*SCRIPT, "--target", "standalone", "--setting", key, "--json").document
    assert document["settings"]["SCORING_TLS_KEY"] == "/run/secrets/tls.key"
    assert document["required_settings"] == {}


def test_a_setting_that_is_none_is_said(package: Command) -> None:
    done = package(*SCRIPT, "--setting", "SCORING_TIMEOUT=3", "--json")
    assert done.document["warnings"] == [
        "There is no setting SCORING_TIMEOUT, so it is only a variable of the script. Did you mean "
        "SCORING_TIMEOUT_MS?"
    ]


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


def test_what_nothing_provides_ends_it(package: Command, here: Path) -> None:
    (here / "score.py").write_text("import gone1\n" + (here / "score.py").read_text())
    done = package(*SCRIPT)
    assert (done.code, done.out, (here / "package").exists()) == (1, "", False)
    assert done.err.endswith(" where the image runs: --allow-missing.\n")
    allowed = package(*SCRIPT, "--allow-missing")
    assert (allowed.code, allowed.err.count("imports gone1")) == (0, 1)
    assert package(*SCRIPT, "--pip-package", "gone1").err == ""


# --- wrong input ----------------------------------------------------------------------------------

SECRET = "s3cr3tpw"
ONE_QUEUE = ("--input-queue", "Q", "--output-queue", "q")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "There is nothing to package: give an entry script"),
        ((*SCRIPT, "--model", "net=missing.bin"), "There is no model net at missing.bin"),
        ((*SCRIPT, "--model", "net:x=net.bin"), "the version 'x' is no whole number"),
        ((*SCRIPT, "--model", "net:" + "9" * 5000 + "=net.bin"), "is no whole number"),
        ((*SCRIPT, "--model", "net="), "--model 'net=' has no path after '='"),
        ((*SCRIPT, "--setting", "X"), "--setting 'X' is not NAME=VALUE."),
        ((*SCRIPT, "--setting", "SERVER_PORT=x"), "SERVER_PORT has the value 'x'"),
        ((*SCRIPT, "--conda", "none.yml"), "none.yml"),
        ((*SCRIPT, "--output", "score.py"), "score.py cannot be the output: Not a directory."),
        ((*SCRIPT, "--output", "."), "is not empty and holds no package"),
        ((*SCRIPT, "--output", ""), "--output is empty"),
        ((*SCRIPT, "--trigger", ""), "Allowed: http, blob, service_bus_queue."),
        ((*SCRIPT, "--build", "--builder", "kaniko"), "kaniko"),
        ((*SCRIPT, "--builder", "docker"), "--builder is for --build, which is not given"),
        ((*SCRIPT, "--build-arg", "A=x"), "--build-arg is for --build, which is not given"),
        ((*SCRIPT, "--build-arg", "=x"), "--build-arg is not NAME=VALUE"),
        ((*SCRIPT, "--tag", "Net:1"), "--tag 'Net:1' is no name for an image: allowed are"),
        ((*SCRIPT, "--nonsense"), "unrecognized arguments: --nonsense"),
        ((*SCRIPT, "--setting", "a-b=1"), "'a-b' cannot be the name of a setting: allowed are"),
        ((*SCRIPT, "--setting", f"={SECRET}"), "--setting is not NAME=VALUE."),
        ((*SCRIPT, "--setting", f"PASSWORD {SECRET}"), "--setting is not NAME=VALUE."),
        ((*SCRIPT, "--setting", f"A-B={SECRET}"), "cannot be the name of a setting"),
        ((*SCRIPT, "--setting", "ODD=a\nRUN x"), "The value of ODD has a line break, "),
        ((*SCRIPT, "--setting", "ODD=\udcff"), "The value of ODD has a line break, "),
        ((*SCRIPT, "--setting", "SCORING_TRIGGERS=blob"), "name each with --trigger"),
        (
            (*SCRIPT, "--trigger", "blob", "--setting", 'BLOB_CONNECTION=a"; id; "'),
            "Allowed: the name of a",
        ),
        (
            (*SCRIPT, "--trigger", "service_bus_queue", *ONE_QUEUE),
            "The queue Q is both the input and the output",
        ),
        ((*SCRIPT, "--model", "=w"), "'' is not a name for a model"),
        ((*SCRIPT, "--model", "../x"), "--model ../x is a path without a name: write NAME=../x."),
        ((*SCRIPT, "--model", "score.py"), "score.py is a path without a name: write NAME="),
        ((*SCRIPT, "--model", "./scor.py"), "write NAME=./scor.py. Did you mean score.py?"),
        (
            (*SCRIPT, "--model", "iris=scre.py/1/model"),
            "no such file or folder. Did you mean score.py?",
        ),
        (
            (*SCRIPT, "--model", "iris"),
            "There is no model iris: the registry azureml-models does not exist",
        ),
    ],
    ids=lambda each: ascii(" ".join(each)[:40]) if isinstance(each, tuple) else "",
)
def test_wrong_input_is_one_message(
    package: Command, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(here.iterdir())
    done = package(*arguments)
    assert (done.code, done.out) == (1, "")
    *usage, line = done.err.strip().splitlines()
    assert line.startswith("scoring-runtime: ") or usage[0].startswith("usage: ")
    assert message in done.err and "Traceback" not in done.err
    assert SECRET not in done.err
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("tag", ["net:1.0-a_B", "host.example:5000/a/b-c__d.e:3", "Host.example/x"])
def test_names_of_images(package: Command, tag: str) -> None:
    """Those that registries take; in Azure the registry is another."""
    document = package(*SCRIPT, "--tag", tag, "--json").document
    assert document["image"] == tag
    name = tag.partition("/")[2] if "example" in tag else tag
    [built] = [line for line in document["steps"]["Deploy to Azure"] if "acr build" in line]
    assert f"--image {name} " in built


# --- with the files that deploy it ----------------------------------------------------------------


def test_a_deployment_config(package: Command, here: Path) -> None:
    """The package is for the standalone host, and the files are beside it, secrets apart."""
    (here / "deploymentconfig.json").write_text(
        '{"computeType": "aks", "namespace": "team", "authEnabled": true}'
    )
    done = package(*SCRIPT, *MODEL, "--deployment-config", "deploymentconfig.json")
    assert (done.code, done.err) == (0, "")
    folder = here / "package-deployment"
    assert f"Beside it: {folder}\n" in done.out and "  deployment.yaml\n" in done.out
    assert "kubectl apply" in done.out and "(standalone: " in done.out
    secret = (folder / "secrets.env").read_text().partition("=")[2].strip()
    assert secret.startswith("primary:") and secret not in done.out
    again = package(*SCRIPT, *MODEL, "--deployment-config", "deploymentconfig.json", "--json")
    assert (again.code, again.err) == (0, "")
    assert again.document["unchanged"] is True
    assert again.document["deployment"]["path"] == str(folder)
    assert "secrets.env" in again.document["deployment"]["files"]
    assert (folder / "secrets.env").read_text() == f"SCORING_KEYS={secret}\n"


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("", "net"),
        ("registry.example/team_a/my_net.2:3", "my-net-2"),
        ("3d:1", "scoring-3d"),
    ],
)
def test_a_deployment_target_without_a_config(
    tag: str, name: str, package: Command, here: Path
) -> None:
    """With the old defaults; the name is the image's."""
    done = package(*SCRIPT, *MODEL, "--deployment-target", "iotedge", "--tag", tag)
    assert (done.code, done.err) == (0, "")
    text = (here / "package-deployment/deployment.template.json").read_text()
    agent = json.loads(text)["modulesContent"]["$edgeAgent"]["properties.desired"]
    assert list(agent["modules"]) == [name]
    assert "az iot edge set-modules" in done.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--deployment-target", "acs"), "There is no deployment target 'acs'"),
        (("--deployment-config", "c.json"), "c.json: there is no 'cpu' for aci"),
        (("--deployment-config", "no.json"), "no.json does not exist"),
        (("--deployment-target", "aci", "--target", "functions"), "is for --target standalone"),
    ],
)
def test_a_deployment_that_cannot_be(
    options: tuple[str, ...], says: str, package: Command, here: Path
) -> None:
    """Before anything is made."""
    (here / "c.json").write_text('{"computeType": "aci", "cpu": 1}')
    done = package(*SCRIPT, *MODEL, *options)
    assert done.code == 1 and says in done.err
    assert not (here / "package").exists()


def test_the_key_of_tls_beside_the_script_is_not_packaged(package: Command, here: Path) -> None:
    cert, key = Authority(here).issue("tls")
    said = {"computeType": "aci", "sslEnabled": True, "cname": "x.example"}
    (here / "c.json").write_text(
        json.dumps({**said, "sslCertificate": cert.name, "sslKey": key.name})
    )
    done = package(*SCRIPT, *MODEL, "--deployment-config", "c.json")
    assert (done.code, done.err) == (0, "")
    assert not (here / "package/source" / key.name).exists()
    assert "TLS_KEY=" in (here / "package-deployment/secrets.env").read_text()
