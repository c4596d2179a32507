"""Which files of the user's code go into a build context, and what they import."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scoring_runtime.errors import PackagingError
from scoring_runtime.models import registry
from scoring_runtime.packaging import source
from scoring_runtime.packaging.imports import Lacking, imports_of, uncovered
from scoring_runtime.packaging.model_files import from_path, from_registry
from scoring_runtime.packaging.source import entry_script_name, source_files
from scoring_runtime.packaging.specification import DOCUMENT, Specification
from tests.packaging.conftest import ordinary_user

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


def whole(folder: Path, script: str = "score.py") -> Specification:
    return Specification(entry_script=Path(script), source_dir=folder)


def alone(path: Path) -> Specification:
    return Specification(entry_script=path)


def names(specification: Specification, *leave_out: Path) -> list[str]:
    return [name for name, _ in source_files(specification, leave_out)]


def refusal(specification: Specification, *leave_out: Path) -> str:
    with pytest.raises(PackagingError) as caught:
        source_files(specification, leave_out)
    return str(caught.value)


# --- a whole folder -------------------------------------------------------------------------------


def test_a_source_folder_is_taken_whole_and_sorted(tmp_path: Path) -> None:
    there = [".gitignore", "a-b/x.py", "a/.hidden", "a/data.bin", "score.py", "z.txt", "é/ü 猫.py"]
    fill(tmp_path, *there, "empty/")
    assert source_files(whole(tmp_path)) == [(name, tmp_path / name) for name in there]


@pytest.mark.parametrize(
    "name",
    [
        ".git/config",
        "pkg/__pycache__/m.pyc",
        "pkg/m.pyc",
        "nb/.ipynb_checkpoints/a.ipynb",
        "web/node_modules/left/index.js",
        "thing.egg-info/PKG-INFO",
        ".env.production",
        "sub/.env/x",
        "local.settings.json",
        "py/pyvenv.cfg",
        "py/conda-meta/history",
    ],
)
def test_caches_version_control_and_local_settings_are_left_out(tmp_path: Path, name: str) -> None:
    """At any depth, and nothing else with them; of environments also links that lead out."""
    fill(tmp_path, name, "sub/kept.env", "env.py", "git/config", "pyc")
    if name.startswith("py/"):
        (tmp_path / "py/python3").symlink_to("/usr/bin/env")
    assert names(whole(tmp_path)) == ["env.py", "git/config", "pyc", "score.py", "sub/kept.env"]


def test_an_older_package_is_left_out_whatever_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "old/scoring-package.json", "old/source/score.py", "deep/er/x.py")
    fill(tmp_path, "deep/er/out/scoring-package.json", "deep/er/out/azureml-models/m/1/m.pkl")
    assert names(whole(tmp_path)) == ["deep/er/x.py", "score.py"]
    assert f"would be left out: {tmp_path / 'old'} is a package that was made before." in refusal(
        whole(tmp_path, "old/source/score.py")
    )
    assert names(whole(tmp_path / "old/source")) == ["score.py"]


def test_the_output_in_the_source_folder_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, "build/Dockerfile", "a/build/x", "b/y")
    (tmp_path / "link").symlink_to("build")
    left_out = tmp_path / "a" / ".." / "build"
    assert names(whole(tmp_path), left_out) == ["a/build/x", "b/y", "score.py"]
    assert names(whole(tmp_path), left_out, tmp_path / "b" / "y") == ["a/build/x", "score.py"]


def test_a_source_folder_in_the_output_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "src")
    for output in (tmp_path, tmp_path / "src"):
        assert refusal(whole(tmp_path / "src"), output) == (
            f"The source folder {tmp_path / 'src'} lies in the output {output}: "
            "write the output to another folder."
        )


# --- ignore files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({".scoringignore": "a", ".amlignore": "b", ".funcignore": "c"}, ["b", "c", "d"]),
        ({".amlignore": "b", ".funcignore": "c"}, ["a", "c", "d"]),
        ({".funcignore": "\ufeffc\r\n"}, ["a", "b", "d"]),
        ({".scoringignore": "", ".amlignore": "b"}, ["a", "b", "c", "d"]),
        ({".gitignore": "a", ".dockerignore": "b", "sub/.amlignore": "a"}, ["a", "b", "c", "d"]),
    ],
    ids=["scoring", "aml", "func", "empty", "others"],
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
    ("script", "also", "reason"),
    [
        ("src/score.py", ".amlignore", "line 3 of {folder}/.amlignore says *.py."),
        ("src/score.py", "src/.gitignore", "{folder}/src/score.py is what is being made."),
        (".tox/score.py", "x", ".tox is never taken."),
        ("py/score.py", "py/pyvenv.cfg", "{folder}/py is a virtual environment."),
    ],
)
def test_an_entry_script_that_would_be_left_out_is_refused(
    tmp_path: Path, script: str, also: str, reason: str
) -> None:
    fill(tmp_path, also, script)
    if also == ".amlignore":
        (tmp_path / also).write_text("# data\n*.csv\n*.py\n")
    outputs = [tmp_path / script] if "made" in reason else []
    assert refusal(whole(tmp_path, script), *outputs) == (
        f"The entry script {tmp_path / script} would be left out: "
        f"{reason.replace('{folder}', str(tmp_path))}"
    )


def test_an_ignore_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = fill(tmp_path) / ".amlignore"
    for content, problem in {
        b"*.csv\n\xff": " is not UTF-8: byte 6 cannot be decoded. Save it as UTF-8.",
        b"!": ": Invalid git pattern: '!'.",
    }.items():
        file.write_bytes(content)
        assert refusal(whole(tmp_path)) == f"{file}{problem}"
    file.unlink()
    file.mkdir()
    assert refusal(whole(tmp_path)) == f"{file} cannot be read: Is a directory."


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("/*.csv", ["a.csv"]),
        ("data/*\n!data/keep/", ["data/b.csv"]),
        ("data/**\n!data/keep/", ["data/b.csv"]),
        ("a.csv\r\n\r\nb.csv\r", ["a.csv", "data/b.csv"]),
        ("/", []),
    ],
)
def test_rules_mean_what_they_mean_to_git(tmp_path: Path, text: str, out: list[str]) -> None:
    """Where the library and git differ, and what files of Windows have."""
    there = ["a.csv", "data/b.csv", "data/keep/c.csv"]
    fill(tmp_path, *there)
    (tmp_path / ".scoringignore").write_bytes(text.encode())
    assert set(there) - {*names(whole(tmp_path))} == set(out)


# --- links and what cannot be in an image ---------------------------------------------------------


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("..", "The link {link} leads to a folder that it is in itself."),
        (".", "The link {link} leads to a folder that it is in itself."),
        ("nothing", "{link} is a link to nothing: No such file or directory."),
        ("link", "{link} is a link to nothing: Too many levels of symbolic links."),
    ],
)
def test_a_link_in_circles_or_to_nothing_is_refused(
    tmp_path: Path, target: str, problem: str
) -> None:
    """It would never end; or it is an editor's lock file."""
    fill(tmp_path, "a/b/x")
    (tmp_path / "a/b/link").symlink_to(target)
    said = problem.replace("{link}", str(tmp_path / "a/b/link"))
    assert refusal(whole(tmp_path)) == f"{said} Remove it, or name it in .scoringignore."


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path) / "p")
    assert refusal(whole(tmp_path)) == (
        f"{tmp_path / 'p'} is neither a file nor a folder. Remove it, or name it in .scoringignore."
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\nb.py", r"'a\nb.py'"),
        (b"\xff.txt", r"'\udcff.txt'"),
        (b"sub\x1b/x", r"'sub\x1b'"),
        (b"a\xc2\x85b", r"'a\x85b'"),
    ],
)
def test_names_that_no_image_can_hold_are_refused(tmp_path: Path, name: bytes, shown: str) -> None:
    unusual = [" a ", "it's", 'a"b', "a\\b", "a\u202fb", "-rf", "x" * 255]
    assert names(whole(fill(tmp_path, *unusual))) == sorted(["score.py", *unusual])
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_text(SCRIPT)
    said = refusal(whole(tmp_path))
    assert said.startswith(f"The file name {shown} cannot be in an image: it holds a line break, ")
    if name.endswith(b".py"):
        assert refusal(alone(Path(os.fsdecode(path)))) == said


@pytest.mark.parametrize("locked", ["data/locked.csv", "data", "score.py"])
def test_what_cannot_be_read_is_named(open_folder: Path, locked: str) -> None:
    fill(open_folder, "data/locked.csv", "open.txt")
    path = open_folder / locked
    path.chmod(0)
    with ordinary_user():
        said = refusal(whole(open_folder))
        assert said.startswith(f"{path} cannot be read: Permission denied.")
        if locked == "score.py":
            assert refusal(alone(path)) == said


# --- the entry script -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "folder", "name"),
    [
        ("score.py", "src", "score.py"),
        ("src/sub/run.py", "src", "sub/run.py"),
        ("./src/sub/../score.py", "./src/sub/..", "score.py"),
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
        ("deep/score", " Did you mean score.py?"),
        ("predictor.py", " Did you mean sub/predict.py or score.py?"),
        ("zzz.py", ""),
    ],
)
def test_a_missing_entry_script_names_near_ones(tmp_path: Path, script: str, near: str) -> None:
    fill(tmp_path, "sub/predict.py", "train.py")
    wanted = f"There is no entry script {tmp_path / script}.{near}"
    assert refusal(whole(tmp_path, script)) == wanted
    assert refusal(alone(tmp_path / script)) == wanted
    with pytest.raises(PackagingError, match="There is no entry script"):
        entry_script_name(alone(tmp_path / script))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("score.PY", "no Python file: its name ends not in .py."),
        ("nb.ipynb", "a notebook: export it with jupyter nbconvert --to script nb.ipynb, and"),
        ("sub", "a folder: name the Python file in it."),
    ],
)
def test_a_script_that_is_named_otherwise_is_refused(
    tmp_path: Path, name: str, problem: str
) -> None:
    fill(tmp_path, "sub/x.py", "nb.ipynb", "score.PY")
    for specification in (alone(tmp_path / name), whole(tmp_path, name)):
        said = f"The entry script {tmp_path / name} is {problem}"
        assert refusal(specification).startswith(said)


def test_a_wrong_source_folder_is_named(tmp_path: Path) -> None:
    source, other = fill(tmp_path / "source", "x.py"), fill(tmp_path / "other", "run.py")
    assert refusal(whole(tmp_path / "sorce")) == (
        f"The source folder {tmp_path / 'sorce'} does not exist. Did you mean source?"
    )
    assert refusal(whole(source / "score.py")).endswith("/score.py is no folder.")
    assert refusal(Specification(entry_script=other / "run.py", source_dir=source)) == (
        f"The entry script {other / 'run.py'} is not in the source folder {source}: move it there, "
        f"or name a source folder that holds it, such as {tmp_path}."
    )


WRONG = "def init(): ...\ndef run(data):\n    return data +\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WRONG.encode(), ":3 is not Python: invalid syntax."),
        (b"x = 1\0", ":1 is not Python: "),
        (b"x = '\xff'\n", ":1 is not Python: "),
    ],
)
def test_an_entry_script_that_is_not_python_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "score.py").write_bytes(content)
    for specification in (whole(tmp_path), alone(tmp_path / "score.py")):
        assert refusal(specification).startswith(f"{tmp_path / 'score.py'}{said}")


# --- the functions of the script ------------------------------------------------------------------


def warned(specification: Specification) -> list[str]:
    warnings: list[str] = []
    source_files(specification, warn=warnings.append)
    return warnings


@pytest.mark.parametrize(
    "code",
    [
        SCRIPT,
        "init = lambda: None\nrun: object = print\n",
        "from shared import init, predict as run\n",
        "from shared import *\n",
        "import inner as driver_module\ndef init(): ...\n",
        "class init: ...\ndef define():\n    global run\n    run = print\ndefine()\n",
        "if __name__ == '__main__':\n    x()\nelse:\n    from a import init, run\n",
    ],
)
def test_a_script_that_binds_init_and_run_is_not_warned_about(tmp_path: Path, code: str) -> None:
    assert warned(whole(fill(tmp_path, score=code))) == []


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("", "init and no run"),
        ("def init(): ...\ndef main():\n    def run(data): ...\n", "run"),
        ("class Model:\n    def init(self): ...\n    def run(self): ...\n", "init and no run"),
        ("import inner as driver_module", "init"),
        ("import a.init\nrun = [init for init in a]", "init"),
    ],
)
def test_a_script_without_init_or_run_is_warned_about(
    tmp_path: Path, code: str, lacking: str
) -> None:
    warning = f"score.py binds no {lacking}: the runtime needs init() and run()."
    assert warned(whole(fill(tmp_path, score=code))) == [warning]


# --- the folder of the script ---------------------------------------------------------------------


def test_the_folder_of_the_script_is_taken_whole(tmp_path: Path) -> None:
    fill(tmp_path, "helper.py", "train.py", "data.csv", "pack/big.bin", ".env", "py/pyvenv.cfg")
    fill(tmp_path, "nb/.ipynb_checkpoints/a.ipynb", ".git/config", "old/scoring-package.json")
    write(tmp_path / ".amlignore", "*.bin\n")
    wanted = [".amlignore", "data.csv", "helper.py", "score.py", "train.py"]
    assert names(alone(tmp_path / "score.py"), tmp_path / "package") == wanted


def test_models_and_registries_are_left_out_of_the_folder_of_the_script(tmp_path: Path) -> None:
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


def test_a_large_folder_of_a_script_is_warned_about(tmp_path: Path) -> None:
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


# --- modules that no requirement provides ---------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import a.b, c as d", {"a.b": 1, "c": 1}),
        ("from a import b as c, d\nfrom ..e import f\nfrom . import *", {"a": 1}),
        ("def f():\n  class C:\n    import a\nimport a", {"a": 3}),
        ("try:\n  import a\nexcept (KeyError, ModuleNotFoundError): ...\nimport b", {"b": 4}),
        ("try:\n  if x:\n    import a\nexcept: ...", {}),
        ("try:\n  import a\nexcept KeyError: ...\nfinally:\n  import b", {"a": 2, "b": 5}),
        ("with contextlib.suppress(ImportError):\n  import a", {}),
        ("with suppress(KeyError), open(x):\n  import a", {"a": 2}),
        ("if typing.TYPE_CHECKING:\n  import a\nelse:\n  import b", {"b": 4}),
        ("if __name__ == '__main__':\n  import a", {}),
        ("if x: ...\n" + "elif x: ...\n" * 80 + "else:\n  import a\n", {"a": 83}),
        ("x = '\\d'", {}),
    ],
)
def test_import_statements_are_found(tmp_path: Path, code: str, wanted: dict[str, int]) -> None:
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
        ("import numpy as np", "numpy", "numpy"),
        ("import Some_Unknown.thing", "Some_Unknown", "some-unknown"),
        ("import azure.storage.blob.aio", "azure.storage.blob", "azure-storage-blob"),
        ("from azure.ai import ml", "azure.ai.ml", "azure-ai-ml"),
        ("from azure import functions", "azure.functions", "azure-functions"),
        ("import google.protobuf", "google.protobuf", "protobuf"),
        ("from azureml.train.hyperdrive import X", "azureml.train", "azureml-train"),
        ("from mpl_toolkits.mplot3d import Axes3D", "mpl_toolkits", "matplotlib"),
    ],
)
def test_a_module_that_nothing_provides_is_named_with_its_package(
    tmp_path: Path, code: str, module: str, package: str
) -> None:
    assert missing(tmp_path, code) == [sentence(1, module, package)]
    assert missing(tmp_path, code, f"{package}>=0") == []


@pytest.mark.parametrize(
    "code",
    [
        "import json, os.path, __future__",
        "from scoring_runtime import rawhttp",
        "import helper, pack.inner, lib.deep",
        "from . import anything",
        "from azureml.core import Model",
        "from azureml.contrib.services.aml_response import *",
        "from azureml_inference_server_http.api.aml_request import rawhttp",
        "import cv2 as",
    ],
)
def test_what_needs_no_requirement_is_not_named(tmp_path: Path, code: str) -> None:
    assert missing(tmp_path, code, also=("helper.py", "pack/inner.py", "src/lib/deep.py")) == []


@pytest.mark.parametrize(
    ("code", "requirement"),
    [
        ("import numpy", "numpy==1.26.4 ; python_version > '3.8'  # why"),
        ("import numpy, scipy, joblib", "scikit-learn>=1.3"),
        ("import numpy", "tensorflow==2.16"),
        ("import uvloop", "scoring-runtime[server]"),
        ("import cv2", "opencv-python"),
        ("import my_lib", "./wheels/my_lib-1.0-py3-none-any.whl"),
        ("import my_lib", "my.lib @ https://example.org/x.zip"),
        ("import azure.storage.blob", "azure_storage_blob[aio]"),
    ],
)
def test_a_requirement_provides_its_module(tmp_path: Path, code: str, requirement: str) -> None:
    assert missing(tmp_path, code, "# a comment", "", "--index-url x", requirement) == []


@pytest.mark.parametrize(
    ("code", "requirement"),
    [
        ("import cv2", "--extra-index-url opencv-python-headless"),
        ("import uvloop", "scoring-runtime"),
        ("import azure.storage.blob", "azure-functions"),
    ],
)
def test_another_requirement_does_not_provide_it(
    tmp_path: Path, code: str, requirement: str
) -> None:
    assert len(missing(tmp_path, code, requirement)) == 1


def test_what_was_left_out_is_not_named_as_what_to_add(tmp_path: Path) -> None:
    [said] = missing(tmp_path, "from azureml.data.constants import X")
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


@pytest.mark.parametrize("content", [b"\0", b"(" * 5000, b"# coding: x\nimport cv2", b"def f(:"])
def test_files_that_cannot_be_parsed_never_raise(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "score.py").write_bytes(content)
    assert not uncovered([("score.py", tmp_path / "score.py")], [])


@pytest.mark.parametrize("example", ["diabetes", "digits", "raw-image", "redis-cache"])
def test_the_examples_name_all_they_import(example: str) -> None:
    requirements = (EXAMPLES / example / "requirements.txt").read_text().splitlines()
    assert not uncovered(source_files(whole(EXAMPLES / example)), requirements)


def test_the_files_that_deploy_a_package_are_not_packaged(tmp_path: Path) -> None:
    """They hold secrets; a folder of the user's with such a name is taken."""
    fill(tmp_path, *(f"{each}/file.py" for each in ("made", "made-deployment", "own-deployment")))
    write(tmp_path / "made" / DOCUMENT, "{}")
    assert names(alone(tmp_path / "score.py")) == ["own-deployment/file.py", "score.py"]
    assert "has the files that deploy a package" in refusal(
        whole(tmp_path, "made-deployment/file.py")
    )
