"""The examples as their READMEs tell a user to run them: train, serve, score.

Commands, inputs and expected outputs are read from the READMEs; only the folder that the models
are trained in is another.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import StandaloneHost, clean_environ

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TRAINED = ("diabetes", "digits", "digits-onnx")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE]-?\d+)?")


@dataclass(frozen=True)
class Call:
    """One curl command of a README, the script served by then, and the output shown below it."""

    script: str
    method: str
    headers: tuple[tuple[str, str], ...]
    file: str
    shown: str

    def send(self, url: str) -> httpx.Response:
        body = (ROOT / self.file).read_bytes() if self.file else None
        return httpx.request(self.method, url, headers=self.headers, content=body, timeout=30)


def blocks_of(example: str) -> list[tuple[str, str]]:
    """The fenced blocks of a README, in order: kind and text."""
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def calls_of(example: str) -> list[Call]:
    """The calls that a README shows, in order."""
    blocks = blocks_of(example)
    calls, script = [], ""
    for (kind, source), (_, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        words = shlex.split(source) if kind == "sh" else [""]
        if words[0] == "scoring-runtime":
            assert words[1:3] == ["serve", "--entry-script"]
            script = words[3]
            expected = (
                [] if example == "raw-image" else ["--model-dir", f"examples/{example}/model"]
            )
            assert words[4:] == expected
        elif words[0] == "curl":
            calls.append(_call(script, words, shown.strip()))
    return calls


def _call(script: str, words: list[str], shown: str) -> Call:
    assert words[-1] == "http://localhost:5001/score"
    options = dict(pairwise(words))
    header, file = options.get("-H", ""), options.get("-d", options.get("--data-binary", ""))
    name, _, value = header.partition(": ")
    headers = ((name, value),) if name else ()
    return Call(script, "POST" if file else "GET", headers, file.removeprefix("@"), shown)


# Those without a script are tried in test_no_code_examples.py.
EXAMPLE_NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/score.py"))
# redis-cache needs a server: tests/cache/test_example.py.
CALLS = [call for name in EXAMPLE_NAMES if name != "redis-cache" for call in calls_of(name)]
SCRIPTS = sorted({call.script for call in CALLS})


def example_of(script: str) -> str:
    return Path(script).parent.name


def train(example: str, output: Path, *options: str) -> str:
    command = [sys.executable, f"examples/{example}/train.py", "--output", str(output), *options]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each example's model: its README's command in a copy, all at once."""
    root = tmp_path_factory.mktemp("root")
    running = {}
    for example in TRAINED:
        folder = f"examples/{example}"
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("model"))
        assert f"\npython {folder}/train.py\n" in dict(blocks_of(example)[:1])["sh"]
        running[example] = subprocess.Popen(
            [sys.executable, f"{folder}/train.py"],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    outputs = {example: process.communicate()[0] for example, process in running.items()}
    for example, output in outputs.items():
        assert running[example].returncode == 0, output
        assert "on the test set)" in output
    return {example: root / f"examples/{example}/model" for example in TRAINED}


class Served:
    """One script behind both hosts."""

    def __init__(self, script: str, model_dir: Path | None) -> None:
        folder = str(model_dir) if model_dir else ""
        options = ("--model-dir", folder) if folder else ()
        self.standalone = StandaloneHost(Path(script), *options, cwd=ROOT)
        more = {"AZUREML_MODEL_DIR": folder} if folder else {}
        environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(ROOT / script), **more)
        self.functions = FunctionsHost(ROOT, environ)

    def urls(self) -> list[str]:
        return [f"{host.url}/score" for host in (self.standalone, self.functions)]


@pytest.fixture(scope="module")
def hosts(models: dict[str, Path]) -> Iterator[Callable[[str], Served]]:
    """``hosts(script)``: the script of a README behind both hosts, started when first asked for."""
    started: dict[str, Served] = {}

    def serve(script: str) -> Served:
        if script not in started:
            served = Served(script, models.get(example_of(script)))
            served.standalone.__enter__()
            started[script] = served
            served.functions.__enter__()
        return started[script]

    yield serve
    for served in started.values():
        served.standalone.stop()
        served.functions.stop()


def shape_and_numbers(text: str) -> tuple[str, list[float]]:
    """JSON text without spaces, its numbers as #; and the numbers."""
    compact = json.dumps(json.loads(text), separators=(",", ":"))
    return NUMBER.sub("#", compact), [float(number) for number in NUMBER.findall(compact)]


def test_every_example_is_called():
    assert EXAMPLE_NAMES == ["diabetes", "digits", "digits-onnx", "raw-image", "redis-cache"]
    assert sorted(set(SCRIPTS)) == [
        "examples/diabetes/score.py",
        "examples/digits-onnx/score.py",
        "examples/digits/score.py",
        "examples/raw-image/score.py",
        "examples/raw-image/thumbnail.py",
    ]
    assert len(CALLS) == 6


@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_every_path_in_a_command_exists(example: str, models: dict[str, Path]):
    """In the repository, and a model folder where train.py writes when it is not told."""
    commands = " ".join(text for kind, text in blocks_of(example) if kind == "sh")
    words = {word.removeprefix("@") for word in shlex.split(commands)}
    paths = {word for word in words if "/" in word and " " not in word and "://" not in word}
    if example in TRAINED:
        assert f"examples/{example}/model" in paths
        assert models[example].is_dir()
        paths.remove(f"examples/{example}/model")
    if example == "redis-cache":
        paths.remove("examples/diabetes/model")
    assert f"examples/{example}/score.py" in paths
    assert {path for path in paths if not (ROOT / path).is_file()} == set()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.script[9:-3]}-{call.method}")
def test_the_answer_is_what_the_readme_shows(call: Call, hosts: Callable[[str], Served]):
    """Through the standalone host, and the same bytes through the Functions host."""
    answer, same = (call.send(url) for url in hosts(call.script).urls())
    assert (same.status_code, same.content) == (answer.status_code, answer.content)
    kind = answer.headers["content-type"]
    assert same.headers["content-type"] == kind
    if call.shown == "200 image/png":
        assert f"{answer.status_code} {kind}" == call.shown
        return
    assert answer.status_code == 200
    if kind == "application/json":
        shape, numbers = shape_and_numbers(answer.text)
        expected_shape, expected = shape_and_numbers(call.shown)
        assert shape == expected_shape
        assert numbers == pytest.approx(expected, rel=1e-6)
    else:
        assert answer.text.strip() == call.shown


@pytest.mark.parametrize("example", TRAINED)
def test_training_again_leaves_the_model_unless_forced(example: str, models: dict[str, Path]):
    before = {path.name: path.stat().st_mtime_ns for path in models[example].iterdir()}
    assert len(before) == 2
    assert "is up to date" in train(example, models[example])
    assert {path.name: path.stat().st_mtime_ns for path in models[example].iterdir()} == before


def test_two_models_are_registered_once(tmp_path: Path):
    """Unless that is forced: then the next versions."""
    registry = tmp_path / "azureml-models"
    assert "registered iris:2\nregistered wine:1\n" in train("two-models", registry)
    assert "is up to date" in train("two-models", registry)
    assert {path.name for path in (registry / "iris").iterdir()} == {"1", "2"}
    assert "registered iris:3" in train("two-models", registry, "--force")


def test_a_model_of_other_library_versions_is_trained_again(tmp_path: Path):
    train("diabetes", tmp_path)
    (tmp_path / "versions.json").write_text('{"scikit-learn": "0.1"}')
    assert "wrote" in train("diabetes", tmp_path)
    assert "0.1" not in json.loads((tmp_path / "versions.json").read_text()).values()


def test_digits_names_what_does_not_fit_and_describes_itself(hosts: Callable[[str], Served]):
    served = hosts("examples/digits/score.py")
    for url in served.urls():
        refused = httpx.post(url, json={"data": [[0] * 63]})
        assert refused.status_code == 400
        assert "'data'" in refused.json()["message"]
        assert "an array of float64 with the shape (any, 64)" in refused.json()["message"]
        document = httpx.get(url.replace("/score", "/swagger.json")).json()
        assert document["definitions"]["ServiceInput"]["example"] == {"data": [[0.0] * 64]}


def test_the_thumbnail_is_the_sample_at_half_size(hosts: Callable[[str], Served]):
    sample = (EXAMPLES / "raw-image/sample.png").read_bytes()
    expected = Image.open(io.BytesIO(sample)).convert("RGBA").reduce(2)
    for url in hosts("examples/raw-image/thumbnail.py").urls():
        half = Image.open(io.BytesIO(httpx.post(url, content=sample).content), formats=["PNG"])
        assert half.size == (32, 24)
        assert half.tobytes() == expected.tobytes()


@pytest.mark.parametrize("script", ["score", "thumbnail"])
def test_the_raw_image_scripts_choose_their_statuses(script: str, hosts: Callable[[str], Served]):
    """Bytes that are no PNG, a PNG that is cut off, no bytes; a method they do not want."""
    cut = (EXAMPLES / "raw-image/sample.png").read_bytes()[:100]
    for url in hosts(f"examples/raw-image/{script}.py").urls():
        for body in (b"GIF89a", cut, b""):
            refused = httpx.post(url, content=body)
            assert refused.status_code == 400
            assert refused.json() == {"message": "The body is not a readable PNG."}
        other = httpx.options(url)
        assert (other.status_code, other.text) == (405, "bad request")
        assert sorted(re.split(", ?", ",".join(other.headers.get_list("allow")))) == ["GET", "POST"]


def test_the_sample_picture_is_drawn_the_same_again(tmp_path: Path):
    """Pixel by pixel; how a PNG is compressed may change with Pillow."""
    command = [sys.executable, "examples/raw-image/make_sample.py"]
    subprocess.run([*command, "--output", str(tmp_path / "s.png")], cwd=ROOT, check=True)
    with (
        Image.open(tmp_path / "s.png") as drawn,
        Image.open(EXAMPLES / "raw-image/sample.png") as s,
    ):
        assert (drawn.mode, drawn.size, drawn.tobytes()) == (s.mode, s.size, s.tobytes())


@pytest.mark.parametrize("example", EXAMPLE_NAMES)
def test_requirements_name_what_the_scripts_import(example: str):
    """And nothing else: what a user installs for an example is what it needs."""
    provided = {
        "scikit-learn": "sklearn",
        "inference-schema[numpy-support]": "inference_schema",
        "Pillow": "PIL",
    }
    lines = (EXAMPLES / example / "requirements.txt").read_text().split()
    packages = [re.split("[<>=]", line)[0] for line in lines]
    sources = "".join(path.read_text() for path in (EXAMPLES / example).glob("*.py"))
    imported = set(re.findall(r"^(?:import|from) (\w+)", sources, re.MULTILINE))
    own = {"azureml", *sys.stdlib_module_names}
    assert {provided.get(name, name) for name in packages} == imported - own
