"""The examples without an entry script, as their READMEs tell a user to run them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.hosts.standalone import clean_environ
from tests.models_for_tests import ModelHost

ROOT = Path(__file__).parents[2]
MODELS = {
    "onnx-no-code": "model",
    "two-models": "azureml-models",
    "mlflow-diabetes": "model",
}


class Call(NamedTuple):
    """One curl command of a README, and the output shown below it, if one is."""

    url: str
    headers: list[tuple[str, str]]
    file: Path
    shown: str

    def send(self, base: str) -> httpx.Response:
        url = self.url.replace("http://localhost:5001", base)
        return httpx.post(url, headers=self.headers, content=self.file.read_bytes(), timeout=30)


def blocks_of(example: str) -> list[tuple[str, str]]:
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text.replace("\\\n", " "), re.DOTALL)


def calls_of(example: str) -> list[Call]:
    blocks = [*blocks_of(example), ("", "")]
    calls = []
    for (kind, source), (next_kind, shown) in pairwise(blocks):
        words = shlex.split(source) if kind == "sh" else [""]
        if words[0] == "curl":
            calls.append(_call(words, shown.strip() if next_kind == "json" else ""))
    return calls


def _call(words: list[str], shown: str) -> Call:
    headers, file, url = [], "", words[-1]
    for flag, value in pairwise(words):
        if flag == "-H":
            name, _, content = value.partition(": ")
            headers.append((name, content))
        elif flag in ("-d", "--data-binary"):
            assert value.startswith("@")
            file = value[1:]
    return Call(url, headers, ROOT / file, shown)


def serve_command(example: str) -> tuple[dict[str, str], list[str]]:
    """The settings before the command, and its options."""
    sources = [source for kind, source in blocks_of(example) if "scoring-runtime serve" in source]
    assert len(sources) == 1
    words = shlex.split(sources[0])
    at = words.index("scoring-runtime")
    return dict(each.split("=", 1) for each in words[:at]), words[at + 2 :]


@pytest.fixture(scope="module", params=sorted(MODELS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The example's name, and where it is served after its training."""
    example, name = request.param, MODELS[request.param]
    models = tmp_path_factory.mktemp(example) / name
    train = ROOT / "examples" / example / "train.py"
    subprocess.run(
        [sys.executable, str(train), "--output", str(models)],
        check=True,
        capture_output=True,
        env=clean_environ(PYTHONPATH=str(ROOT)),
        timeout=120,
    )
    settings, options = serve_command(example)
    assert options == ["--model-dir", f"examples/{example}/{name}"]
    with ModelHost(models, environ=settings) as host:
        yield example, host.url


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 1) if isinstance(value, float) else value


def test_every_call_of_the_readme_scores(served: tuple[str, str]) -> None:
    """What stands below a call is its answer, rounded to one decimal."""
    example, base = served
    calls = calls_of(example)
    assert calls
    shown = 0
    for call in calls:
        answer = call.send(base)
        assert answer.status_code == 200, (call.url, answer.text)
        if call.shown:
            assert _rounded(answer.json()) == _rounded(json.loads(call.shown)), call.url
            shown += 1
    assert shown >= 1


@pytest.mark.parametrize("served", ["onnx-no-code"], indirect=True)
def test_every_format_gives_the_same_answer(served: tuple[str, str]) -> None:
    """Calls to the same path that want JSON get one and the same."""
    example, base = served
    wanted = [call for call in calls_of(example) if call.url.endswith("/score")]
    answers = [
        call._replace(headers=[each for each in call.headers if each[0] != "Accept"]).send(base)
        for call in wanted
    ]
    assert len(answers) == 4
    assert len({answer.content for answer in answers}) == 1
