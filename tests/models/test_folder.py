"""The folder of registered models: its layouts, model_path, and the tree that errors show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring_runtime.errors import ModelNotFound
from scoring_runtime.models import folder as models
from scoring_runtime.models.folder import (
    RegisteredModel,
    is_registry,
    is_version_folder,
    model_folder,
    model_path,
    registered,
    registered_model,
    tree,
)


@pytest.fixture(autouse=True)
def no_model_dir() -> Iterator[None]:
    """model_path knows no folder unless a test sets one."""
    models.use_model_dir(None)
    yield
    models.use_model_dir(None)


def touch(root: Path, *files: str) -> Path:
    """``root`` with these empty files; a name that ends in / is a folder."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """…/azureml-models with several models, as images have it."""
    return touch(
        tmp_path / "azureml-models",
        "iris/1/iris.pkl",
        "iris/2/iris.pkl",
        "iris/10/iris.pkl",
        "digits/3/saved/weights.bin",
        "digits/3/saved/labels.txt",
        "pair/1/a.onnx",
        "pair/1/b.onnx",
        "pair/1/.hidden",
        "pair/notes/readme.txt",
        "loose.txt",
    )


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """…/azureml-models/<name>/<version>, one model."""
    return touch(tmp_path / "azureml-models", "iris/7/iris.pkl") / "iris" / "7"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder without names and versions."""
    return touch(tmp_path / "export", "model.pkl", "data/labels.txt")


# --- layouts --------------------------------------------------------------------------------------


def test_several_models(several: Path) -> None:
    """By name, then by version as a number; what is no version is none."""
    assert registered(several) == [
        RegisteredModel("digits", 3, several / "digits/3"),
        RegisteredModel("iris", 1, several / "iris/1"),
        RegisteredModel("iris", 2, several / "iris/2"),
        RegisteredModel("iris", 10, several / "iris/10"),
        RegisteredModel("pair", 1, several / "pair/1"),
    ]


def test_one_model(one: Path) -> None:
    """A last component that is a number is the version, the one before it the name."""
    assert registered(one) == [RegisteredModel("iris", 7, one)]


def test_a_plain_folder(plain: Path, tmp_path: Path) -> None:
    """No models with name and version; a folder that is not there has none either."""
    assert registered(plain) == registered(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["iris/007/m", "iris/8/m", "iris/06/m"], [(6, "06"), (7, "007"), (8, "8")]),
        (
            [f"iris/{'0' * zeros}7/m" for zeros in (3, 1, 4, 0, 2)],
            [(7, f"{'0' * zeros}7") for zeros in (4, 3, 2, 1, 0)],
        ),
        (["iris/0/m"], [(0, "0")]),
        ([".tmp-1/1/m", ".versions/1", ".versions/iris/1", "iris/.tmp/1"], []),
        (["iris/1", "iris/2/m"], [(2, "2")]),
        (["iris/v1/m", "iris/1.0/m", "iris/-1/m", "iris/1 /m"], []),
    ],
)
def test_which_folders_are_versions(
    files: list[str], found: list[tuple[int, str]], tmp_path: Path
) -> None:
    """Folders whose name is a number, in the order of the numbers; nothing that is hidden."""
    root = touch(tmp_path, *files)
    assert [(each.version, each.path.name) for each in registered(root)] == found


@pytest.mark.parametrize(
    ("folder", "version"),
    [("azureml-models/iris/7", True), ("iris/007", True), ("7", False), ("iris/v7", False)],
)
def test_which_folder_is_one_version(folder: str, version: bool) -> None:
    """Its last component is a number, and there is one before it."""
    assert is_version_folder(Path(folder)) is version


@pytest.mark.parametrize(
    ("files", "folder", "registry"),
    [
        (["iris/1/m"], "", True),
        ([], "", True),
        ([], "missing", True),
        ([".versions/iris/1"], "", True),
        (["model.pkl"], "", False),
        (["iris/1/m"], "iris/1", False),
        ([], "iris/1", False),
        (["file"], "file", False),
    ],
)
def test_which_folder_is_a_registry(
    files: list[str], folder: str, registry: bool, tmp_path: Path
) -> None:
    """One of several models, or one that can become it; never one model's own folder."""
    assert is_registry(touch(tmp_path, *files) / folder) is registry


def test_a_name_that_is_no_model_is_not_a_registered_one(several: Path) -> None:
    """Unlike model_path, which takes any file or folder of that name."""
    assert model_folder("loose.txt", root=several) == several / "loose.txt"
    with pytest.raises(ModelNotFound, match=r"^There is no model loose\.txt\. The model folder"):
        registered_model(several, "loose.txt")


@pytest.mark.parametrize(
    ("version", "folder"), [(None, "7"), (7, "7"), ("7", "7"), ("007", "007"), ("07", "7")]
)
def test_a_version_with_leading_zeros(
    version: int | str | None, folder: str, tmp_path: Path
) -> None:
    """It is a number; of two that are equal the one that is written so."""
    root = touch(tmp_path, "iris/007/m", "iris/7/m", "iris/6/m")
    assert model_folder("iris", version, root=root) == root / "iris" / folder


# --- model_path: which model ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version", "path"),
    [
        ("iris", None, "iris/10/iris.pkl"),
        ("iris", "2", "iris/2/iris.pkl"),
        ("digits", None, "digits/3/saved"),
        ("pair", None, "pair/1"),
        ("loose.txt", None, "loose.txt"),
    ],
)
def test_a_model_of_several(name: str, version: int | str | None, path: str, several: Path) -> None:
    """The highest version unless one is named; its only file or folder, else its folder."""
    assert model_path(name, version, root=several) == several / path


def test_the_only_model(one: Path, tmp_path: Path) -> None:
    """It need not be named; of one name with two versions the higher one is meant."""
    for name, version in ((None, None), ("iris", 7), (None, "7")):
        assert model_path(name, version, root=one) == one / "iris.pkl"
    assert model_path(file="iris.pkl", root=one) == one / "iris.pkl"
    root = touch(tmp_path / "two", "iris/9/m", "iris/10/m")
    assert model_path(root=root) == root / "iris/10/m"
    assert model_path(version=9, root=root) == root / "iris/9/m"


def test_a_plain_folder_is_one_model(plain: Path) -> None:
    """Without a name, or by its own; another name in it is a file or folder of it."""
    assert model_path(root=plain) == model_path("export", root=plain) == plain
    assert model_path("model.pkl", root=plain) == plain / "model.pkl"
    assert model_path("data", root=plain) == plain / "data/labels.txt"
    assert model_path(file="data/labels.txt", root=plain) == plain / "data/labels.txt"


def test_a_model_that_is_a_file(tmp_path: Path) -> None:
    """AZUREML_MODEL_DIR may name the file itself."""
    root = touch(tmp_path, "model.onnx") / "model.onnx"
    assert model_path(root=root) == root


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (["m/1/only.pkl"], "m/1/only.pkl"),
        (["m/1/folder/a", "m/1/folder/b"], "m/1/folder"),
        (["m/1/a", "m/1/b"], "m/1"),
        (["m/1/a", "m/1/.cache/x"], "m/1/a"),
        (["m/1/"], "m/1"),
    ],
)
def test_the_only_entry_or_the_folder(files: list[str], path: str, tmp_path: Path) -> None:
    """What starts with a dot is not an entry; an empty folder is itself."""
    root = touch(tmp_path, *files)
    assert model_path("m", root=root) == root / path


# --- model_path: which file -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "path"),
    [
        ("pair", "b.onnx", "pair/1/b.onnx"),
        ("digits", "saved/labels.txt", "digits/3/saved/labels.txt"),
        ("digits", "labels.txt", "digits/3/saved/labels.txt"),
    ],
)
def test_a_file_in_a_model(name: str, file: str, path: str, several: Path) -> None:
    """Relative to the model's folder."""
    assert model_path(name, file=file, root=several) == several / path


# --- model_path: which root -----------------------------------------------------------------------


def test_the_folder_of_the_runtime(one: Path, plain: Path) -> None:
    """use_model_dir() sets it, as text or path; root= wins over it. Without one it is said how."""
    with pytest.raises(ModelNotFound) as caught:
        model_path("iris")
    assert str(caught.value) == (
        "The model folder is not known: set AZUREML_MODEL_DIR (--model-dir), or pass root=."
    )
    models.use_model_dir(str(one))
    assert model_path() == one / "iris.pkl"
    models.use_model_dir(plain)
    assert model_path(root=str(one)) == one / "iris.pkl"
    assert model_path() == plain


def test_a_relative_folder_stays_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 44: passed through untouched."""
    touch(tmp_path, "models/iris/1/m.pkl")
    monkeypatch.chdir(tmp_path)
    assert model_path("iris", root="models") == Path("models/iris/1/m.pkl")


# --- model_path: what is not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        (None, None, "Several models are registered, name one of: digits, iris, pair."),
        ("iris", 3, "There is no model iris version 3. It has version 1, 2, 10."),
        ("iris", "1 ", "There is no model iris version 1 . It has version 1, 2, 10."),
        ("irs", None, "There is no model irs. Did you mean iris?"),
        ("xyz", None, "There is no model xyz."),
    ],
)
def test_no_such_model(
    name: str | None, version: int | str | None, message: str, several: Path
) -> None:
    """What there is instead: near names, the versions, and the models that there are."""
    with pytest.raises(ModelNotFound) as caught:
        model_path(name, version, root=several)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{message} The model folder is {several}:"
    assert rest == ["digits:3", "iris:1", "iris:2", "iris:10", "pair:1"]


def test_a_name_in_a_plain_folder_that_is_not_there(plain: Path) -> None:
    """The folder's content is shown, or that there is none; it has no versions."""
    with pytest.raises(ModelNotFound, match=r"^There is no version 1: this folder holds no regist"):
        model_path(version=1, root=plain)
    missing = plain / "missing"
    with pytest.raises(ModelNotFound, match=rf"folder is {missing}:\n{missing} does not exist$"):
        model_path("iris", root=missing)
    with pytest.raises(ModelNotFound) as caught:
        model_path("nope", root=plain)
    assert str(caught.value).splitlines() == [
        f"There is no model nope. The model folder is {plain}:",
        "export/",
        "    data/",
        "        labels.txt",
        "    model.pkl",
    ]


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("label.txt", " Did you mean saved/labels.txt?"),
        ("other/weights.bin", " Did you mean more/weights.bin or saved/weights.bin?"),
        ("xyz", ""),
    ],
)
def test_no_such_file(file: str, hint: str, several: Path) -> None:
    """Files of that name elsewhere, files of nearly that name, and the model's content."""
    touch(several / "digits/3", "more/weights.bin")
    with pytest.raises(ModelNotFound) as caught:
        model_path("digits", file=file, root=several)
    assert str(caught.value).splitlines() == [
        f"There is no {file} in {several / 'digits/3'}.{hint}",
        "3/",
        "    more/",
        "        weights.bin",
        "    saved/",
        "        labels.txt",
        "        weights.bin",
    ]


# --- the tree -------------------------------------------------------------------------------------


def test_the_tree_is_indented_and_sorted(tmp_path: Path) -> None:
    """Folders end in a slash."""
    root = touch(tmp_path / "m", "b.txt", "a/z", "a/y/x", "empty/")
    assert tree(root) == [
        "m/",
        "    a/",
        "        y/",
        "            x",
        "        z",
        "    b.txt",
        "    empty/",
    ]


@pytest.mark.keep
@pytest.mark.parametrize(("files", "lines"), [(199, 200), (200, 201)])
def test_the_tree_is_cut_at_200_lines(files: int, lines: int, tmp_path: Path) -> None:
    """Row 63: 200 lines at most, and one that says that it was cut."""
    root = touch(tmp_path / "m", *(f"{number:04d}" for number in range(files)))
    found = tree(root)
    assert len(found) == lines
    assert found[:2] == ["m/", "    0000"]
    cut = files > 199
    last = "Output Truncated. First 200 lines shown." if cut else f"    {files - 1:04d}"
    assert found[-1] == last


def test_a_tree_that_leads_into_itself_ends(tmp_path: Path) -> None:
    """A link to a folder above it."""
    root = touch(tmp_path / "m", "a/file")
    (root / "a" / "again").symlink_to(root)
    assert len(tree(root)) <= 201


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason stands where its content would."""
    root = touch(tmp_path / "m", "a/file", "b")

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return iter([root / "b", root / "a"])

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert tree(root) == ["m/", "    a/", "        (Permission denied)", "    b"]


def test_a_file_that_lies_there_unregistered_is_told_how_to_be_one(tmp_path: Path) -> None:
    """The message has the layout and the command."""
    (tmp_path / "x.pkl").touch()
    with pytest.raises(ModelNotFound) as caught:
        model_path("x", root=tmp_path)
    assert str(caught.value).startswith(
        "There is no model x. x.pkl lies there, but not as a registered model, whose layout is "
        f"azureml-models/x/1/x.pkl: scoring-runtime models register -n x -p {tmp_path / 'x.pkl'}"
    )
