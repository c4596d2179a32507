"""Golden samples: which files they are, and what a new version is refused for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from scoring_runtime.errors import ModelUnusable
from scoring_runtime.scoring import golden
from scoring_runtime.scoring.golden import Answer
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings

ECHO = """
import json
def init(): pass
def run(data):
    asked = json.loads(data)
    if asked.get("fails"):
        raise ValueError("cannot score that")
    return asked["answer"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    (tmp_path / "score.py").write_text(ECHO)
    return tmp_path


def settings_of(folder: Path, **more: str) -> Settings:
    return Settings.from_environ(
        {"AZUREML_ENTRY_SCRIPT": str(folder / "score.py"), "AML_APP_ROOT": str(folder), **more}
    )


def checked(folder: Path, old: golden.Answers = {}, **more: str) -> str:  # noqa: B006
    """What :func:`golden.check` says of a script that answers what it is sent."""

    async def check() -> str:
        runtime = build(settings_of(folder, **more))
        runtime.start()
        await runtime.started()
        try:
            return await golden.check(runtime, golden.unpacked(golden.packed(old)))
        finally:
            await runtime.stop()

    return asyncio.run(check())


def test_which_files_are_samples(folder):
    """Beside script and model, hidden and expected ones left out; of several models by name."""
    samples = folder / "samples"
    for name in ("b.json", "a.csv", ".hidden.json", "b.expected.json", "a.expected.txt"):
        (samples / name).write_text("1")
    (folder / "sample_input.json").write_text("1")
    model = folder / "model"
    (model / "inner" / "samples").mkdir(parents=True)
    (model / "inner" / "samples" / "c.npy").write_bytes(b"1")
    found = golden.samples(settings_of(folder, AZUREML_MODEL_DIR=str(model)))
    shown = [
        (str(each.path.relative_to(folder)), each.expected and each.expected.name, each.model)
        for each in found
    ]
    assert shown == [
        ("model/inner/samples/c.npy", None, ""),
        ("sample_input.json", None, ""),
        ("samples/a.csv", "a.expected.txt", ""),
        ("samples/b.json", "b.expected.json", ""),
    ]


def test_a_hundred_at_most(folder):
    for number in range(120):
        (folder / "samples" / f"{number}.json").write_text("{}")
    assert len(golden.samples(settings_of(folder))) == 100


NEAR = {
    "the same": (1, 1, "", True),
    "near what is expected": (1.0, 1.0000001, "", True),
    "too far from what is expected": (1.0, 1.001, "", False),
    "within the tolerance": (100.0, 104.0, "0.05", True),
    "beyond the tolerance": (100.0, 106.0, "0.05", False),
    "near nothing": (0.0, 0.04, "0.05", True),
    "to the bit": (0.1, 0.1, "0", True),
    "not to the bit": (0.1, 0.10000000000000002, "0", False),
    "whole or not": (1, 1.0, "", True),
    "another text": (["a", 1], ["b", 1], "1000", False),
    "a number is no text": ([1], ["1"], "1000", False),
    "true is no number": ([True], [1], "1000", False),
    "nothing is no number": ([None], [1.0], "1000", False),
    "longer": ([1, 2, 3], [1, 2], "1000", False),
    "deeper": ([[1, 2]], [1, 2], "1000", False),
    "another key": ({"a": 1}, {"b": 1}, "1000", False),
    "in another order": ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, "0", True),
}


@pytest.mark.parametrize(("given", "expected", "tolerance", "fits"), NEAR.values(), ids=NEAR)
def test_what_is_near_the_expected_answer(folder, given, expected, tolerance, fits):
    (folder / "samples" / "a.json").write_text(json.dumps({"answer": given}))
    (folder / "samples" / "a.expected.json").write_text(f"{json.dumps(expected)}\n")
    if fits:
        said = checked(folder, SCORING_RELOAD_TOLERANCE=tolerance)
        assert said.startswith("1 golden samples scored, 1 compared with the expected answer, 0")
    else:
        with pytest.raises(ModelUnusable, match=r"a\.json: the answer.* expected is "):
            checked(folder, SCORING_RELOAD_TOLERANCE=tolerance)


ALIKE = {
    "other numbers": ([1, {"a": 2.5}], [7, {"a": 100}], True),
    "other texts": (["setosa"], ["virginica"], True),
    "a missing value": ([None, 1], [1, None], True),
    "a text for a number": (["1"], [1], False),
    "a list for a number": ([[1]], [1], False),
    "longer": ([1, 2], [1], False),
    "another key": ({"a": 1}, {"b": 1}, False),
    "a list for an object": ([1], {"a": 1}, False),
}


@pytest.mark.parametrize(("given", "old", "fits"), ALIKE.values(), ids=ALIKE)
def test_only_the_form_of_the_old_answer_counts_without_a_tolerance(folder, given, old, fits):
    path = folder / "samples" / "a.json"
    path.write_text(json.dumps({"answer": given}))
    before = {str(path): Answer(200, json.dumps(old).encode())}
    if fits:
        assert checked(folder, before).endswith("1 with the old version's")
    else:
        with pytest.raises(ModelUnusable, match=r"a\.json: the answer"):
            checked(folder, before)
    if given != old:
        with pytest.raises(ModelUnusable, match=r"a\.json: the answer"):
            checked(folder, before, SCORING_RELOAD_TOLERANCE="0")


def test_a_sample_that_fails_says_why(folder):
    """Not one that the old version could not score either: to it that is no sample."""
    path = folder / "samples" / "a.json"
    path.write_text('{"fails": true}')
    for status in (400, 500):
        assert "0 with the old" in checked(folder, {str(path): Answer(status, b"")})
    assert "0 with the old" in checked(folder)
    with pytest.raises(ModelUnusable, match=r"a\.json: status 500: .*cannot score that"):
        checked(folder, {str(path): Answer(200, b"1")})


def test_what_is_no_json_is_compared_by_its_bytes(folder):
    path = folder / "samples" / "a.json"
    path.write_text('{"answer": "x"}')
    before = {str(path): Answer(200, b"<html>")}
    assert checked(folder, before)
    with pytest.raises(ModelUnusable, match="the bytes are others"):
        checked(folder, before, SCORING_RELOAD_TOLERANCE="1")


def test_the_first_few_of_many_are_shown(folder):
    for number in range(9):
        (folder / "samples" / f"{number}.json").write_text('{"answer": 1}')
        (folder / "samples" / f"{number}.expected.json").write_text("2")
    with pytest.raises(ModelUnusable, match="9 of 9 golden samples") as caught:
        checked(folder)
    assert len(str(caught.value).splitlines()) == 7
    assert str(caught.value).endswith("and 4 more")
