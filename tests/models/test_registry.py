"""The registry folder: registering, listing and deleting models, at once and when killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.errors import ModelDamaged, ModelNotFound, RegistrationError
from scoring_runtime.models import manifest
from scoring_runtime.models.folder import RegisteredModel, model_path
from scoring_runtime.models.manifest import METADATA_FILE, FileDigest, Manifest, notes_file, read
from scoring_runtime.models.registry import (
    Record,
    check,
    delete,
    details,
    listing,
    register,
    to_delete,
)


def shape(folder: Path) -> list[str]:
    """Every file and folder below, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def beside(root: Path) -> Path:
    """Where the registry notes its models."""
    return root.with_name(f"{root.name}.scoring")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- registering ----------------------------------------------------------------------------------


def test_a_file(root: Path, model: Path) -> None:
    """It stands below the version under its own name, as in images."""
    record = register(root, "iris", model)
    assert (record.name, record.version, record.id) == ("iris", 1, "iris:1")
    assert record.path == root / "iris/1"
    assert shape(root) == ["iris", "iris/1", "iris/1/model.pkl"]
    assert shape(beside(root)) == ["iris", "iris/1", "iris/1.json"]
    assert model_path("iris", root=root) == root / "iris/1/model.pkl"
    model.write_bytes(b"another!")  # the registry has a copy, neither a link nor the same file
    assert (root / "iris/1/model.pkl").read_bytes() == b"a pickle"
    check(record.path)


def test_a_folder(root: Path, saved: Path) -> None:
    """The folder itself stands below the version, with all that is in it."""
    register(root, "digits", saved)
    files = ["saved/labels.txt", "saved/variables", "saved/variables/weights.bin"]
    assert shape(root / "digits/1") == ["saved", *files]
    assert model_path("digits", root=root) == root / "digits/1/saved"
    check(root / "digits/1")


def test_a_folder_named_by_dots(root: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.`` and ``..`` stand for the folder's own name, as does a path that ends in a slash."""
    monkeypatch.chdir(saved / "variables")
    names = []
    for path in (".", "..", f"{saved}/"):
        names.append(model_path("m", register(root, "m", path).version, root=root).name)
    assert names == ["variables", "saved", "saved"]


def test_the_metadata(root: Path, saved: Path) -> None:
    """Everything that was said and found out, in the record and in the file."""
    before = datetime.now(UTC).replace(microsecond=0)
    said: dict[str, Any] = {
        "description": "Digits", "tags": {"stage": "test"}, "properties": {"area": "vision"},
        "framework": "TensorFlow", "framework_version": "2.1",
    }  # fmt: skip
    record = register(root, "digits", saved, **said)
    created = datetime.fromisoformat(record.manifest.created)
    assert created.utcoffset() == timedelta(0)
    assert before <= created <= datetime.now(UTC)
    files = {
        "saved/labels.txt": FileDigest(sha256(b"labels"), 6),
        "saved/variables/weights.bin": FileDigest(sha256(b"weights"), 7),
    }
    assert record.manifest == Manifest(
        **said, created=record.manifest.created, kind="unknown", libraries={}, files=files
    )
    document = json.loads(notes_file(record.path).read_bytes())
    assert (document["name"], document["version"]) == ("digits", 1)
    assert details(root, "digits") == record
    assert listing(root) == [record]


def test_others_can_read_what_was_registered(root: Path, saved: Path) -> None:
    """Images run as another user: folders have the usual mode, files that of their source."""
    (saved / "labels.txt").chmod(0o640)
    umask = os.umask(0o022)
    try:
        register(root, "m", saved)
    finally:
        os.umask(umask)
    modes = {
        name: (root / "m/1" / name).stat().st_mode & 0o777
        for name in (".", "saved", "saved/labels.txt")
    }
    assert modes == {".": 0o755, "saved": 0o755, "saved/labels.txt": 0o640}
    assert notes_file(root / "m/1").stat().st_mode & 0o777 == 0o644


# --- links ----------------------------------------------------------------------------------------


def test_links_within_the_folder_are_followed(root: Path, saved: Path) -> None:
    """To files and to folders; the copies are no links."""
    (saved / "latest").symlink_to("variables")
    (saved / "words.txt").symlink_to(saved / "labels.txt")
    register(root, "m", saved)
    folder = root / "m/1/saved"
    assert (folder / "latest/weights.bin").read_bytes() == b"weights"
    assert (folder / "words.txt").read_bytes() == b"labels"
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


def test_a_model_that_is_a_link_itself(root: Path, model: Path, saved: Path) -> None:
    """Whoever names it means what it leads to; it keeps the link's name."""
    (model.parent / "latest.pkl").symlink_to(model)
    (model.parent / "latest").symlink_to(saved)
    register(root, "m", model.parent / "latest.pkl")
    register(root, "m", model.parent / "latest")
    assert (root / "m/1/latest.pkl").read_bytes() == b"a pickle"
    assert (root / "m/2/latest/labels.txt").read_bytes() == b"labels"
    assert not (root / "m/2/latest").is_symlink()


def test_a_link_that_is_refused(root: Path, saved: Path) -> None:
    """It is named; nothing is registered. Which are refused is tested with the files below."""
    link = saved / "variables" / "link"
    for target, problem in {
        "/": f"The link {link} leads out of {saved}, to /.",
        "nothing": f"{saved} cannot be registered: {link} is a link to nothing.",
    }.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert refused(root, saved) == problem
    assert not root.exists()


# --- what is refused ------------------------------------------------------------------------------

GOOD = ["A-b_c.d", "_x", "7x", "1.0", "a" * 255, "a..b", "My  model 1"]
BAD = [
    "", "..", ".hidden", "a/b", "a\\b", "a ", " a", "a\n", "007", "-a", "ä", "٣", "a\0", "a" * 256
]  # fmt: skip


def test_names_that_are_allowed(root: Path, model: Path) -> None:
    """They are found again."""
    for name in GOOD:
        register(root, name, model)
        assert model_path(name, root=root) == root / name / "1/model.pkl"


def test_names_that_are_refused(root: Path, model: Path) -> None:
    """The message says what is allowed; nothing is made, here or elsewhere."""
    before = shape(root.parent)
    for name in BAD:
        with pytest.raises(RegistrationError) as caught:
            register(root, name, model)
        assert str(caught.value) == (
            f"{name!r} is not a name for a model: allowed are at most 255 letters (a-z, A-Z), "
            "digits, '-', '_' and '.', the first a letter, digit or '_', spaces between them, and "
            "not digits alone."
        )
    assert shape(root.parent) == before


def refused(root: Path, path: str | Path) -> str:
    """What registering ``path`` says."""
    with pytest.raises(RegistrationError) as caught:
        register(root, "m", path)
    return str(caught.value)


def test_what_is_no_model(root: Path, tmp_path: Path) -> None:
    """Nothing, a folder of folders, and a file that model_path would pass over."""
    (tmp_path / "empty/in/it").mkdir(parents=True)
    (tmp_path / ".model.pkl").touch()
    hidden = "its name has to begin with something but a dot, or it would not be found again."
    for name, problem in {
        "nope.pkl": "it does not exist.",
        "empty": "it holds no file.",
        ".model.pkl": hidden,
    }.items():
        path = tmp_path / name
        assert refused(root, path) == f"{path} cannot be registered: {problem}"
    assert not root.exists()


def test_a_socket(root: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file nor a folder, by itself or in one."""
    monkeypatch.chdir(saved)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        problem = f"{saved}/socket is neither a file nor a folder."
        assert refused(root, saved) == f"{saved} cannot be registered: {problem}"
        assert refused(root, "socket") == f"{saved}/socket cannot be registered: {problem}"


@pytest.mark.parametrize("inside", ["a/b/azureml-models", "."])
def test_a_folder_that_holds_the_registry(inside: str, saved: Path) -> None:
    """It would be copied into itself."""
    root = saved / inside
    assert refused(root, saved) == f"{saved} cannot be registered: it holds the registry {root}."
    assert refused(root, "/") == f"/ cannot be registered: it holds the registry {root}."


def test_a_registry_that_is_one_version(root: Path, model: Path) -> None:
    """The message names the folder that was meant; deleting says the same."""
    register(root, "iris", model)
    folder = root / "iris/1"
    expected = (
        f"{folder} is one version of a model, not a registry: name the folder that holds the "
        f"models, such as {root}."
    )
    assert refused(folder, model) == expected
    with pytest.raises(RegistrationError) as caught:
        delete(folder, "iris")
    assert str(caught.value) == expected


def test_a_registry_that_cannot_be_written(root: Path, model: Path) -> None:
    """What the file system says, about which file; nothing half-made stays."""
    root.touch()
    for folder, problem in {root: "File exists", root / "below/it": "Not a directory"}.items():
        message = refused(folder, model)
        assert re.fullmatch(rf"m cannot be registered in {folder}: {root}\S*: {problem}\.", message)
    assert [path.name for path in root.parent.rglob(".tmp-*")] == []


FILL_THE_DISK = """
import resource, sys
from scoring_runtime.errors import RegistrationError
from scoring_runtime.models.registry import register
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    register(sys.argv[1], "m", sys.argv[2])
except RegistrationError as error:
    print(error)
"""


def test_a_disk_that_is_full(root: Path, saved: Path) -> None:
    """A file that cannot be written to its end is an error; nothing half-made stays."""
    (saved / "big.bin").write_bytes(bytes(3 << 20))
    command = [sys.executable, "-c", FILL_THE_DISK, str(root), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == f"m cannot be registered in {root}: File too large.\n"
    assert shape(root) == []


# --- versions -------------------------------------------------------------------------------------


def test_versions_count_up(root: Path, model: Path, saved: Path) -> None:
    """Each model by itself, numbers as numbers."""
    assert [register(root, "a", model).version for _ in range(11)] == list(range(1, 12))
    assert register(root, "b", saved).version == 1
    assert details(root, "a").version == 11
    assert [record.id for record in listing(root)] == [f"a:{n}" for n in range(1, 12)] + ["b:1"]


@pytest.mark.parametrize(
    ("there", "expected"),
    [(["007/"], 8), (["2/", "v9/", "notes.txt"], 3), (["5"], 6), ([".9/"], 1)],
)
def test_versions_made_by_hand_are_counted(
    there: list[str], expected: int, root: Path, model: Path
) -> None:
    """Whatever is called a number, empty folders and files too, is not taken again."""
    for name in there:
        path = root / "iris" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    assert register(root, "iris", model).version == expected
    assert shape(root / "iris" / str(expected)) == ["model.pkl"]


def test_a_registry_of_an_earlier_release_goes_on(root: Path, model: Path) -> None:
    """Its versions and what it noted of them count; what is new stands beside it."""
    (root / "iris/2").mkdir(parents=True)
    (root / "iris/2/model.pkl").write_bytes(b"a pickle")
    old = {
        "description": "old",
        "files": {"model.pkl": {"sha256": sha256(b"a pickle"), "bytes": 8}},
    }
    (root / "iris/2" / METADATA_FILE).write_text(json.dumps(old))
    (root / ".versions/iris").mkdir(parents=True)
    (root / ".versions/iris/4").touch()
    assert details(root, "iris").manifest.description == "old"
    assert register(root, "iris", model).version == 5
    (root / "iris/2/model.pkl").write_bytes(b"another!")
    with pytest.raises(ModelDamaged):
        check(root / "iris/2")
    delete(root, "iris", 2)
    assert shape(root / "iris") == ["5", "5/model.pkl"]


# --- listing --------------------------------------------------------------------------------------


def test_models_without_metadata_are_listed(root: Path) -> None:
    """Those that somebody copied there; the kind is told by the files."""
    (root / "byhand/3").mkdir(parents=True)
    (root / "byhand/3/model.onnx").touch()
    expected = Record("byhand", 3, root / "byhand/3", Manifest(kind="onnx"))
    assert listing(root) == [expected]
    assert details(root, "byhand") == expected
    document = expected.document()
    assert (document["id"], document["path"]) == ("byhand:3", str(root / "byhand/3"))
    assert (document["kind"], document["tags"], document["created"]) == ("onnx", {}, "")


def test_damaged_metadata_do_not_hide_the_others(root: Path, model: Path) -> None:
    """The list says what is wrong with one of them; its details are an error; it can be deleted."""
    register(root, "good", model)
    register(root, "bad", model)
    notes_file(root / "bad/1").write_text("{")
    bad, good = listing(root)
    assert (good.id, good.damage) == ("good:1", "")
    assert bad == Record("bad", 1, root / "bad/1", Manifest(kind="scikit-learn"), bad.damage)
    assert bad.damage.startswith(f"{root}.scoring/bad/1.json is not JSON: ")
    assert bad.document()["damage"] == bad.damage
    with pytest.raises(ModelDamaged, match=f"^{re.escape(bad.damage)}$"):
        details(root, "bad")
    assert [each.name for each in delete(root, "bad")] == ["bad"]


# --- deleting -------------------------------------------------------------------------------------


@pytest.fixture
def three(root: Path, model: Path) -> Path:
    """A registry with iris:1, iris:2, iris:3 and other:1."""
    for name in ("iris", "iris", "iris", "other"):
        register(root, name, model)
    return root


def test_one_version(three: Path) -> None:
    """The others stay."""
    assert delete(three, "iris", 2) == [RegisteredModel("iris", 2, three / "iris/2")]
    assert [record.id for record in listing(three)] == ["iris:1", "iris:3", "other:1"]
    assert not list(three.parent.rglob(".tmp-*"))


def test_all_versions(three: Path) -> None:
    """The name is gone too."""
    assert [each.version for each in delete(three, "iris", all_versions=True)] == [1, 2, 3]
    assert [record.id for record in listing(three)] == ["other:1"]
    assert not (three / "iris").exists()
    with pytest.raises(ModelNotFound, match=r"^There is no model iris\. The model folder is"):
        model_path("iris", root=three)


def test_a_name_with_several_versions_is_not_enough(three: Path) -> None:
    """Which one is meant has to be said; of one there is nothing to confuse it with."""
    for function in (delete, to_delete):
        with pytest.raises(RegistrationError) as caught:
            function(three, "iris")
        assert str(caught.value) == (
            "iris has the versions 1, 2, 3: say which one to delete, or that all are meant."
        )
    assert to_delete(three, "other") == [RegisteredModel("other", 1, three / "other/1")]
    assert len(listing(three)) == 4
    assert delete(three, "other") == [RegisteredModel("other", 1, three / "other/1")]
    assert not (three / "other").exists()


def test_a_deleted_version_is_not_given_again(three: Path, model: Path) -> None:
    """Whoever noted iris:3 will not get another model under that name."""
    delete(three, "iris", 3)
    delete(three, "iris", 1)
    assert register(three, "iris", model).version == 4
    delete(three, "iris", all_versions=True)
    assert register(three, "iris", model).version == 5


def test_a_version_that_is_a_link(root: Path, saved: Path) -> None:
    """The link goes, what it leads to stays."""
    (root / "iris").mkdir(parents=True)
    (root / "iris/1").symlink_to(saved)
    delete(root, "iris", 1)
    assert not (root / "iris").exists()
    assert not list(root.parent.rglob(".tmp-*"))
    assert (saved / "labels.txt").read_bytes() == b"labels"


# --- many at once, and killed ---------------------------------------------------------------------

REGISTER_FIVE = """
import sys
from scoring_runtime.models.registry import register
root, path = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
print([register(root, "iris", path, tags={"from": path}).version for _ in range(5)])
"""


def start(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A Python process that runs ``code``; it has said that it is ready, and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_processes_that_register_at_once(root: Path, tmp_path: Path) -> None:
    """Each gets versions of its own, and whoever looks meanwhile sees whole ones only."""
    contents = {}
    for number in range(4):
        path = tmp_path / f"from-{number}" / "model.pkl"
        path.parent.mkdir()
        contents[str(path)] = bytes([number]) * 300_000
        path.write_bytes(contents[str(path)])
    processes = [start(REGISTER_FIVE, root, path) for path in contents]
    go(processes)
    while any(process.poll() is None for process in processes):
        for record in listing(root):
            check(record.path)
            assert record.manifest.files.keys() == {"model.pkl"}
    given = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(number for versions in given for number in versions) == list(range(1, 21))
    for versions, (source, content) in zip(given, contents.items(), strict=True):
        for number in versions:
            assert details(root, "iris", number).manifest.tags == {"from": source}
            assert (root / f"iris/{number}/model.pkl").read_bytes() == content
    assert os.listdir(root) == os.listdir(beside(root)) == ["iris"]


COME_AND_GO = """
import random, sys
from scoring_runtime.errors import ModelNotFound, RegistrationError
from scoring_runtime.models.registry import delete, register
root, path = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
versions = []
for _ in range(30):
    versions.append(register(root, "iris", path).version)
    try:
        delete(root, "iris", all_versions=True)
    except ModelNotFound:
        pass
    except RegistrationError as error:
        assert "No such file" in str(error), error
print(versions)
"""


def test_processes_that_register_and_delete_at_once(root: Path, model: Path) -> None:
    """Every registration succeeds, and no version is given twice."""
    processes = [start(COME_AND_GO, root, model) for _ in range(3)]
    go(processes)
    given = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    numbers = [number for versions in given for number in versions]
    assert len(numbers) == 90
    assert len(set(numbers)) == 90


REGISTER_HALF = """
import sys, time
from scoring_runtime.models.registry import register
def stop(done, total):
    print("ready", flush=True)
    time.sleep(600)
register(sys.argv[1], "iris", sys.argv[2], progress=stop)
"""


def age(folder: Path, hours: float) -> None:
    """Make everything in the folder as old as this."""
    moment = time.time() - hours * 3600
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (moment, moment))


def test_a_registration_that_is_killed(root: Path, model: Path) -> None:
    """Nothing of it is seen, the next one gets its version, and one a day later clears it away."""
    big = model.with_name("big.pkl")
    big.write_bytes(bytes(5 << 20))
    process = start(REGISTER_HALF, root, big)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert os.listdir(root) == []
    [left] = beside(root).iterdir()
    assert left.name.startswith(".tmp-")
    assert shape(left) == ["big.pkl"]
    assert listing(root) == []
    assert register(root, "iris", model).version == 1
    assert left.exists()
    age(left, hours=23)
    register(root, "other", model)
    assert left.exists()
    age(left, hours=25)
    register(root, "other", model)
    assert sorted(path.name for path in beside(root).iterdir()) == ["iris", "other"]


def test_a_registration_that_still_copies_is_left_alone(root: Path, model: Path) -> None:
    """Its folder is old, a file in it is not; other folders are never cleared away."""
    copying = beside(root) / ".tmp-1"
    (copying / "saved").mkdir(parents=True)
    (copying / "saved/weights.bin").touch()
    age(copying, hours=25)
    os.utime(copying / "saved/weights.bin")
    (root / "tmp-1").mkdir(parents=True)  # not what a registration has made
    age(root / "tmp-1", hours=1000)
    register(root, "iris", model)
    assert (copying / "saved/weights.bin").exists()
    assert (root / "tmp-1").is_dir()


def test_a_version_that_somebody_makes_by_hand_first(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice of the number and the renaming: the next is taken; the metadata say so."""
    first = manifest.write
    taken = ["1", "2"]

    def late(folder: Path, *noted: Any) -> None:
        if taken:
            (root / "iris" / taken.pop(0) / "theirs").mkdir(parents=True)
        first(folder, *noted)

    monkeypatch.setattr(manifest, "write", late)
    assert register(root, "iris", model).version == 3
    assert json.loads(notes_file(root / "iris/3").read_bytes())["version"] == 3
    assert shape(root / "iris/1") == ["theirs"]
    assert read(root / "iris/1") is None


def test_a_name_that_is_deleted_while_it_gets_a_version(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes between being made and the renaming into it: it is made again."""
    first = Path.rename
    tries = []

    def late(path: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) == 1:
            target.parent.rmdir()
        return first(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert register(root, "iris", model).version == 1
    assert tries == [root / "iris/1"] * 2
    assert shape(root / "iris/1") == ["model.pkl"]
