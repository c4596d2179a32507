"""Finding a builder, calling it, and naming an image; builds themselves are in test_images."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging.image import Builder, build, default_tag, find_builder

NOT_HERE = "Install one, or build the context where there is one, or in Azure: az acr build."
SHELL, CAT, SLEEP = (shutil.which(name) for name in ("sh", "cat", "sleep"))
NO_DAEMON = "Cannot connect to the Docker daemon. Is the docker daemon running?"


def program(folder: Path, name: str, script: str) -> str:
    """A program of that name; as docker, podman and buildah differ by machine."""
    path = folder / name
    path.write_text(f"#!{SHELL}\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_the_first_that_works_is_found(path: Path):
    for name in ("buildah", "podman", "docker"):
        at = program(path, name, "exit 0")
        assert find_builder() == Builder(name, (at,))
    assert find_builder("buildah") == Builder("buildah", (str(path / "buildah"),))


@pytest.mark.parametrize(
    ("wanted", "reasons"),
    [
        (
            "",
            f"docker is installed but does not work ({NO_DAEMON}); podman is installed but cannot "
            "be started (Exec format error); buildah is installed but does not answer within 0.2 "
            "seconds",
        ),
        ("podman", "podman is installed but cannot be started (Exec format error)"),
    ],
)
def test_without_a_builder_each_ones_reason_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, reasons: str
):
    monkeypatch.setattr("scoring_runtime.packaging.image._ANSWER_SECONDS", 0.2)
    program(path, "docker", f"echo 28.2; echo '{NO_DAEMON}' >&2; exit 1")
    (path / "podman").write_bytes(b"\x7fELF")
    (path / "podman").chmod(0o755)
    program(path, "buildah", f"exec {SLEEP} 300")
    with pytest.raises(PackagingError) as caught:
        find_builder(wanted)
    assert str(caught.value) == f"No image can be built here: {reasons}. {NOT_HERE}"


def test_a_builder_that_is_not_there_or_unknown_is_named(path: Path):
    with pytest.raises(PackagingError, match=r": podman is not installed\. "):
        find_builder("podman")
    with pytest.raises(PackagingError, match=r"'kaniko' is no image builder\. Allowed: docker, "):
        find_builder("kaniko")
    gone = str(path / "docker")
    with pytest.raises(PackagingError, match="docker cannot be started: No such file or directory"):
        build(path, "a", "a:1", builder=Builder("docker", (gone,)), output=lambda line: None)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("docker", []),
        ("podman", ["--format", "docker"]),
        ("buildah", ["--format", "docker", "--layers"]),
    ],
)
def test_a_builder_is_called_with_target_tag_and_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, own: list[str]
):
    """An argument without a value is taken from the environment: no list of processes shows it."""
    monkeypatch.setenv("SECRET", "from the environment")
    at = program(tmp_path, name, 'printf "%s\\n" "$@"; echo "$SECRET"')
    lines: list[str] = []
    result = build(
        tmp_path,
        "functions",
        "model:1",
        builder=Builder(name, (at, "--root", "/r")),
        build_args={"BASE_IMAGE": "a b", "SECRET": None},
        output=lines.append,
        options=["--network", "host"],
    )
    assert result == "model:1"
    assert lines == [
        *["--root", "/r", "build", "--target", "functions", "--tag", "model:1"],
        *["--build-arg", "BASE_IMAGE=a b", "--build-arg", "SECRET"],
        *own,
        *["--network", "host", str(tmp_path), "from the environment"],
    ]


def test_what_a_builder_writes_comes_line_by_line(tmp_path: Path):
    """While it works: it goes on only after its first line was read."""
    at = program(
        tmp_path, "docker", 'echo one; while [ ! -e "$0.go" ]; do sleep 0.01; done; echo two'
    )
    lines = []

    def output(line: str) -> None:
        lines.append(line)
        Path(f"{at}.go").touch()

    build(tmp_path, "functions", "a:1", builder=Builder("docker", (at,)), output=output)
    assert lines == ["one", "two"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("one\n\ntwo", ["  one", "  two"]),
        ("\n".join(map(str, range(50))), [f"  {number}" for number in range(38, 50)]),
        (
            "Looking in https://me:s3cret@index/simple\nerror: https://me:s3cret@index/simple: 401",
            ["  Looking in ***", "  error: ***: 401"],
        ),
        ("", []),
    ],
    ids=["anything", "much", "secret", "nothing"],
)
def test_a_failed_build_ends_with_what_the_builder_said(
    tmp_path: Path, written: str, message: list[str]
):
    (tmp_path / "said").write_text(written)
    at = program(tmp_path, "docker", f"{CAT} {tmp_path}/said; exit 17")
    with pytest.raises(PackagingError) as caught:
        build(
            tmp_path,
            "functions",
            "a:1",
            builder=Builder("docker", (at,)),
            build_args={"PIP_INDEX_URL": "https://me:s3cret@index/simple"},
            output=lambda line: None,
        )
    first, *rest = str(caught.value).splitlines()
    assert first == f"docker could not build the image (exit code 17){':' if message else '.'}"
    assert rest == message


def test_a_builder_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scoring_runtime.packaging.image._STOP_SECONDS", 0.2)
    script = (
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; sleep 300; :' & echo $$; wait; sleep 300"
    )
    at = program(tmp_path, "docker", script)
    seen: list[int] = []

    def output(line: str) -> None:
        seen.append(int(line))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, "a", "a:1", builder=Builder("docker", (at,)), output=output)
    assert len(seen) == 2
    until = time.monotonic() + 10
    while (left := [pid for pid in seen if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.01)
    assert left == []


def test_a_builder_that_ends_at_sigterm_is_not_killed(tmp_path: Path):
    script = (
        f"trap 'echo over > {tmp_path}/over; exit' TERM; echo begun; while :; do sleep 0.01; done"
    )
    at = program(tmp_path, "docker", script)

    def output(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, "a", "a:1", builder=Builder("docker", (at,)), output=output)
    assert (tmp_path / "over").read_text() == "over\n"


def is_running(pid: int) -> bool:
    """Not over, and not waiting for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("model", "version", "target", "tag"),
    [
        ("diabetes", 3, "functions", "diabetes-functions:3"),
        ("My Model_v2.1", "12", "", "my-model-v2-1:12"),
        ("sklearn.pkl", "", "", "sklearn-pkl:latest"),
        ("模型", 1, "", "scoring:1"),
        ("a", ".-x y", "", "a:x-y"),
        ("a" * 127 + "-b", "1" * 200, "", "a" * 127 + ":" + "1" * 128),
    ],
)
def test_a_tag_is_made_from_model_and_version(
    model: str, version: int | str, target: str, tag: str
):
    assert default_tag(model, version, target) == tag
