"""Which version is in force: at the start, after a change, and what is noted of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scoring_runtime.errors import ModelDamaged, ModelNotFound
from scoring_runtime.models import folder as models
from scoring_runtime.models import in_force
from scoring_runtime.models.in_force import Choice


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """``a`` with the versions 1, 2 and 10, ``b`` with 1."""
    root = tmp_path / "azureml-models"
    for place in ("a/1", "a/2", "a/10", "b/1"):
        (root / place).mkdir(parents=True)
        (root / place / "model.txt").write_text(place)
    return root


def named(found: list[models.RegisteredModel]) -> list[str]:
    return [f"{each.name}:{each.version}" for each in found]


def test_without_a_note_all_are_served_and_the_highest_is_in_force(registry):
    assert in_force.at_start(registry) == {"a": Choice((1, 2, 10)), "b": Choice((1,))}
    assert named(in_force.served(registry, {})) == ["a:1", "a:2", "a:10", "b:1"]
    assert in_force.at_start(registry / "a" / "2") == {"a": Choice((2,))}
    assert in_force.at_start(registry / "a" / "2" / "nothing") == {}
    assert in_force.at_start("") == {}


def test_the_one_in_force_comes_last(registry):
    """So that whoever takes the last takes it: the default, a name alone, the metrics."""
    chosen = {"a": (10, 1), "b": (1,)}
    assert named(in_force.served(registry, chosen)) == ["a:10", "a:1", "b:1"]
    assert named(in_force.served(registry, {"a": (2,), "b": ()})) == ["a:2"]
    assert named(in_force.served(registry / "a" / "1", {"a": (2,)})) == ["a:1"]


def test_what_is_noted_counts_as_far_as_it_is_there(registry):
    in_force.write(registry, {"a": Choice((1, 7, 2), 10, True), "b": Choice((5,))})
    assert in_force.read(registry) == {"a": Choice((1, 7, 2), 10, True), "b": Choice((5,))}
    assert in_force.at_start(registry) == {"a": Choice((1, 2), 10, True), "b": Choice((1,))}
    assert named(in_force.served(registry, {})) == ["a:1", "a:2"]
    folder = str(registry / "a" / "10")
    chosen = in_force.at_start(folder)
    assert in_force.folder_in_force(folder, chosen) == str(registry / "a" / "2")
    assert in_force.folder_in_force(str(registry), chosen) == str(registry)


def test_nothing_of_it_lies_among_the_models(registry):
    in_force.write(registry, {"a": Choice((1,))})
    assert {each.name for each in registry.iterdir()} == {"a", "b"}
    beside = {each.name for each in registry.parent.iterdir()}
    assert beside == {"azureml-models.scoring", "azureml-models"}
    in_force.write(registry, {"b": Choice((1,))})  # what is noted of others stays
    assert in_force.read(registry).keys() == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"a": 1}', '{"a": {"versions": 1, "before": 0, "pinned": false}}',
        '{"a": {"versions": ["2"], "before": 0, "pinned": false}}', '{"a": {"versions": [-2]}}',
        '{"a": {"versions": [true], "before": 0, "pinned": false}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_read_says_where_it_is(registry, text):
    in_force.write(registry, {})
    path = registry.parent / "azureml-models.scoring" / ".in-force.json"
    path.write_text(text)
    with pytest.raises(ModelDamaged, match=r"\.in-force\.json, which says what version"):
        in_force.at_start(registry)


def test_a_reload_takes_the_newest_which_takes_the_place_of_the_last(registry):
    current = {"a": Choice((1, 2)), "b": Choice((1,))}
    found = in_force.reloaded(str(registry), current)
    assert found == {"a": Choice((1, 10), 2), "b": Choice((1,))}
    (registry / "c" / "4").mkdir(parents=True)
    assert in_force.reloaded(str(registry), found)["c"] == Choice((4,))
    one = in_force.reloaded(str(registry / "a" / "1"), {"a": Choice((1,))})
    assert one == {"a": Choice((10,), 1)}


def test_what_is_pinned_stays_and_what_is_unloaded_too(registry):
    in_force.write(registry, {"a": Choice((2,), 10, True)})
    current = {"a": Choice((1, 2, 10)), "b": Choice(())}
    found = in_force.reloaded(str(registry), current)
    assert found == {"a": Choice((1, 2), 10, True), "b": Choice(())}
    newest = in_force.used(str(registry), found, "a", "")
    assert newest["a"] == Choice((1, 10), 2, False)
    assert in_force.used(str(registry), found, "b", "")["b"] == Choice((1,))


def test_back_and_forth(registry):
    """The version before; it is pinned, and so is the one after it when that is gone back to."""
    current = in_force.used(str(registry), in_force.at_start(registry / "a" / "1"), "a", "2")
    assert current == {"a": Choice((2,), 1, True)}
    back = in_force.rolled_back(str(registry), current, "a")
    assert back == {"a": Choice((1,), 2, True)}
    assert in_force.rolled_back(str(registry), back, "a") == current


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda root: in_force.used(root, {}, "z", ""), "There is no model 'z'. There are: a, b."),
        (lambda root: in_force.used(root, {}, "a", "3"), "no version '3' of a. It has: 1, 2, 10."),
        (lambda root: in_force.used(root, {}, "a", "x"), "no version 'x' of a. It has: 1, 2, 10."),
        (lambda root: in_force.rolled_back(root, {"a": Choice((1,))}, "a"), "No version of a was"),
        (lambda root: in_force.rolled_back(root, {"a": Choice((1,), 9)}, "a"), "9 of a, in force"),
        (lambda root: in_force.rolled_back(f"{root}/a/1/x", {}, "a"), "is no registry of models"),
        (lambda root: in_force.unloaded({"a": Choice((1,))}, "a"), "a is the only model"),
        (lambda root: in_force.unloaded({"a": Choice((1,))}, "b"), "no model 'b' that is served"),
    ],
)
def test_what_cannot_be_says_why(registry, ask, said):
    with pytest.raises(ModelNotFound, match=said.replace(".", r"\.")):
        ask(str(registry))


def test_a_script_finds_the_version_in_force(registry):
    """Where it names none."""
    models.use_model_dir(registry, {"a": 2})
    try:
        assert models.model_path("a").read_text() == "a/2"
        assert models.model_path("a", 10).read_text() == "a/10"
        assert models.model_path("b").read_text() == "b/1"
        assert models.model_path("a", root=registry).read_text() == "a/10"
    finally:
        models.use_model_dir(None)


def test_a_change_of_a_file_is_seen(registry):
    """Of its content, its name, or a copy of it with the same content and times."""
    folders = [registry / "a" / "1", registry / "not there"]
    first = in_force.seen(folders, [])
    assert in_force.seen(folders, []) == first
    path = registry / "a" / "1" / "model.txt"
    path.write_text("other")
    assert in_force.seen(folders, []) != first
    code = registry.parent / "score.py"
    without = in_force.seen(folders, [registry.parent])
    code.write_text("")
    assert in_force.seen(folders, [registry.parent]) != without


def test_what_is_written_is_whole(registry):
    """A reader never sees a part of it, and no temporary file stays."""
    in_force.write(registry, {"a": Choice((1,), 2)})
    folder = registry.parent / "azureml-models.scoring"
    assert [each.name for each in folder.iterdir()] == [".in-force.json"]
    assert json.loads((folder / ".in-force.json").read_text()) == {
        "a": {"versions": [1], "before": 2, "pinned": False}
    }
