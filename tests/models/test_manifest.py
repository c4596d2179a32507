"""The metadata of a registered version, and the check of its files against them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring_runtime.errors import ModelDamaged, RegistrationError
from scoring_runtime.models import manifest
from scoring_runtime.models.manifest import (
    METADATA_FILE,
    FileDigest,
    Manifest,
    check,
    files_below,
    notes_file,
    read,
)

WEIGHTS = b"0123456789" * 1000


def digest(content: bytes) -> FileDigest:
    return FileDigest(hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version's folder: ``saved/weights.bin``, ``saved/labels.txt`` and their metadata."""
    folder = tmp_path / "models" / "iris" / "3"
    (folder / "saved").mkdir(parents=True)
    (folder / "saved/weights.bin").write_bytes(WEIGHTS)
    (folder / "saved/labels.txt").write_bytes(b"a\nb\n")
    files = {"saved/weights.bin": digest(WEIGHTS), "saved/labels.txt": digest(b"a\nb\n")}
    manifest.write(folder, "iris", 3, Manifest(files=files))
    return folder


# --- metadata -------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every field of it, also names that are not UTF-8."""
    noted = Manifest(
        description="Größe\n2",
        tags={"a": "1", "ä": ""},
        properties={"p": "q"},
        framework="ScikitLearn",
        framework_version="1.9",
        created="2026-01-02T03:04:05+00:00",
        kind="scikit-learn",
        libraries={"numpy": "2.4.6"},
        files={os.fsdecode(b"\xff.bin"): digest(b"x"), "a/b": digest(b"")},
    )
    manifest.write(tmp_path / "models/iris/3", "iris", 3, noted)
    assert read(tmp_path / "models/iris/3") == noted
    document = json.loads(notes_file(tmp_path / "models/iris/3").read_bytes())
    assert {"name": "iris", "version": 3, "sample": {}, "kind": "scikit-learn"}.items() <= (
        document.items()
    )
    assert document["files"]["a/b"] == {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}


@pytest.mark.parametrize("place", ["", ".", "../../../current", "../../../linked/iris/3"])
def test_nothing_of_ours_lies_in_a_model(
    place: str, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor among the models; the notes are found for relative paths and through links too."""
    root = version.parents[1]
    assert sorted(path.name for path in root.rglob("*")) == [
        "3", "iris", "labels.txt", "saved", "weights.bin"
    ]  # fmt: skip
    (root.parent / "current").symlink_to(version)
    (root.parent / "linked").symlink_to(root)
    monkeypatch.chdir(version)
    folder = Path(place) if place else version
    assert notes_file(folder) == root.parent / "models.scoring/iris/3.json"
    flip_a_bit(version)
    with pytest.raises(ModelDamaged, match="has changed"):
        check(folder)


@pytest.mark.parametrize("reason", ["ismount", "access"])
def test_where_nothing_can_stand_beside_a_registry(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point alone outlives a container: then its hidden folder has the notes."""
    (tmp_path / "models/iris/3").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda path: reason == "ismount")
        patch.setattr(os, "access", lambda path, mode: reason != "access")
        manifest.write(tmp_path / "models/iris/3", "iris", 3, Manifest(kind="onnx"))
    assert (tmp_path / "models/.scoring/iris/3.json").is_file()
    noted = read(tmp_path / "models/iris/3")  # also where it is mounted no more
    assert noted == Manifest(kind="onnx")


def test_without_metadata_nothing_is_known_and_nothing_is_checked(tmp_path: Path) -> None:
    """Folders that someone made by hand, folders that are not there, a model that is a file."""
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        assert read(place) is None
        check(place)


FILE = {"sha256": "00", "bytes": 1}
DAMAGED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
    "not UTF-8": (b'{"files": {"\xff": 1}}', "is not JSON: 'utf-8' codec can't decode byte 0xff"),
    "a list": ("[]", "is not a JSON object."),
    "no files": ("{}", 'has no "files" with the "sha256" and "bytes" of each.'),
    "a file without a digest": ('{"files": {"a": {"bytes": 1}}}', 'has no "files" with'),
    "a length that is true": (
        '{"files": {"a": {"sha256": "", "bytes": true}}}',
        'has no "files" with',
    ),
    "a description that is a number": (
        '{"description": 1, "files": {}}',
        'has a "description" that is not a text.',
    ),
    "a tag that is a number": (
        '{"tags": {"a": 1}, "files": {}}',
        'has "tags" that are not texts by name.',
    ),
    "libraries that are null": (
        '{"libraries": null, "files": {}}',
        'has "libraries" that are not texts by name.',
    ),
}


@pytest.mark.parametrize(("content", "problem"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_metadata(content: str | bytes, problem: str, tmp_path: Path) -> None:
    """The message names the file, what is wrong with it and what to do; the check says the same."""
    path = tmp_path / METADATA_FILE
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for function in (read, check):
        with pytest.raises(ModelDamaged) as caught:
            function(tmp_path)
        assert str(caught.value).startswith(f"{path} {problem}")
        assert str(caught.value).endswith(
            " Put it back or register the model again; without it nothing is compared."
        )


def test_metadata_by_hand_may_leave_out_all_but_the_files(tmp_path: Path) -> None:
    """What is unknown is passed over."""
    (tmp_path / METADATA_FILE).write_text('{"files": {}, "tags": {"a": "b"}, "more": 1}')
    assert read(tmp_path) == Manifest(tags={"a": "b"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["files", "tags", "description", "libraries", "kind", "created", "name"])
DIGESTS = st.fixed_dictionaries({"sha256": JSON | st.text(), "bytes": JSON | st.integers()})
DOCUMENTS = st.dictionaries(KEYS, JSON | st.dictionaries(st.text(max_size=3), DIGESTS))


@settings(deadline=None)
@given(content=DOCUMENTS.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50))
def test_any_metadata_is_read_or_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No content of the file is a crash, in reading as in checking."""
    folder = tmp_path_factory.getbasetemp() / "any-metadata"
    folder.mkdir(exist_ok=True)
    (folder / METADATA_FILE).write_bytes(content)
    try:
        noted = read(folder)
    except ModelDamaged as error:
        with pytest.raises(ModelDamaged, match=re.escape(str(error))):
            check(folder)
        return
    assert isinstance(noted, Manifest)
    if noted.files:
        with pytest.raises(ModelDamaged, match=r" is missing"):
            check(folder)
    else:
        check(folder)


# --- the check ------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "saved", "saved/labels.txt"])
def test_what_is_in_a_version_is_compared_with_it(below: str, version: Path) -> None:
    """The nearest folder with metadata is the version."""
    flip_a_bit(version)
    with pytest.raises(ModelDamaged, match=r"registered: saved/weights\.bin has changed\."):
        check(version / below)
    notes_file(version).unlink()
    check(version / below)


def test_a_registry_of_an_earlier_release(version: Path) -> None:
    """It has the notes in the version's folder: they are read and compared as before."""
    notes_file(version).rename(version / METADATA_FILE)
    check(version)
    flip_a_bit(version)
    with pytest.raises(ModelDamaged) as caught:
        check(version / "saved")
    assert str(caught.value).endswith(f"without {version / METADATA_FILE} nothing is compared.")


def flip_a_bit(folder: Path) -> None:
    content = bytearray(WEIGHTS)
    content[5000] ^= 1
    (folder / "saved/weights.bin").write_bytes(content)


def add(*names: str) -> Callable[[Path], None]:
    def touch(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    return touch


def removed(path: Path) -> Path:
    path.unlink()
    return path


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one bit": (flip_a_bit, "saved/weights.bin has changed"),
    "truncated": (
        lambda folder: os.truncate(folder / "saved/weights.bin", 9999),
        "saved/weights.bin has changed",
    ),
    "renamed": (
        lambda folder: (folder / "saved/labels.txt").rename(folder / "saved/l.txt"),
        "saved/labels.txt is missing, saved/l.txt was not registered",
    ),
    "another model beside it": (add("model.pkl"), "model.pkl was not registered"),
    "a folder in place of a file": (
        lambda folder: removed(folder / "saved/labels.txt").mkdir(),
        "saved/labels.txt is missing",
    ),
    "a link to nothing": (
        lambda folder: (folder / "saved/model.pkl").symlink_to("nothing"),
        "saved/model.pkl was not registered",
    ),
    "a file that became a link to nothing": (
        lambda folder: removed(folder / "saved/labels.txt").symlink_to("nothing"),
        "saved/labels.txt has changed",
    ),
}


@pytest.mark.parametrize(("change", "problem"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_named(change: Callable[[Path], Any], problem: str, version: Path) -> None:
    """The folder, each file and what became of it, and what to do."""
    change(version)
    with pytest.raises(ModelDamaged) as caught:
        check(version)
    assert str(caught.value) == (
        f"The model in {version} is not what was registered: {problem}. Put the files back or "
        f"register the model again; without {notes_file(version)} nothing is compared."
    )


def test_a_folder_that_cannot_be_read(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file system says is the problem."""

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ModelDamaged, match=rf": {version} cannot be read: Permission denied\. Put"):
        check(version)


def test_many_problems_are_counted(version: Path) -> None:
    """Ten are named."""
    add(*(f"extra-{number:02d}" for number in range(13)))(version)
    with pytest.raises(ModelDamaged) as caught:
        check(version)
    assert "extra-00 was not registered, extra-01" in str(caught.value)
    assert "extra-09 was not registered, and 3 more. Put" in str(caught.value)


@pytest.mark.parametrize("name", [".hidden", "saved/.cache/model.pkl", "saved/__pycache__/a.pyc"])
def test_what_may_be_added(name: str, version: Path) -> None:
    """Hidden files and folders, and what Python leaves behind when it imports a model's code."""
    add(name)(version)
    check(version)


def test_a_hidden_file_that_was_registered_is_compared(version: Path) -> None:
    """It is part of the model."""
    (version / ".vocabulary").write_bytes(b"x")
    manifest.write(version, "iris", 3, Manifest(files={".vocabulary": digest(b"y")}))
    with pytest.raises(ModelDamaged, match=r": saved/\S+ was not .*, \.vocabulary has changed\."):
        check(version)


def test_files_may_be_links_to_the_same_content(version: Path, tmp_path: Path) -> None:
    """As volumes have them, whose folders are links out of the model's."""
    (version / "saved").rename(tmp_path / "elsewhere")
    (version / "saved").symlink_to(tmp_path / "elsewhere")
    check(version)
    (tmp_path / "elsewhere/labels.txt").write_bytes(b"b\na\n")
    with pytest.raises(ModelDamaged, match=r"registered: saved/labels\.txt has changed\."):
        check(version)


def test_a_path_out_of_the_folder_is_missing(version: Path, tmp_path: Path) -> None:
    """Metadata cannot make the check read other files."""
    (tmp_path / "secret").write_bytes(b"x")
    paths = ["../../secret", str(tmp_path / "secret"), "saved/../saved/labels.txt"]
    manifest.write(version, "iris", 3, Manifest(files=dict.fromkeys(paths, digest(b"x"))))
    with pytest.raises(ModelDamaged) as caught:
        check(version)
    assert ", ".join(f"{path} is missing" for path in paths) in str(caught.value)


# --- the files ------------------------------------------------------------------------------------


def test_the_files_below_a_folder(tmp_path: Path) -> None:
    """By their paths with slashes; folders are no files, links inside are followed."""
    add("b/c/d", "a", "b/.hidden")(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "again").symlink_to("b/c")
    (tmp_path / "link").symlink_to("a")
    found = dict(files_below(tmp_path, RegistrationError, leave=False))
    assert found == {
        name: tmp_path / name for name in ("a", "again/d", "b/.hidden", "b/c/d", "link")
    }


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("..", "leads out of {root}, to {root.parent}."),
        ("../m2/file", "leads out of {root}, to {root.parent}/m2/file."),
        ("../nothing", "leads out of {root}, to {root.parent}/nothing."),
    ],
)
def test_links_that_cannot_be_followed(target: str, problem: str, tmp_path: Path) -> None:
    """Out of the folder, whatever is there."""
    root = tmp_path / "m"
    add("m/b/c", "m2/file")(tmp_path)
    (root / "a").symlink_to(target)
    with pytest.raises(RegistrationError) as caught:
        list(files_below(root, RegistrationError, leave=False))
    assert str(caught.value) == f"The link {root}/a {problem.format(root=root)}"


@pytest.mark.parametrize(("place", "target"), [("b/c/loop", ".."), ("b/x", "."), ("a", ".")])
def test_links_to_a_folder_on_the_way(place: str, target: str, tmp_path: Path) -> None:
    """Not only one that leads to the top is a circle."""
    add("b/c/file")(tmp_path)
    (tmp_path / place).symlink_to(target)
    for leave in (False, True):
        with pytest.raises(RegistrationError) as caught:
            list(files_below(tmp_path, RegistrationError, leave=leave))
        assert str(caught.value) == (
            f"The link {tmp_path / place} leads to a folder that it is in itself."
        )


@pytest.mark.parametrize("size", [0, 1 << 20, (1 << 20) + 1])
def test_files_are_copied_in_chunks(size: int, tmp_path: Path) -> None:
    """The copy, its digest, and the progress after each MiB."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "source").chmod(0o750)
    told: list[tuple[int, int]] = []
    copied = manifest.copy(
        [("to/copy", tmp_path / "source")], tmp_path, lambda *progress: told.append(progress)
    )
    assert copied == {"to/copy": digest(content)}
    assert (tmp_path / "to/copy").read_bytes() == content
    assert (tmp_path / "to/copy").stat().st_mode & 0o777 == 0o750
    ends = [*range(1 << 20, size, 1 << 20), size] if size else []
    assert told == [(end, size) for end in ends]
