"""Which files of the user's code go into a build context, and what they import."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import registry
from scoring_runtime.packaging import source
from scoring_runtime.packaging.imports import Lacking, imports_of, uncovered
from scoring_runtime.packaging.model_files import from_path, from_registry
from scoring_runtime.packaging.source import entry_script_name, source_files
from scoring_runtime.packaging.specification import Environment, Specification

SCRIPT = "def init(): ...\ndef run(data): return data\n"
EXAMPLES = Path(__file__).parents[2] / "examples"


def fill(folder: Path, *names: str, **texts: str) -> Path:
    """Write files: names that end in ``/`` are folders; ``score.py`` is always there."""
    for name in ("score.py", *names):
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCRIPT if name == "score.py" else "", encoding="utf-8")
    for stem, text in texts.items():
        (folder / f"{stem}.py").write_text(text, encoding="utf-8")
    return folder


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def whole(folder: Path, script: str = "score.py", python: str = "") -> Specification:
    environment = Environment(python=python)
    return Specification(entry_script=Path(script), source_dir=folder, environment=environment)


def alone(path: Path, python: str = "") -> Specification:
    return Specification(entry_script=path, environment=Environment(python=python))


def names(specification: Specification, *leave_out: Path) -> list[str]:
    return [name for name, _ in source_files(specification, leave_out)]


def refusal(specification: Specification, *leave_out: Path) -> str:
    with pytest.raises(PackagingError) as caught:
        source_files(specification, leave_out)
    return str(caught.value)


# --- a whole folder -------------------------------------------------------------------------------


def test_a_source_folder_is_taken_whole_and_sorted(tmp_path: Path) -> None:
    """Every file with its path below the folder, hidden ones and data too; no empty folders."""
    fill(
        tmp_path,
        "z.txt",
        "a/data.bin",
        "a/.hidden",
        "a-b/x.py",
        ".gitignore",
        "empty/",
        "é/ü 猫.py",
    )
    assert source_files(whole(tmp_path)) == [
        (name, tmp_path / name)
        for name in (
            ".gitignore",
            "a-b/x.py",
            "a/.hidden",
            "a/data.bin",
            "score.py",
            "z.txt",
            "é/ü 猫.py",
        )
    ]


@pytest.mark.parametrize(
    "name",
    [
        ".git/config",
        ".hg/store",
        ".svn/entries",
        "pkg/__pycache__/m.cpython-311.pyc",
        "pkg/m.pyc",
        ".mypy_cache/x.json",
        ".pytest_cache/x",
        ".ruff_cache/x",
        "nb/.ipynb_checkpoints/a.ipynb",
        ".tox/py311/x",
        ".nox/test/x",
        "web/node_modules/left/index.js",
        "thing.egg-info/PKG-INFO",
        "sub/.DS_Store",
        ".env",
        ".env.production",
        "sub/.env/x",
        "local.settings.json",
        ".azure/config",
    ],
)
def test_caches_version_control_and_local_settings_are_left_out(tmp_path: Path, name: str) -> None:
    """At any depth, and nothing else with them."""
    fill(tmp_path, name, "sub/kept.env", "env.py", "git/config", "pyc")
    assert names(whole(tmp_path)) == ["env.py", "git/config", "pyc", "score.py", "sub/kept.env"]


@pytest.mark.parametrize("sign", ["pyvenv.cfg", "conda-meta/history"])
def test_a_virtual_environment_is_left_out_whatever_its_name(tmp_path: Path, sign: str) -> None:
    """Also with the links that lead out of the folder, which every one of them has."""
    fill(tmp_path, f"my python/{sign}", "my python/lib/x.py", "lib/x.py")
    (tmp_path / "my python" / "python3").symlink_to("/usr/bin/env")
    assert names(whole(tmp_path)) == ["lib/x.py", "score.py"]


def test_a_link_to_a_virtual_environment_elsewhere_is_left_out(tmp_path: Path) -> None:
    """It leads out of the folder, and that is no reason to refuse the folder."""
    fill(tmp_path / "src")
    write(tmp_path / "envs/one/pyvenv.cfg", "")
    (tmp_path / "src" / "python").symlink_to(tmp_path / "envs/one")
    assert names(whole(tmp_path / "src")) == ["score.py"]


def test_an_older_package_is_left_out_whatever_its_name(tmp_path: Path) -> None:
    """A folder with its document, at any depth, and nothing else with it."""
    fill(tmp_path, "old/scoring-package.json", "old/source/score.py", "deep/er/x.py")
    fill(tmp_path, "deep/er/out/scoring-package.json", "deep/er/out/azureml-models/m/1/m.pkl")
    assert names(whole(tmp_path)) == ["deep/er/x.py", "score.py"]
    assert f"would be left out: {tmp_path / 'old'} is a package that was made before." in refusal(
        whole(tmp_path, "old/source/score.py")
    )
    assert names(whole(tmp_path / "old/source")) == ["score.py"]


def test_the_output_in_the_source_folder_is_left_out(tmp_path: Path) -> None:
    """By where it is, not by its name: another folder of that name is taken."""
    fill(tmp_path, "build/Dockerfile", "a/build/x", "b/y")
    (tmp_path / "link").symlink_to("build")
    left_out = tmp_path / "a" / ".." / "build"
    assert names(whole(tmp_path), left_out) == ["a/build/x", "b/y", "score.py"]
    assert names(whole(tmp_path), left_out, tmp_path / "b" / "y") == ["a/build/x", "score.py"]


def test_a_source_folder_in_the_output_is_refused(tmp_path: Path) -> None:
    """The output would be made of itself."""
    fill(tmp_path / "src")
    for output in (tmp_path, tmp_path / "src"):
        assert refusal(whole(tmp_path / "src"), output) == (
            f"The source folder {tmp_path / 'src'} lies in the output {output}: "
            "write the output to another folder."
        )


def test_no_entry_script_no_files(tmp_path: Path) -> None:
    """A model without a script has no source."""
    specification = Specification(source_dir=fill(tmp_path))
    assert (source_files(specification), entry_script_name(specification)) == ([], "")


# --- ignore files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({".scoringignore": "a", ".amlignore": "b", ".funcignore": "c"}, ["b", "c", "d"]),
        ({".amlignore": "b", ".funcignore": "c"}, ["a", "c", "d"]),
        ({".funcignore": "c"}, ["a", "b", "d"]),
        ({".scoringignore": "", ".amlignore": "b"}, ["a", "b", "c", "d"]),
        ({".gitignore": "a", ".dockerignore": "b"}, ["a", "b", "c", "d"]),
        ({"sub/.amlignore": "a"}, ["a", "b", "c", "d"]),
    ],
    ids=["none", "scoring", "aml", "func", "empty", "git and docker", "in a sub-folder"],
)
def test_the_first_ignore_file_counts_alone(
    tmp_path: Path, files: dict[str, str], kept: list[str]
) -> None:
    """.scoringignore, else .amlignore, else .funcignore; never .gitignore or .dockerignore."""
    fill(tmp_path, "a", "b", "c", "d")
    for name, text in files.items():
        write(tmp_path / name, text)
    assert names(whole(tmp_path)) == sorted(["score.py", *kept, *files])


def test_an_ignore_file_may_be_a_link_to_the_gitignore(tmp_path: Path) -> None:
    """The old documentation's advice for those who mean the same."""
    fill(tmp_path, "a.csv")
    write(tmp_path / ".gitignore", "*.csv\n")
    (tmp_path / ".amlignore").symlink_to(".gitignore")
    assert names(whole(tmp_path)) == [".amlignore", ".gitignore", "score.py"]


@pytest.mark.parametrize(
    ("rule", "line"), [("score.py", 3), ("*.py", 3), ("/src/", 3), ("s*", 3), ("**/score.py", 3)]
)
def test_a_rule_that_hits_the_entry_script_is_refused(tmp_path: Path, rule: str, line: int) -> None:
    """With the file, the line and the rule; also if it hits a folder that the script is in."""
    fill(tmp_path, "src/score.py")
    (tmp_path / "score.py").unlink()
    file = write(tmp_path / ".amlignore", f"# data\n*.csv\n{rule}\n")
    assert refusal(whole(tmp_path, "src/score.py")) == (
        f"The entry script {tmp_path / 'src/score.py'} would be left out: "
        f"line {line} of {file} says {rule}."
    )


def test_an_entry_script_in_a_cache_is_refused(tmp_path: Path) -> None:
    """What is never taken cannot hold it."""
    fill(tmp_path, ".tox/score.py")
    assert refusal(whole(tmp_path, ".tox/score.py")) == (
        f"The entry script {tmp_path / '.tox/score.py'} would be left out: .tox is never taken."
    )


def test_an_entry_script_in_a_virtual_environment_is_refused(tmp_path: Path) -> None:
    """The same for an environment of any name."""
    fill(tmp_path, "py/pyvenv.cfg", "py/score.py")
    assert refusal(whole(tmp_path, "py/score.py")) == (
        f"The entry script {tmp_path / 'py/score.py'} would be left out: "
        f"{tmp_path / 'py'} is a virtual environment."
    )


def test_an_entry_script_named_as_output_is_refused(tmp_path: Path) -> None:
    """The output must be somewhere else."""
    script = fill(tmp_path) / "score.py"
    assert refusal(whole(tmp_path), script) == (
        f"The entry script {script} would be left out: {script} is what is being made."
    )


def test_an_ignore_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Not UTF-8, a folder, a link to nothing."""
    fill(tmp_path)
    file = tmp_path / ".amlignore"
    file.write_bytes(b"*.csv\n\xff")
    assert refusal(whole(tmp_path)) == (
        f"{file} is not UTF-8: byte 6 cannot be decoded. Save it as UTF-8."
    )
    file.unlink()
    file.mkdir()
    assert refusal(whole(tmp_path)) == f"{file} cannot be read: Is a directory."
    file.rmdir()
    file.symlink_to("nowhere")
    assert refusal(whole(tmp_path)) == f"{file} cannot be read: No such file or directory."


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("*.csv", ["a.csv", "data/b.csv", "data/keep/c.csv"]),
        ("/*.csv", ["a.csv"]),
        ("data/", ["data/b.csv", "data/keep/c.csv"]),
        ("data/*\n!data/keep/", ["data/b.csv"]),
        ("data/**\n!data/keep/", ["data/b.csv"]),
        ("data/\n!data/keep/", ["data/b.csv", "data/keep/c.csv"]),
        ("data/**/c.csv", ["data/keep/c.csv"]),
        ("**/keep", ["data/keep/c.csv"]),
        ("?.csv", ["a.csv", "data/b.csv", "data/keep/c.csv"]),
        ("?.txt", ["é.txt"]),
        ("[!a].csv", ["data/b.csv", "data/keep/c.csv"]),
        ("[a.csv", []),
        ("#x", []),
        ("\\#x", ["#x"]),
        ("a b ", []),
        ("a.csv\r\n\r\nb.csv\r", ["a.csv", "data/b.csv"]),
        ("/", []),
    ],
)
def test_rules_mean_what_they_mean_to_git(tmp_path: Path, text: str, out: list[str]) -> None:
    """One row for each thing that the syntax can say."""
    there = ["a.csv", "data/b.csv", "data/keep/c.csv", "é.txt", "#x", "a b "]
    fill(tmp_path, *there)
    (tmp_path / ".scoringignore").write_bytes(text.encode())
    assert set(there) - {*names(whole(tmp_path))} == set(out)


def test_a_rule_that_is_none_is_named(tmp_path: Path) -> None:
    """With the file."""
    file = write(fill(tmp_path) / ".scoringignore", "!\n")
    assert refusal(whole(tmp_path)) == f"{file}: Invalid git pattern: '!'."


def test_an_ignore_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    fill(tmp_path, "a.csv")
    (tmp_path / ".amlignore").write_bytes(b"\xef\xbb\xbf*.csv\r\n")
    assert names(whole(tmp_path)) == [".amlignore", "score.py"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True, env=_git_environ())
    return folder


def _git_environ() -> dict[str, str]:
    return {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def _ignored_by_git(repository: Path, text: str, paths: list[str]) -> set[str]:
    for each in repository.iterdir():
        if each.name != ".git":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    for path in paths:
        write(repository / path, "")
    (repository / ".gitignore").write_bytes(text.encode())
    command = ["git", "check-ignore", "-z", "--stdin", "--no-index"]
    given_paths = "\0".join(paths).encode()
    done = subprocess.run(
        command, input=given_paths, capture_output=True, cwd=repository, env=_git_environ()
    )
    assert done.returncode in (0, 1), done.stderr
    return set(filter(None, done.stdout.decode().split("\0")))


def test_what_is_taken_is_what_git_would_take(repository: Path) -> None:
    """The same through the real folder: a project as people have them."""
    rules = "data/*\n!data/small.csv\n*.log\n/notebooks/\nbuild\n!src/build\n**/tmp/**\n!keep.log\n"
    paths = ["score.py", "data/big.csv", "data/small.csv", "a.log", "x/keep.log", "notebooks/a.py"]
    paths += [
        "x/notebooks/b.py",
        "build/a",
        "src/build/b",
        "x/tmp/a",
        "x/tmp.py",
    ]
    ignored = _ignored_by_git(repository, rules, paths)
    assert ignored == {
        *("data/big.csv", "a.log", "notebooks/a.py", "build/a", "x/tmp/a"),
    }
    write(repository / ".scoringignore", rules)
    taken = {*paths, ".scoringignore", ".gitignore"} - ignored
    assert names(whole(repository)) == sorted(taken)


# --- links and what cannot be in an image ---------------------------------------------------------


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    """To a file and to a folder; each is taken under the link's own name too."""
    fill(tmp_path, "real/a.txt")
    (tmp_path / "file.txt").symlink_to("real/a.txt")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    found = dict(source_files(whole(tmp_path)))
    assert list(found) == ["file.txt", "folder/a.txt", "real/a.txt", "score.py"]
    assert found["folder/a.txt"] == tmp_path / "folder/a.txt"


def test_a_link_to_what_is_left_out_is_left_out(tmp_path: Path) -> None:
    """``settings -> .env`` would carry the secrets into the image."""
    fill(tmp_path, ".env", ".git/config")
    (tmp_path / "settings").symlink_to(".env")
    (tmp_path / "config").symlink_to(".git/config")
    assert names(whole(tmp_path)) == ["score.py"]


@pytest.mark.parametrize("target", ["file", "folder"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str) -> None:
    """With where it leads; an ignore rule settles it."""
    source = fill(tmp_path / "src")
    fill(tmp_path, "outside/x")
    real = {"file": tmp_path / "outside/x", "folder": tmp_path / "outside"}[target]
    (source / "link").symlink_to(real)
    assert refusal(whole(source)) == (
        f"The link {source / 'link'} leads out of {source}, to {real}. "
        "Remove it, or name it in .scoringignore."
    )
    write(source / ".amlignore", "nothing")
    assert refusal(whole(source)).endswith("Remove it, or name it in .amlignore.")
    write(source / ".amlignore", "link")
    assert names(whole(source)) == [".amlignore", "score.py"]


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_link_in_circles_is_refused(tmp_path: Path, target: str) -> None:
    """It would never end."""
    fill(tmp_path, "a/b/x")
    (tmp_path / "a/b/link").symlink_to(target)
    assert refusal(whole(tmp_path)) == (
        f"The link {tmp_path / 'a/b/link'} leads to a folder that it is in itself. "
        "Remove it, or name it in .scoringignore."
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [("nothing", "No such file or directory"), ("link", "Too many levels of symbolic links")],
)
def test_a_link_to_nothing_is_refused(tmp_path: Path, target: str, reason: str) -> None:
    """Such as an editor's lock file."""
    fill(tmp_path)
    (tmp_path / "link").symlink_to(target)
    assert refusal(whole(tmp_path)) == (
        f"{tmp_path / 'link'} is a link to nothing: {reason}. "
        "Remove it, or name it in .scoringignore."
    )


def test_sockets_and_pipes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a pipe would wait for ever."""
    fill(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe/p")
    fill(tmp_path / "socket")
    monkeypatch.chdir(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("p")
    assert stat.S_ISSOCK((tmp_path / "socket/p").stat().st_mode)
    for kind in ("pipe", "socket"):
        assert refusal(whole(tmp_path / kind)) == (
            f"{tmp_path / kind / 'p'} is neither a file nor a folder. "
            "Remove it, or name it in .scoringignore."
        )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\nb.txt", r"'a\nb.txt'"),
        (b"a\tb", r"'a\tb'"),
        (b"\xff.txt", r"'\udcff.txt'"),
        (b"sub\x1b/x", r"'sub\x1b'"),
        (b"a\xc2\x85b", r"'a\x85b'"),
    ],
)
def test_names_that_no_image_can_hold_are_refused(tmp_path: Path, name: bytes, shown: str) -> None:
    """Shown so that they can be found, in plain ASCII."""
    fill(tmp_path)
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass
    assert refusal(whole(tmp_path)) == (
        f"The file name {shown} cannot be in an image: it holds a line break, another control "
        "character, or bytes that are not UTF-8. Rename it, or leave it out."
    )


def test_other_unusual_names_are_taken(tmp_path: Path) -> None:
    """Spaces of all kinds, quotes, backslashes, emoji with joiners."""
    unusual = [" a ", "it's", 'a"b', "a\\b", "👩\u200d🔬.py", "a\u202fb", "-rf", "x" * 255]
    assert names(whole(fill(tmp_path, *unusual))) == sorted(["score.py", *unusual])


@pytest.fixture
def as_ordinary_user() -> Iterator[Path]:
    """A folder in which this process, for a while, is a user that permissions bind."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    fill(folder, "data/locked.csv", "open.txt")
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        (folder / "data").chmod(0o755)
        shutil.rmtree(folder)


def _become_ordinary() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


@pytest.mark.parametrize("locked", ["data/locked.csv", "data"])
def test_what_cannot_be_read_is_named(as_ordinary_user: Path, locked: str) -> None:
    """A file or a folder, with the system's reason."""
    path = as_ordinary_user / locked
    path.chmod(0)
    _become_ordinary()
    assert refusal(whole(as_ordinary_user)).startswith(f"{path} cannot be read: Permission denied.")


def test_an_entry_script_that_cannot_be_read_is_named(as_ordinary_user: Path) -> None:
    """Alone or in a folder."""
    script = as_ordinary_user / "score.py"
    script.chmod(0)
    _become_ordinary()
    for specification in (alone(script), whole(as_ordinary_user)):
        assert refusal(specification) == f"{script} cannot be read: Permission denied."


# --- the entry script -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "folder", "name"),
    [
        ("score.py", "src", "score.py"),
        ("src/score.py", "src", "score.py"),
        ("sub/run.py", "src", "sub/run.py"),
        ("src/sub/run.py", "src", "sub/run.py"),
        ("./src/sub/../score.py", "./src/sub/..", "score.py"),
        ("src/score.py", None, "score.py"),
        ("src/sub/run.py", None, "run.py"),
        ("link/run.py", "src/sub", "run.py"),
        ("src/sub/run.py", "link", "run.py"),
    ],
)
def test_the_entry_script_is_named_below_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, folder: str | None, name: str
) -> None:
    """It may be given from the source folder, as before, or from here; relative or absolute."""
    fill(tmp_path / "src", "sub/run.py")
    (tmp_path / "link").symlink_to("src/sub")
    monkeypatch.chdir(tmp_path)
    for base in (Path(), tmp_path):
        source = None if folder is None else base / folder
        specification = Specification(entry_script=Path(script), source_dir=source)
        assert entry_script_name(specification) == name
        assert name in names(specification)


@pytest.mark.parametrize(
    ("script", "near"),
    [
        ("scor.py", " Did you mean score.py?"),
        ("score", " Did you mean score.py?"),
        ("deep/score.py", " Did you mean score.py?"),
        ("predictor.py", " Did you mean sub/predict.py or score.py?"),
        ("zzz.py", ""),
    ],
)
def test_a_missing_entry_script_names_near_ones(tmp_path: Path, script: str, near: str) -> None:
    """In the folder and one below."""
    fill(tmp_path, "sub/predict.py", "train.py")
    wanted = f"There is no entry script {tmp_path / script}.{near}"
    assert refusal(whole(tmp_path, script)) == wanted
    assert refusal(alone(tmp_path / script)) == wanted
    with pytest.raises(PackagingError, match="There is no entry script"):
        entry_script_name(alone(tmp_path / script))


@pytest.mark.parametrize("suffix", [".txt", "", ".PY", ".pyc"])
def test_a_script_that_is_named_otherwise_is_refused(tmp_path: Path, suffix: str) -> None:
    """The runtime imports .py files, whatever is in others."""
    path = write(tmp_path / f"score{suffix}", SCRIPT)
    message = f"The entry script {path} is no Python file: its name ends not in .py."
    assert refusal(alone(path)) == message
    assert refusal(whole(tmp_path, path.name)) == message


def test_a_notebook_is_refused(tmp_path: Path) -> None:
    """With the command that makes a script of it."""
    path = write(tmp_path / "nb.ipynb", "{}")
    assert refusal(alone(path)) == (
        f"The entry script {path} is a notebook: export it with jupyter nbconvert --to script "
        "nb.ipynb, and name the Python file."
    )


def test_a_folder_is_no_entry_script(tmp_path: Path) -> None:
    """It is said what to name instead."""
    fill(tmp_path, "score/run.py")
    assert refusal(whole(tmp_path, "score")) == (
        f"The entry script {tmp_path / 'score'} is a folder: name the Python file in it."
    )


def test_a_missing_source_folder_names_near_ones(tmp_path: Path) -> None:
    """Missing, or a file."""
    fill(tmp_path / "source")
    assert refusal(whole(tmp_path / "sorce")) == (
        f"The source folder {tmp_path / 'sorce'} does not exist. Did you mean source?"
    )
    assert refusal(whole(tmp_path / "source/score.py")) == (
        f"The source folder {tmp_path / 'source/score.py'} is no folder."
    )


def test_an_entry_script_outside_the_source_folder_is_refused(tmp_path: Path) -> None:
    """With a folder that would hold it."""
    source, other = fill(tmp_path / "src", "x.py"), fill(tmp_path / "other", "run.py")
    specification = Specification(entry_script=other / "run.py", source_dir=source)
    assert refusal(specification) == (
        f"The entry script {other / 'run.py'} is not in the source folder {source}: move it there, "
        f"or name a source folder that holds it, such as {tmp_path}."
    )


WRONG = "def init(): ...\ndef run(data):\n    return data +\n"


def test_an_entry_script_that_is_not_python_is_refused(tmp_path: Path) -> None:
    """With file and line; in a folder and alone."""
    fill(tmp_path, score=WRONG)
    wanted = f"{tmp_path / 'score.py'}:3 is not Python: invalid syntax."
    assert refusal(whole(tmp_path)) == wanted
    assert refusal(alone(tmp_path / "score.py")) == wanted


@pytest.mark.parametrize("content", [b"x = 1\0", b"# coding: nonsense\n", b"x = '\xff'\n"])
def test_bytes_that_are_not_python_are_refused(tmp_path: Path, content: bytes) -> None:
    """A zero byte, an unknown encoding, a wrong one."""
    (tmp_path / "score.py").write_bytes(content)
    assert f"{tmp_path / 'score.py'}:1 is not Python: " in refusal(whole(tmp_path))


@pytest.mark.parametrize("python", ["3.99", "4.0"])
def test_a_script_for_a_newer_python_is_warned_about_only(tmp_path: Path, python: str) -> None:
    """The Python here cannot judge it."""
    fill(tmp_path, score=WRONG)
    warnings: list[str] = []
    for specification in (whole(tmp_path, python=python), alone(tmp_path / "score.py", python)):
        found = source_files(specification, warn=warnings.append)
        assert found == [("score.py", tmp_path / "score.py")]
    assert warnings == [f"{tmp_path / 'score.py'}:3 is not Python: invalid syntax."] * 2


@pytest.mark.parametrize("python", ["3.8", "3.11", "", "three"])
def test_a_script_for_no_newer_python_is_refused(tmp_path: Path, python: str) -> None:
    """An image with this Python or an older one cannot run it either."""
    fill(tmp_path, score=WRONG)
    assert "is not Python" in refusal(whole(tmp_path, python=python))


# --- the functions of the script ------------------------------------------------------------------


def warned(specification: Specification) -> list[str]:
    warnings: list[str] = []
    source_files(specification, warn=warnings.append)
    return warnings


@pytest.mark.parametrize(
    "code",
    [
        SCRIPT,
        "async def init(): ...\nasync def run(data): ...\n",
        "init = lambda: None\nrun: object = print\n",
        "init, (run, x) = f()\n",
        "from shared import init, predict as run\n",
        "from shared import *\n",
        "import init\nimport run.inner\n",
        "if sys.platform:\n    def init(): ...\nelse:\n    init = None\n"
        "try:\n    from fast import run\nexcept ImportError:\n    def run(data): ...\n",
        "with x() as init:\n    for run in y: ...\n",
        "import inner as driver_module\ndef init(): ...\n",
        "class init: ...\ndef define():\n    global run\n    run = print\ndefine()\n",
        "if __name__ == '__main__':\n    x()\nelse:\n    from a import init, run\n",
    ],
)
def test_a_script_that_binds_init_and_run_is_not_warned_about(tmp_path: Path, code: str) -> None:
    """However it does, at its top level."""
    assert warned(whole(fill(tmp_path, score=code))) == []


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("", "init and no run"),
        ("def run(data): ...", "init"),
        ("def init(): ...\ndef main():\n    def run(data): ...\n", "run"),
        ("class Model:\n    def init(self): ...\n    def run(self): ...\n", "init and no run"),
        ("import inner as driver_module", "init"),
        ("from a import init as start, run", "init"),
        ("import a.init\nrun = [init for init in a]", "init"),
        ("init\nrun(1)", "init and no run"),
    ],
)
def test_a_script_without_init_or_run_is_warned_about(
    tmp_path: Path, code: str, lacking: str
) -> None:
    """With a source folder and without."""
    fill(tmp_path, score=code)
    warning = f"score.py binds no {lacking}: the runtime needs init() and run()."
    assert warned(whole(tmp_path)) == [warning]
    assert warned(alone(tmp_path / "score.py")) == [warning]


# --- the folder of the script ---------------------------------------------------------------------


def test_the_folder_of_the_script_is_taken_whole(tmp_path: Path) -> None:
    """Other programs and data too; under the same rules as a folder that is named."""
    fill(tmp_path, "helper.py", "train.py", "data.csv", "pack/big.bin", ".env", "py/pyvenv.cfg")
    fill(tmp_path, "nb/.ipynb_checkpoints/a.ipynb", ".git/config", "old/scoring-package.json")
    write(tmp_path / ".amlignore", "*.bin\n")
    wanted = [".amlignore", "data.csv", "helper.py", "score.py", "train.py"]
    assert names(alone(tmp_path / "score.py"), tmp_path / "package") == wanted


def test_models_and_registries_are_left_out_of_the_folder_of_the_script(tmp_path: Path) -> None:
    """They are packaged as models; of a source folder that is named they are taken as ever."""
    fill(tmp_path, "net.pkl", "model/w.bin", "azureml-models/a/1/w.bin", "kept.pkl")
    registry.register(tmp_path / "store", "net", tmp_path / "net.pkl")
    models = (
        from_path("net", 1, tmp_path / "net.pkl"),
        from_path("folder", 1, tmp_path / "model", content=True),
        from_registry(tmp_path / "store", "net"),
    )
    script = tmp_path / "score.py"
    own = Specification(entry_script=script, models=models)
    assert names(own) == ["kept.pkl", "score.py"]
    named = names(Specification(entry_script=script, models=models, source_dir=tmp_path))
    assert {"net.pkl", "model/w.bin", "azureml-models/a/1/w.bin"} <= {*named}


def test_a_registry_around_the_script_is_left_out(tmp_path: Path) -> None:
    """As of a workspace whose folder is the project's; other folders of numbers are taken."""
    fill(tmp_path / "own", "net.pkl", "data/2024/x.csv")
    for name in ("net", "other"):
        registry.register(tmp_path / "own", name, tmp_path / "own/net.pkl")
    models = (from_registry(tmp_path / "own", "net"),)
    specification = Specification(entry_script=tmp_path / "own/score.py", models=models)
    assert names(specification) == ["data/2024/x.csv", "net.pkl", "score.py"]


def test_a_script_in_a_models_folder_is_taken(tmp_path: Path) -> None:
    """Although its folder is a model."""
    fill(tmp_path / "net", "w.bin")
    models = (from_path("net", 1, tmp_path / "net"),)
    specification = Specification(entry_script=tmp_path / "net/score.py", models=models)
    assert names(specification) == ["score.py", "w.bin"]


def test_a_large_folder_of_a_script_is_warned_about(tmp_path: Path) -> None:
    """Above 100 MB, by what is taken; one that is named is meant."""
    fill(tmp_path)
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(source._LARGE_BYTES)
    [warning] = warned(alone(tmp_path / "score.py"))
    assert warning.startswith(f"The folder of the entry script, {tmp_path}, is packaged whole and ")
    assert warned(whole(tmp_path)) == []
    write(tmp_path / ".scoringignore", "*.bin\n")
    assert warned(alone(tmp_path / "score.py")) == []


def test_an_entry_script_alone_may_be_a_link(tmp_path: Path) -> None:
    """It was named by the user, who knows where it leads; modules are found beside the link."""
    fill(tmp_path / "shared", score="import helper")
    source = tmp_path / "src"
    write(source / "helper.py", "")
    (source / "score.py").symlink_to(tmp_path / "shared/score.py")
    assert names(alone(source / "score.py")) == ["helper.py", "score.py"]


def test_an_entry_script_of_a_name_that_no_image_can_hold_is_refused(tmp_path: Path) -> None:
    """The same rule as for every other file."""
    script = write(tmp_path / "a\nb.py", SCRIPT)
    assert refusal(alone(script)).startswith(r"The file name 'a\nb.py' cannot be in an image")


# --- modules that no requirement provides ---------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import a.b, c as d", {"a.b": 1, "c": 1}),
        ("from a import b as c, d\nfrom ..e import f\nfrom . import *", {"a": 1}),
        ("def f():\n  class C:\n    import a\nimport a", {"a": 3}),
        ("try:\n  import a\nexcept ImportError:\n  import b", {}),
        ("try:\n  import a\nexcept (KeyError, ModuleNotFoundError): ...\nimport b", {"b": 4}),
        ("try:\n  if x:\n    import a\nexcept: ...", {}),
        ("try:\n  import a\nexcept KeyError: ...", {"a": 2}),
        ("try:\n  import a\nfinally:\n  import b", {"a": 2, "b": 4}),
        ("with contextlib.suppress(ImportError):\n  import a", {}),
        ("with suppress(KeyError), open(x):\n  import a", {"a": 2}),
        ("if typing.TYPE_CHECKING:\n  import a\nelse:\n  import b", {"b": 4}),
        ("if __name__ == '__main__':\n  import a", {}),
        ("if x: ...\n" + "elif x: ...\n" * 80 + "else:\n  import a\n", {"a": 83}),
        ("x = '\\d'", {}),
    ],
)
def test_import_statements_are_found(tmp_path: Path, code: str, wanted: dict[str, int]) -> None:
    """Wherever they stand, unless the file can do without."""
    assert imports_of(write(tmp_path / "score.py", code)) == wanted


def missing(tmp_path: Path, code: str, *requirements: str, also: tuple[str, ...] = ()) -> list[str]:
    fill(tmp_path, *also, score=code)
    files = [(name, tmp_path / name) for name in ("score.py", *also)]
    return [each.sentence for each in uncovered(files, requirements)]


@pytest.mark.parametrize("below", ["", "src/"])
def test_what_the_script_runs_is_needed(tmp_path: Path, below: str) -> None:
    """What it imports in turn and what a pickle names, packages whole; not other programs."""
    codes = {
        "score.py": "import helper, pack.a",
        "helper.py": "import lost1",
        "pack/b.py": "import lost2",
        "own.py": "import lost3",
        "train.py": "import lost4, helper",
    }
    files = [(below + name, write(tmp_path / name, code)) for name, code in codes.items()]
    pickled = {"The model m (m.pkl)": ["own", "lost5"]}
    found = uncovered(files, [], roots=[f"{below}score.py"], pickled=pickled)
    needed = {each.sentence.split("imports ")[-1].split("needs ")[-1][:5]: each for each in found}
    assert {name: each.needed for name, each in needed.items()} == {
        "lost1": True, "lost2": True, "lost3": True, "lost4": False, "lost5": True
    }  # fmt: skip
    assert needed["lost5"] == Lacking(
        "The model m (m.pkl) needs lost5, which no requirement provides: add --pip-package lost5.",
        True,
    )


def sentence(line: int, module: str, package: str) -> str:
    return (
        f"score.py line {line} imports {module}, which no requirement provides: "
        f"add --pip-package {package}."
    )


@pytest.mark.parametrize(
    ("code", "module", "package"),
    [
        ("import cv2", "cv2", "opencv-python-headless"),
        ("from sklearn.linear_model import Ridge", "sklearn", "scikit-learn"),
        ("import PIL.Image", "PIL", "pillow"),
        ("import yaml", "yaml", "pyyaml"),
        ("from bs4 import BeautifulSoup", "bs4", "beautifulsoup4"),
        ("from dateutil import parser", "dateutil", "python-dateutil"),
        ("import numpy as np", "numpy", "numpy"),
        ("import Some_Unknown.thing", "Some_Unknown", "some-unknown"),
        ("from azure.storage.blob import BlobClient", "azure.storage.blob", "azure-storage-blob"),
        ("import azure.storage.blob.aio", "azure.storage.blob", "azure-storage-blob"),
        ("from azure.ai import ml", "azure.ai.ml", "azure-ai-ml"),
        ("from azure.identity import X", "azure.identity", "azure-identity"),
        ("from azure import functions", "azure.functions", "azure-functions"),
        ("from google.cloud import storage", "google.cloud.storage", "google-cloud-storage"),
        ("import google.protobuf", "google.protobuf", "protobuf"),
        ("from azure.eventgrid import EventGridClient", "azure.eventgrid", "azure-eventgrid"),
        ("from imblearn.over_sampling import SMOTE", "imblearn", "imbalanced-learn"),
        ("import azureml.dataprep", "azureml.dataprep", "azureml-dataprep"),
        ("from azureml.train.hyperdrive import X", "azureml.train", "azureml-train"),
        ("from mpl_toolkits.mplot3d import Axes3D", "mpl_toolkits", "matplotlib"),
    ],
)
def test_a_module_that_nothing_provides_is_named_with_its_package(
    tmp_path: Path, code: str, module: str, package: str
) -> None:
    """With the line, and the option that adds it; with that package it is silent."""
    assert missing(tmp_path, code) == [sentence(1, module, package)]
    assert missing(tmp_path, code, f"{package}>=0") == []


@pytest.mark.parametrize(
    "code",
    [
        "import json, os.path, __future__",
        "from scoring_runtime import rawhttp",
        "import helper, pack.inner, lib.deep",
        "import deep",
        "from . import anything",
        "from azureml.core.model import Model",
        "from azureml.core import Model",
        "import azureml.core",
        "from azureml.contrib.services.aml_request import AMLRequest, rawhttp",
        "from azureml.contrib.services.aml_response import *",
        "from azureml.contrib.services import aml_request",
        "from azureml_inference_server_http.api.aml_request import rawhttp",
        "try:\n  import cv2\nexcept ImportError:\n  cv2 = None",
        "if TYPE_CHECKING:\n  import cv2",
        "import cv2 as",
    ],
)
def test_what_needs_no_requirement_is_not_named(tmp_path: Path, code: str) -> None:
    """The standard library, the user's own, old names, guarded imports, files beyond parsing."""
    assert missing(tmp_path, code, also=("helper.py", "pack/inner.py", "src/lib/deep.py")) == []


@pytest.mark.parametrize(
    ("code", "requirement"),
    [
        ("import numpy", "numpy==1.26.4 ; python_version > '3.8'  # why"),
        ("import numpy", "NumPy"),
        ("import numpy, scipy, joblib", "scikit-learn>=1.3"),
        ("import numpy, dateutil", "pandas"),
        ("import numpy", "tensorflow==2.16"),
        ("import uvloop", "scoring-runtime[server]"),
        ("import cv2", "opencv-python"),
        ("import yaml", "PyYAML~=6.0"),
        ("import my_lib", "./wheels/my_lib-1.0-py3-none-any.whl"),
        ("import my_lib", "my.lib @ https://example.org/x.zip"),
        ("import azure.storage.blob", "azure_storage_blob[aio]"),
    ],
)
def test_a_requirement_provides_its_module(tmp_path: Path, code: str, requirement: str) -> None:
    """In all the ways that a line can name it, and what it requires in turn."""
    assert missing(tmp_path, code, "# a comment", "", "--index-url x", requirement) == []


@pytest.mark.parametrize(
    ("code", "requirement"),
    [
        ("import cv2", "# opencv-python-headless"),
        ("import cv2", "--extra-index-url opencv-python-headless"),
        ("import uvloop", "scoring-runtime"),
        ("import azure.storage.blob", "azure-functions"),
        ("import google.cloud.storage", "protobuf"),
    ],
)
def test_another_requirement_does_not_provide_it(
    tmp_path: Path, code: str, requirement: str
) -> None:
    """A comment, an option, an extra that is not asked for, a neighbour in the same namespace."""
    assert len(missing(tmp_path, code, requirement)) == 1


@pytest.mark.parametrize("code", ["import azureml.data", "from azureml.data.constants import X"])
def test_what_was_left_out_is_not_named_as_what_to_add(tmp_path: Path, code: str) -> None:
    """The packages that the runtime takes the place of are taken out of every environment."""
    [said] = missing(tmp_path, code)
    assert said.endswith(" a part of azureml-core that this runtime does not have: do without it.")


@pytest.mark.parametrize("place", ["helpers.py", "helpers/one.py"])
def test_an_own_module_is_no_package_to_install(tmp_path: Path, place: str) -> None:
    """Somebody else may have registered its name: it is taken along, or put beside the script."""
    write(tmp_path / "own" / place, "")
    write(tmp_path / "score.py", "import helpers")
    files = [("score.py", tmp_path / "score.py")]
    [[said, _]] = uncovered(files, [], folders=[tmp_path, tmp_path / "own"])
    assert said.startswith(f"score.py line 1 imports helpers, which lies in {tmp_path}/own and is ")
    assert "--pip-package" not in said


def test_each_module_is_named_once_where_it_is_first_imported(tmp_path: Path) -> None:
    """By file, then by line; functions included."""
    code = "import os\ndef run(x):\n    import cv2\n    import yaml\nimport cv2.dnn\n"
    fill(tmp_path, score=code, a="import os\n")
    write(tmp_path / "z.py", "import yaml, bs4\n")
    write(tmp_path / "note.txt", "import requests\n")
    files = [(name, tmp_path / name) for name in ("z.py", "note.txt", "score.py", "gone.py")]
    assert [each.sentence for each in uncovered(files, [])] == [
        sentence(3, "cv2", "opencv-python-headless"),
        sentence(4, "yaml", "pyyaml"),
        "z.py line 1 imports bs4, which no requirement provides: add --pip-package beautifulsoup4.",
    ]


@pytest.mark.parametrize(
    "content", [b"\0", b"\xff\xfe", b"(" * 5000, b"# coding: x\nimport cv2", b"def f(:"]
)
def test_files_that_cannot_be_parsed_never_raise(tmp_path: Path, content: bytes) -> None:
    """Whatever is in them."""
    (tmp_path / "score.py").write_bytes(content)
    assert not uncovered([("score.py", tmp_path / "score.py")], [])


@pytest.mark.parametrize(
    "example", ["diabetes", "digits", "digits-onnx", "raw-image", "redis-cache"]
)
def test_the_examples_name_all_they_import(example: str) -> None:
    """No false alarm of a real script with its requirements."""
    requirements = (EXAMPLES / example / "requirements.txt").read_text().splitlines()
    found = source_files(whole(EXAMPLES / example))
    assert not uncovered(found, requirements)
