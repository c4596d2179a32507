"""What is released: archives that install and score with each extra, and how it is published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from scoring_runtime.release import VERSION
from tests.hosts.standalone import clean_environ
from tests.models_for_tests import identity_onnx

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
USED = [each for each in EXTRAS if each not in ("all", "test", "docs", "dev")]
# Not what is imported here.
BARE = {name: value for name, value in clean_environ().items() if name != "PYTHONPATH"}
ECHO = "def init(): pass\ndef run(data): return data\n"


# --- the archives ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make dist`` makes, of a copy of what is in the repository."""
    folder = tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, folder / "copy", ignore=left_out)
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist")]
    done = subprocess.run(command, cwd=folder / "copy", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.mark.long
def test_the_archives_hold_every_file(dist: Path) -> None:
    package = ROOT / "scoring_runtime"
    files = (each for each in package.rglob("*") if each.is_file() and each.suffix != ".pyc")
    wanted = {f"scoring_runtime/{path.relative_to(package)}" for path in files}
    [wheel], [source] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.name == f"scoring_runtime-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == wanted
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= names


@pytest.mark.long
@pytest.mark.parametrize("extra", ["", *USED])
def test_the_wheel_scores_in_a_bare_environment(extra: str, dist: Path, tmp_path: Path) -> None:
    """With nothing but the extra; a model of scikit-learn's or ONNX where that is the extra."""
    [wheel] = dist.glob("*.whl")
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    named = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, named], check=True, env=BARE)
    given, words, answer = '"x"', ["--entry-script", "score.py"], '"\\"x\\""'
    (tmp_path / "score.py").write_text(ECHO)
    if extra == "sklearn":
        train = ROOT / "examples/diabetes/train.py"
        subprocess.run([python, train, "--output", tmp_path / "model"], check=True, env=BARE)
        given, words = json.dumps({"data": [[0] * 10]}), ["--model-dir", "model"]
        answer = ""
    elif extra == "onnx":
        (tmp_path / "model").mkdir()
        (tmp_path / "model/model.onnx").write_bytes(identity_onnx(("FP32",), ("n", 2)))
        given, words, answer = '{"data": [[1, 2]]}', ["--model-dir", "model"], "1"
    program = tmp_path / "venv/bin/scoring-runtime"
    done = subprocess.run(
        [program, "score", *words],
        cwd=tmp_path,
        env=BARE,
        input=given,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
    assert "[" in done.stdout or answer == done.stdout


# --- the workflow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert document[True] == {"push": {"tags": ["v*"]}}  # "on" is a boolean in YAML 1.1
    assert document["permissions"] == {}
    found: dict[str, Any] = document["jobs"]
    return found


def uses(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a job's steps are given, by the action without its version."""
    return {
        each["uses"].split("@")[0]: each.get("with", {}) for each in job["steps"] if "uses" in each
    }


def test_nothing_is_published_that_was_not_tested(jobs: dict[str, Any]) -> None:
    commands = [each.get("run", "") for each in jobs["build"]["steps"]]
    assert {"make dist", "make test", "make test-long"} <= {*commands}
    assert jobs["publish"]["needs"] == jobs["images"]["needs"] == "build"
    assert jobs["release"]["needs"] == ["publish", "images"]


def test_pypi_trusts_the_workflow_and_no_token(jobs: dict[str, Any]) -> None:
    publish = jobs["publish"]
    assert (publish["environment"], publish["permissions"]) == ("pypi", {"id-token": "write"})
    assert uses(publish)["pypa/gh-action-pypi-publish"] == {}
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert text.count("secrets.") == text.count("secrets.GITHUB_TOKEN") == 1


def test_images_and_archives_have_provenance(jobs: dict[str, Any]) -> None:
    assert jobs["images"]["strategy"]["matrix"]["target"] == ["functions", "standalone"]
    built = uses(jobs["images"])["docker/build-push-action"]
    assert (built["push"], built["provenance"], built["sbom"]) == (True, "mode=max", True)
    for job in ("build", "images"):
        assert "actions/attest-build-provenance" in uses(jobs[job])
        assert jobs[job]["permissions"]["id-token"] == "write"


@pytest.mark.parametrize(
    ("changelog", "tag", "notes"),
    [
        (f"## [Unreleased]\n\n## [{VERSION}] - 2026-11-30\n\n- New.\n\n## [0.1.0] - 2026\n- Old\n",
         f"v{VERSION}", "\n- New.\n\n"),
        (f"## [{VERSION}] - 2026-11-30\n\n- New.\n", "v9.9.9", None),
        (f"## [{VERSION}]\n\n- No date.\n", f"v{VERSION}", None),
        (f"## [{VERSION}] - 2026-11-30\n\n## [0.1.0] - 2026\n- Old\n", f"v{VERSION}", None),
    ],
    ids=["whole", "another tag", "no date", "empty"],
)  # fmt: skip
def test_the_notes_are_the_section_of_the_version(
    jobs: dict[str, Any], changelog: str, tag: str, notes: str | None, tmp_path: Path
) -> None:
    [script] = [
        each["run"] for each in jobs["build"]["steps"] if "CHANGELOG" in each.get("run", "")
    ]
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    (tmp_path / "scoring_runtime").symlink_to(ROOT / "scoring_runtime")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = clean_environ(GITHUB_REF_NAME=tag, PATH=path)
    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environ)
    assert (done.returncode == 0) is (notes is not None)
    if notes is not None:
        assert (tmp_path / "notes/notes.md").read_text() == notes
