"""``check`` on package folders and images, and what ``package`` makes of it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scoring_runtime.cli.main import main
from scoring_runtime.packaging.context import changed_by_hand, read_document
from tests.models_for_tests import iris_estimator, saved

FINE = "def init(): ...\ndef run(raw_data): return raw_data\n"
WRITES = """
import os
def init():
    open("labels.txt").close()
    open("written.txt", "w").close()
def run(raw_data): return os.environ["GREETING"]
"""


class Done(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What it printed as JSON."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Done]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """``run("package", …)`` in a folder of its own; pip is not asked."""
    monkeypatch.chdir(tmp_path)

    def command(name: str, *arguments: str) -> Done:
        capfd.readouterr()
        offline = ["--no-resolve"] if name == "package" else []
        try:
            code = main([name, *offline, *arguments])
        except SystemExit as error:
            code = int(str(error.code))
        return Done(code, *capfd.readouterr())

    return command


def source(text: str, **files: str) -> Path:
    """The folder ``source`` with a script, a sample and other files."""
    folder = Path("source")
    folder.mkdir(exist_ok=True)
    (folder / "score.py").write_text(text)
    (folder / "sample_input.json").write_text("[1]")
    for name, content in files.items():
        (folder / name.replace("_txt", ".txt")).write_text(content)
    return folder


PACKAGE = ("--entry-script", "source/score.py", "--target", "standalone")


def test_a_package_is_checked_when_it_is_made(run: Command) -> None:
    """With its settings, in a copy of its source: the package stays as it was made."""
    source(WRITES, labels_txt="a")
    done = run("package", *PACKAGE, "--setting", "GREETING=hello", "--json")
    assert (done.code, done.err) == (0, "")
    report = done.report["check"]
    assert (report["findings"], report["unchecked"]) == ([], "")
    sample = str(Path("package/source/sample_input.json").resolve())
    assert report["facts"]["samples"] == [sample]
    document = read_document(Path("package"))
    assert document is not None and changed_by_hand(Path("package"), document) == []
    assert "\nChecked: loaded in " in run("package", *PACKAGE, "--setting", "GREETING=hello").out
    again = run("package", *PACKAGE, "--setting", "GREETING=hello", "--json")
    assert again.code == 0 and again.report["unchanged"]


def test_a_package_that_cannot_be_loaded_is_refused_with_the_diagnosis(run: Command) -> None:
    source("def init():\n    1 / 0\ndef run(raw_data): ...\n")
    done = run("package", *PACKAGE)
    place = f"{Path('package/source/score.py').resolve()}:2 in init"
    assert done.code == 1 and done.out == ""
    assert "Cause: ZeroDivisionError: division by zero" in done.err
    assert f"cannot be loaded: {place}. With --no-check it is not tried." in done.err
    assert run("package", *PACKAGE, "--no-check").code == 0


def test_other_findings_are_warnings(run: Command) -> None:
    source("def init(): ...\ndef run(raw_data): raise ValueError('no')\n")
    done = run("package", *PACKAGE)
    assert done.code == 0 and done.out.startswith("Made: ")
    assert "warning: run: " in done.err and "score.py:2 in run: On " in done.err


@pytest.mark.parametrize(
    ("code", "options", "why"),
    [
        ("import lightgbm_of_mine", ["--pip-package", "lightgbm-of-mine"],
         "lightgbm-of-mine is not installed here"),
        ("import numpy; numpy.not_yet", ["--pip-package", "numpy>=99"], "numpy is "),
        ("import os; os.environ['SERVICE_PASSWORD']", ["--setting", "SERVICE_PASSWORD=hunter2"],
         "SERVICE_PASSWORD is set only where the image runs"),
    ],
)  # fmt: skip
def test_what_is_not_here_is_not_checked(
    run: Command, code: str, options: list[str], why: str
) -> None:
    """The image has it: that is no reason not to package."""
    source(f"{code}\n{FINE}")
    done = run("package", *PACKAGE, *options)
    assert done.code == 0, done.err
    assert f"scoring-runtime: not checked: {why}" in done.err
    checked = run("check", "package", "--json")
    assert (checked.code, checked.report["findings"]) == (9, [])
    assert checked.report["unchecked"].startswith(why)
    assert "hunter2" not in checked.out + done.err


def test_a_load_that_takes_longer_than_packaging_waits(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoring_runtime.cli.package._CHECK_SECONDS", 2)
    source("import threading\ndef init(): threading.Event().wait()\ndef run(raw_data): ...\n")
    done = run("package", *PACKAGE)
    assert done.code == 0 and "not checked: loading it takes longer than 2 s" in done.err


def test_a_package_folder(run: Command) -> None:
    """Models alone too; its settings and limits are those of the target, --set goes over them."""
    saved(Path("iris"), iris_estimator())
    model = ("--model", "iris=iris/.", "--no-check")
    assert run("package", *model, "--setting", "SCORING_TIMEOUT_MS=400000").code == 0
    done = run("check", "package", "--json")
    assert [each["where"] for each in done.report["findings"]] == ["SCORING_TIMEOUT_MS"]
    assert done.code == 8 and "after 230 s" in done.report["findings"][0]["text"]
    done = run("check", "package", "--json", "--set", "SCORING_TIMEOUT_MS=5000")
    assert done.code == 0 and done.report["facts"]["batches"]["ms"]


def test_the_environment_of_this_process_is_not_that_of_the_image(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    source(FINE)
    assert run("package", *PACKAGE, "--no-check").code == 0
    monkeypatch.setenv("SCORING_NAN", "never")
    assert run("check", "package").code == 0


def test_imports_that_no_requirement_provides(run: Command) -> None:
    source("def init(): ...\ndef run(raw_data):\n    import cv2_of_mine\n")
    assert run("package", *PACKAGE, "--no-check", "--allow-missing").code == 0
    done = run("check", "package", "--json")
    [finding] = [each for each in done.report["findings"] if each["kind"] == "package"]
    assert finding["where"] == "score.py line 3" and "cv2-of-mine" in finding["text"]


@pytest.mark.parametrize("option", ["--entry-script", "--model-dir", "--config-file"])
@pytest.mark.parametrize("place", [["package"], ["--image", "net:3"]])
def test_a_folder_or_image_has_its_own_script(run: Command, option: str, place: list[str]) -> None:
    done = run("check", *place, option, ".")
    assert done.code == 1 and "leave --entry-script, --model-dir and --config-file out" in done.err


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_seconds_are_above_zero(run: Command, value: str) -> None:
    done = run("check", "--seconds", value)
    assert done.code == 1 and f"'{value}' is not allowed. Allowed: seconds above 0." in done.err


def test_a_folder_that_is_none(run: Command) -> None:
    Path("empty").mkdir()
    done = run("check", "empty")
    assert done.code == 1 and "empty holds no package" in done.err


# --- images ---------------------------------------------------------------------------------------


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that runs what it is told here, and notes it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(
        f'#!/bin/sh\ntest "$1" = version && exit 0\necho "$@" >> {tmp_path}/called\n'
        f'cd {tmp_path}\nPATH={folder}:$PATH\nshift 5\nexec sh "$@"\n'
    )
    (folder / "docker").chmod(0o755)
    (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def test_an_image_checks_itself(
    run: Command, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its Python and its settings; the report is that of the inside."""
    source("def init(): ...\ndef run(raw_data): raise ValueError('no')\n")
    monkeypatch.setenv("AZUREML_ENTRY_SCRIPT", "source/score.py")  # as the image has it
    done = run("check", "--image", "net:3", "--json", "--target", "functions", "--seconds", "60")
    assert done.code == 4
    assert (done.report["target"], len(done.report["findings"])) == ("net:3", 1)
    called = (docker / "called").read_text()
    assert called.startswith("run --rm --entrypoint sh net:3 -c cd ")
    assert called.endswith(" sh --target functions --seconds 60\n")


def test_an_image_that_cannot_check_itself(run: Command, docker: Path) -> None:
    (docker / "bin/docker").write_text('#!/bin/sh\ntest "$1" = version || { echo no >&2; exit 5; }')
    done = run("check", "--image", "net:3")
    assert done.code == 1
    assert "net:3 does not check itself (exit code 5)" in done.err and "\n  no" in done.err


@pytest.mark.parametrize("more", [["package"], ["--sample", "source/score.py"]])
def test_an_image_has_its_own_samples(run: Command, more: list[str]) -> None:
    source(FINE)
    done = run("check", "--image", "net:3", *more)
    assert done.code == 1 and "--image is checked with what is in it" in done.err


def test_buildah_does_not_run_images(run: Command, docker: Path) -> None:
    (docker / "bin/docker").rename(docker / "bin/buildah")
    done = run("check", "--image", "net:3", "--builder", "buildah")
    assert done.code == 1 and "use docker or podman" in done.err
