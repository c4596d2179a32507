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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoring_runtime.errors import PackagingError
from scoring_runtime.packaging import ignore_rules
from scoring_runtime.packaging.import_statements import Import, imports_of, places
from scoring_runtime.packaging.imported_modules import uncovered
from scoring_runtime.packaging.sources import entry_script_name, source_files
from scoring_runtime.packaging.specification import Environment, PackagedModel, Specification

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


def test_thousands_of_files_are_all_found(tmp_path: Path) -> None:
    """Three thousand in fifty folders, with rules for a tenth of them."""
    fill(tmp_path)
    write(tmp_path / ".amlignore", "**/7*.txt\n!d1/\n")
    wanted = []
    for folder in range(50):
        (tmp_path / f"d{folder}").mkdir()
        for number in range(60):
            (tmp_path / f"d{folder}" / f"{number}.txt").touch()
            wanted.append(f"d{folder}/{number}.txt")
    kept = [name for name in wanted if not name.split("/")[1].startswith("7")]
    assert names(whole(tmp_path)) == sorted([".amlignore", "score.py", *kept])


def test_no_entry_script_no_files(tmp_path: Path) -> None:
    """A model without a script has no source."""
    specification = Specification(source_dir=fill(tmp_path))
    assert (source_files(specification), entry_script_name(specification)) == ([], "")


@pytest.mark.parametrize(
    ("example", "wanted"),
    [("digits", ["score.py"]), ("raw-image", ["score.py"]), ("redis-cache", ["score.py"])],
)
def test_an_example_alone_is_its_script(example: str, wanted: list[str]) -> None:
    """Neither its model nor what trains it."""
    assert names(alone(EXAMPLES / example / "score.py")) == wanted


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


def left_out(text: str, paths: list[str]) -> set[str]:
    """The paths of files that the text of an ignore file leaves out."""
    rules = ignore_rules.IgnoreRules(None, ignore_rules.parse(text))

    def is_out(path: str) -> bool:
        parts = path.split("/")
        above = ("/".join(parts[:end]) for end in range(1, len(parts)))
        return any(rules.rule_against(each, folder=True) for each in above) or bool(
            rules.rule_against(path, folder=False)
        )

    return {path for path in paths if is_out(path)}


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("*.csv", ["a.csv", "data/b.csv", "data/keep/c.csv"]),
        ("/*.csv", ["a.csv"]),
        ("data/", ["data/b.csv", "data/keep/c.csv"]),
        ("data/*", ["data/b.csv", "data/keep/c.csv"]),
        ("data/*\n!data/keep/", ["data/b.csv"]),
        ("data/\n!data/keep/", ["data/b.csv", "data/keep/c.csv"]),
        ("*\n!score.py", ["a.csv", "data/b.csv", "data/keep/c.csv", "é.txt", "#x", "a b "]),
        ("data/**/c.csv", ["data/keep/c.csv"]),
        ("**/keep", ["data/keep/c.csv"]),
        ("keep", ["data/keep/c.csv"]),
        ("?.csv", ["a.csv", "data/b.csv", "data/keep/c.csv"]),
        ("?.txt", ["é.txt"]),
        ("[!a].csv", ["data/b.csv", "data/keep/c.csv"]),
        ("[[:alpha:]].csv", ["a.csv", "data/b.csv", "data/keep/c.csv"]),
        ("[[:nothing:]].csv", []),
        ("[a.csv", []),
        ("#x", []),
        ("\\#x", ["#x"]),
        ("a b ", []),
        ("a b\\ ", ["a b "]),
        ("\ufeff", []),
        ("a.csv\r\n\r\nb.csv\r", ["a.csv", "data/b.csv"]),
        ("!", []),
        ("/", []),
        ("\\", []),
    ],
)
def test_rules_mean_what_they_mean_to_git(text: str, out: list[str]) -> None:
    """One row for each thing that the syntax can say."""
    there = ["a.csv", "data/b.csv", "data/keep/c.csv", "score.py", "é.txt", "#x", "a b "]
    assert left_out(text, there) == set(out)


def test_an_ignore_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    fill(tmp_path, "a.csv")
    (tmp_path / ".amlignore").write_bytes(b"\xef\xbb\xbf*.csv\r\n")
    assert names(whole(tmp_path)) == [".amlignore", "score.py"]


# Not: several asterisks within a name, of which git's result depends on what stands before them.
_PIECES = st.sampled_from(
    [
        *("a", "b", "ab", "a.py", "*", "**", "?", "*.py", "a*", "*b", "[ab]", "[!a]", "[^a]"),
        *("[a-b]", "[b-a]", "[]a]", "[!]]", "[a-]", "[a/b]", "[[:alpha:]]", "[[:foo:]]", "[[:a]"),
        *("[", "[a", "\\a", "\\*", "\\[a]", "[\\]a]", "a\\", "{a}", "#a", "\\#a", "b.p?c", " a"),
    ]
)
_PATTERNS = st.builds(
    lambda sign, start, pieces, end: sign + start + "/".join(pieces) + end,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(_PIECES, min_size=1, max_size=3),
    st.sampled_from(["", "", "", "/", " ", "\\ ", "\r"]),
)
_PATH_NAMES = ["a", "b", "ab", "a.py", "b.pyc", "[a]", "#a", " a", "]", "-", "a:", "d"]
_PATHS = st.lists(st.sampled_from(_PATH_NAMES), min_size=1, max_size=4).map("/".join)


def _without_files_in_files(paths: list[str]) -> list[str]:
    folders = {
        path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)
    }
    return sorted(set(paths) - folders)


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


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(_PATTERNS, min_size=1, max_size=5).map(lambda lines: "\n".join(lines) + "\n"),
    st.lists(_PATHS, min_size=8, max_size=20).map(_without_files_in_files),
)
def test_git_ignores_the_same_files(repository: Path, text: str, paths: list[str]) -> None:
    """Of any rules and any tree, ``git check-ignore`` being the judge."""
    assert left_out(text, paths) == _ignored_by_git(repository, text, paths)


def test_what_is_taken_is_what_git_would_take(repository: Path) -> None:
    """The same through the real folder: a project as people have them."""
    rules = "data/*\n!data/small.csv\n*.log\n/notebooks/\nbuild\n!src/build\n**/tmp/**\n!keep.log\n"
    paths = ["score.py", "data/big.csv", "data/small.csv", "a.log", "x/keep.log", "notebooks/a.py"]
    paths += [
        "x/notebooks/b.py",
        "build/a",
        "src/build/b",
        "src/build/build/c",
        "x/tmp/a",
        "x/tmp.py",
    ]
    ignored = _ignored_by_git(repository, rules, paths)
    assert ignored == {
        *("data/big.csv", "a.log", "notebooks/a.py", "build/a", "src/build/build/c", "x/tmp/a"),
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


def test_two_folders_that_link_to_each_other_are_refused(tmp_path: Path) -> None:
    """A circle of two."""
    fill(tmp_path, "a/", "b/")
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_a").symlink_to("../a")
    assert "leads to a folder that it is in itself" in refusal(whole(tmp_path))


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


def test_in_the_source_folder_goes_before_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two scripts of one name it is that of the source folder."""
    fill(tmp_path)
    source = fill(tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    found = dict(source_files(whole(source)))
    assert found == {"score.py": source / "score.py"}


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
        ("def run(data): ...\nif __name__ == '__main__':\n    def init(): ...\n", "init"),
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


# --- the files that the script names --------------------------------------------------------------


def not_packaged(line: int, place: str, name: str = "score.py") -> str:
    return (
        f"{name} line {line} names {place}, which is not packaged: add --source-dir FOLDER to take "
        "its folder whole."
    )


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("open('data/lookup.json')", "data/lookup.json"),
        ("NAME = './data/lookup.json'", "data/lookup.json"),
        ("f({'labels': 'labels.txt'})", "labels.txt"),
        ("x = [f'data/{y}.json']", "data"),
        ("os.path.join(here, 'data', 'lookup.json')", "data"),
        ("Path(__file__).parent / 'data' / 'lookup.json'", "data"),
        ("DATA = 'data'", "data"),
        ("subprocess.run([sys.executable, 'other.py'])", "other.py"),
    ],
)
def test_a_file_that_is_named_and_not_taken_is_warned_about(
    tmp_path: Path, code: str, wanted: str
) -> None:
    """Once, where it is first named; with its folder it is taken."""
    fill(tmp_path, "data/lookup.json", "labels.txt", "other.py", score=f"{SCRIPT}{code}\n{code}\n")
    assert warned(alone(tmp_path / "score.py")) == [not_packaged(3, wanted)]
    assert warned(whole(tmp_path)) == []


def test_files_that_modules_name_are_warned_about_too(tmp_path: Path) -> None:
    """They too are opened from the folder of the script; what a package brings is there."""
    fill(tmp_path, "data.csv", "pack/x.csv", score=f"{SCRIPT}import pack\nopen('data.csv')\n")
    write(tmp_path / "pack/__init__.py", "open('data.csv')\nopen('pack/x.csv')\nopen('pack')\n")
    assert warned(alone(tmp_path / "score.py")) == [not_packaged(1, "data.csv", "pack/__init__.py")]


@pytest.mark.parametrize(
    "code",
    [
        "json.loads(x)['data']",
        "x.get('data')",
        "@input_schema('data', Type())\ndef f(data): ...",
        "'the data.csv'",
        "open('missing.json')",
        "open('../beside.txt')",
        "open('/data/lookup.json')",
        "open('score.py')",
        "open('.')",
        "open('.env')",
        "open('ignored.txt')",
        "open('data/ignored.txt')",
        "open('x' * 9)",
        "open('" + "x/" * 5000 + "')",
    ],
    ids=lambda code: code[:30],
)
def test_other_texts_are_no_files_that_are_missed(tmp_path: Path, code: str) -> None:
    """Keys of a payload, what is not there or not below the script, what is never taken."""
    source = fill(tmp_path / "src", "data/lookup.json", "data/ignored.txt", "ignored.txt", ".env")
    write(tmp_path / "beside.txt", "")
    write(source / ".scoringignore", "ignored.txt\n")
    fill(source, score=f"{SCRIPT}{code}\n")
    assert warned(alone(source / "score.py")) == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("net.pkl", "join(x, 'net.pkl')"),
        ("models/net.pkl", "open('models/net.pkl')"),
        ("models/net.pkl", "join('models', 'net.pkl')"),
        ("models", "open('models/net.pkl')"),
        ("registry/iris/1", "join(x, 'net.pkl')"),
        ("registry/iris/1", "join(x, 'iris', '1', 'net.pkl')"),
    ],
)
def test_the_files_of_packaged_models_are_not_missed(tmp_path: Path, path: str, code: str) -> None:
    """Neither where they lie beside the script nor by the names that they have in the image."""
    fill(tmp_path, "net.pkl", "models/net.pkl", "registry/iris/1/net.pkl", "iris/x")
    fill(tmp_path, "data.csv", score=f"{SCRIPT}{code}, open('data.csv')\n")
    models = (PackagedModel("iris", 1, tmp_path / path),)
    specification = Specification(entry_script=tmp_path / "score.py", models=models)
    assert warned(specification) == [not_packaged(3, "data.csv")]


# --- the script and what it imports ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("", []),
        ("import helper", ["helper.py"]),
        ("import helper as h, other", ["helper.py", "other.py"]),
        ("from helper import f", ["helper.py"]),
        ("def run(x):\n    import helper", ["helper.py"]),
        ("try:\n    import helper\nexcept ImportError: ...", ["helper.py"]),
        ("import importlib\nimportlib.import_module('helper')", ["helper.py"]),
        ("__import__('helper')", ["helper.py"]),
        ("from .helper import f", ["helper.py"]),
        ("from . import helper", ["helper.py"]),
        ("from .. import helper", []),
        (
            "import package",
            ["other.py", *("package/" + each for each in ("__init__.py", "data.txt"))],
        ),
        ("import space.inner", ["space/inner.py"]),
        ("from space import inner", ["space/inner.py"]),
        ("from space.inner import f", ["space/inner.py"]),
        ("import space", []),
        ("from space.deep.pack import f", ["space/deep/pack/__init__.py"]),
        ("import json", []),
        ("import numpy, missing.sub", []),
        ("import a", ["a.py", "b.py", "c.py"]),
        ("import compiled", ["compiled.so"]),
    ],
)
def test_an_entry_script_alone_takes_the_modules_that_it_imports(
    tmp_path: Path, statement: str, wanted: list[str]
) -> None:
    """Modules, packages with their data, namespaces; what those import; nothing else."""
    fill(tmp_path, "helper.py", "other.py", "unused.py", "data.csv", "json.py", "compiled.so")
    fill(tmp_path, "package/data.txt", "package/__pycache__/x.pyc", "space/inner.py", "space/x.py")
    fill(tmp_path, "space/deep/pack/__init__.py", score=statement)
    fill(tmp_path, a="import b", b="import c", c="import a", score=statement)
    write(tmp_path / "package/__init__.py", "import other\n")
    found = source_files(alone(tmp_path / "score.py"))
    assert found == [(name, tmp_path / name) for name in sorted(["score.py", *wanted])]


def test_relative_imports_of_a_package_are_followed(tmp_path: Path) -> None:
    """Out of a folder without ``__init__.py`` too, of which only what is imported is taken."""
    fill(tmp_path, "space/b.py", "space/unused.py", "space/up.py", score="import space.a")
    write(tmp_path / "space/a.py", "from . import b\nfrom .sub import c\n")
    write(tmp_path / "space/sub/c.py", "from ..up import f\nfrom ...... import far\n")
    wanted = ["score.py", "space/a.py", "space/b.py", "space/sub/c.py", "space/up.py"]
    assert names(alone(tmp_path / "score.py")) == wanted


def test_an_ignore_file_beside_the_script_counts(tmp_path: Path) -> None:
    """For a package's data, and for a module."""
    fill(tmp_path, "pack/__init__.py", "pack/big.bin", "helper.py", score="import pack, helper")
    write(tmp_path / ".amlignore", "*.bin\nhelper.py\n")
    assert names(alone(tmp_path / "score.py")) == ["pack/__init__.py", "score.py"]


def test_a_module_that_cannot_be_parsed_is_warned_about(tmp_path: Path) -> None:
    """It is taken, with a word on what could not be found out."""
    fill(tmp_path, score=f"{SCRIPT}import helper", helper=WRONG)
    warnings: list[str] = []
    found = source_files(alone(tmp_path / "score.py"), warn=warnings.append)
    assert [name for name, _ in found] == ["helper.py", "score.py"]
    assert warnings == [f"{tmp_path / 'helper.py'}:3 is not Python: invalid syntax."]


def test_an_imported_module_that_leads_out_is_refused(tmp_path: Path) -> None:
    """The module itself, or a folder that it is in."""
    source = fill(tmp_path / "src", score="import helper")
    fill(tmp_path, "lib/helper.py")
    (source / "helper.py").symlink_to(tmp_path / "lib/helper.py")
    assert f"The link {source / 'helper.py'} leads out of" in refusal(alone(source / "score.py"))
    (source / "score.py").write_text("import space.helper\n")
    (source / "space").symlink_to(tmp_path / "lib")
    assert f"The link {source / 'space'} leads out of" in refusal(alone(source / "score.py"))


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


# --- import statements ----------------------------------------------------------------------------


def _g(line: int, module: str) -> Import:
    """An import that the file can do without."""
    return Import(line, module, (), 0, True)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import a.b, c as d", [Import(1, "a.b"), Import(1, "c")]),
        ("from a import b as c, d", [Import(1, "a", ("b", "d"))]),
        ("from ..a import b", [Import(1, "a", ("b",), 2)]),
        ("from . import *", [Import(1, "", ("*",), 1)]),
        ("def f():\n  class C:\n    import a", [Import(3, "a")]),
        ("try:\n  import a\nexcept ImportError:\n  import b", [_g(2, "a"), _g(4, "b")]),
        ("try:\n  import a\nexcept (KeyError, ModuleNotFoundError): ...", [_g(2, "a")]),
        ("try:\n  import a\nexcept: ...", [_g(2, "a")]),
        ("try:\n  import a\nexcept Exception: ...\nelse:\n  import b", [_g(2, "a"), _g(5, "b")]),
        ("try:\n  import a\nexcept KeyError: ...", [Import(2, "a")]),
        ("try:\n  import a\nfinally:\n  import b", [Import(2, "a"), Import(4, "b")]),
        ("try: ...\nexcept ImportError: ...\nimport a", [Import(3, "a")]),
        ("try:\n  if x:\n    import a\nexcept ImportError: ...", [_g(3, "a")]),
        ("with contextlib.suppress(ImportError):\n  import a", [_g(2, "a")]),
        ("with suppress(KeyError), open(x):\n  import a", [Import(2, "a")]),
        ("if TYPE_CHECKING:\n  import a\nelse:\n  import b", [_g(2, "a"), Import(4, "b")]),
        ("if typing.TYPE_CHECKING:\n  import a", [_g(2, "a")]),
        ("if __name__ == '__main__':\n  import a", [_g(2, "a")]),
        ("if x == 1:\n  import a", [Import(2, "a")]),
        ("importlib.import_module('a.b')", [Import(1, "a.b")]),
        ("import_module('.b')\nimport_module('a', 'b')\nimport_module(name)", []),
        ("import_module('../a')\nimport_module('a/../b')\n__import__('')", []),
        ("x = '\\d'", []),
    ],
)
def test_import_statements_are_found(code: str, wanted: list[Import]) -> None:
    """In the order of the file, wherever they stand, and whether the file can do without."""
    assert imports_of(code.encode()) == wanted


def test_deeply_nested_code_is_read() -> None:
    """As far as Python's own parser goes: an else-if chain is one level each."""
    code = "if x: ...\n" + "elif x: ...\n" * 80 + "else:\n  import a\n"
    assert imports_of(code.encode()) == [Import(83, "a")]


@pytest.mark.parametrize(
    ("each", "name", "wanted"),
    [
        (Import(1, "a.b"), "x/y.py", [("a", "b")]),
        (Import(1, "a", ("b",)), "x/y.py", [("a",), ("a", "b")]),
        (Import(1, "a", (), 1), "x/y.py", [("x", "a")]),
        (Import(1, "", ("b",), 2), "x/y.py", [(), ("b",)]),
        (Import(1, "a", (), 3), "x/y.py", []),
    ],
)
def test_places_of_modules(each: Import, name: str, wanted: list[tuple[str, ...]]) -> None:
    """Absolute from the top, relative from the file, none beyond the top."""
    assert places(each, name) == wanted


# --- modules that no requirement provides ---------------------------------------------------------


def missing(tmp_path: Path, code: str, *requirements: str, also: tuple[str, ...] = ()) -> list[str]:
    fill(tmp_path, *also, score=code)
    files = [(name, tmp_path / name) for name in ("score.py", *also)]
    return [*uncovered(files, requirements)]


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
        ("import my_lib", "./wheels/my-lib-1.0.tar.gz"),
        ("import my_lib", "https://example.org/my_lib-1.0-py3-none-any.whl#sha256=00"),
        ("import my_lib", "my.lib @ https://example.org/x.zip"),
        ("import my_lib", "git+https://example.org/team/my-lib.git@v1"),
        ("import my_lib", "-e git+https://example.org/team/other#egg=my_lib"),
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
    [said] = uncovered(files, [], folders=[tmp_path, tmp_path / "own"])
    assert said.startswith(f"score.py line 1 imports helpers, which lies in {tmp_path}/own and is ")
    assert "--pip-package" not in said


def test_each_module_is_named_once_where_it_is_first_imported(tmp_path: Path) -> None:
    """By file, then by line; functions included."""
    code = "import os\ndef run(x):\n    import cv2\n    import yaml\nimport cv2.dnn\n"
    fill(tmp_path, score=code, a="import os\n")
    write(tmp_path / "z.py", "import yaml, bs4\n")
    write(tmp_path / "note.txt", "import requests\n")
    files = [(name, tmp_path / name) for name in ("z.py", "note.txt", "score.py", "gone.py")]
    assert [*uncovered(files, [])] == [
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
