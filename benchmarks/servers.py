"""The servers that are compared: how each is started, what it is sent, where it is installed.

All have one worker and the same models and threads. A peer lives in an environment of its own,
``.cache/peers/NAME``, with the versions of ``benchmarks/peers/NAME/requirements.txt`` and the same
scikit-learn, NumPy and onnxruntime as here, and its own batching is on where it has one.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.hosts.standalone import clean_environ, free_port

from . import machine, wrk
from .wrk import Figures, Request

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS, PEERS, CACHE = HERE / "scripts", HERE / "peers", ROOT / ".cache" / "peers"
SHARED = ("numpy", "scikit-learn", "joblib", "onnxruntime", "pillow")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ONE_THREAD = {**dict.fromkeys(THREADS, "1"), "SCORING_ONNX_INTRA_OP_THREADS": "1"}
# The model of text directions in rapidocr, a convolutional network of 0.6 MB.
RAPIDOCR = ("rapidocr-onnxruntime==1.4.4", "*/ch_ppocr_mobile_v2.0_cls_infer.onnx")
BATCH = 64


class Load(NamedTuple):
    """A model and how many rows each request has; 0 for one picture."""

    model: str
    rows: int

    @property
    def name(self) -> str:
        """As in tables."""
        return f"{self.model}, {self.rows} row{'s' * (self.rows > 1)}" if self.rows else self.model


LOADS = {
    "echo": Load("echo", 1),
    "linear-1": Load("linear", 1),
    "linear-100": Load("linear", 100),
    "forest-1": Load("forest", 1),
    "forest-100": Load("forest", 100),
    "onnx-1": Load("onnx", 1),
    "onnx-100": Load("onnx", 100),
    "image": Load("image", 0),
}
_FILES = {"echo": "", "linear": "model.pkl", "forest": "model.pkl", "onnx": "model.onnx"}
_FILES |= {"image": "model.onnx"}
_SCRIPTS = {
    "echo": "one",
    "linear": "sklearn",
    "forest": "sklearn",
    "onnx": "onnx",
    "image": "image",
}


# --- models and bodies ----------------------------------------------------------------------------


def make_model(model: str, folder: Path) -> None:
    """Train on the digits data if it is not there yet: ``folder/MODEL`` with one file in it."""
    if (folder / model).exists():
        return
    (folder / model).mkdir(parents=True)
    file = folder / model / _FILES[model]
    if model == "image":
        shutil.copy(image_model(), file)
    elif model != "echo":
        _train(model, file)


def _train(model: str, file: Path) -> None:
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    kind = RandomForestClassifier(100, random_state=0) if model == "forest" else linear
    trained = kind.fit(*load_digits(return_X_y=True))
    if model != "onnx":
        joblib.dump(trained, file)
        return
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    types = [("input", FloatTensorType([None, 64]))]
    onnx = to_onnx(trained, initial_types=types, options={"zipmap": False}, target_opset=15)
    file.write_bytes(onnx.SerializeToString())


def image_model() -> Path:
    """An ONNX file out of a wheel, fetched once."""
    kept = CACHE / "image.onnx"
    if not kept.exists():
        wheel, pattern = RAPIDOCR
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE)]
        subprocess.run([*pip, wheel], check=True, capture_output=True)
        [found] = CACHE.glob("rapidocr_onnxruntime-*.whl")
        shutil.unpack_archive(found, CACHE / "wheel", "zip")
        [model] = (CACHE / "wheel").rglob(pattern.removeprefix("*/"))
        model.replace(kept)
        shutil.rmtree(CACHE / "wheel")
        found.unlink()
    return kept


def rows(count: int) -> list[list[float]]:
    """So many rows of the digits data, 64 numbers each."""
    from sklearn.datasets import load_digits

    found: list[list[float]] = load_digits().data[:count].tolist()
    return found


def picture() -> Any:
    """192 x 48 pixels with a word."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (192, 48), "white")
    ImageDraw.Draw(image).text((20, 8), "scoring", fill="black", font_size=28)
    return image


def _of_rows(load: Load) -> dict[str, Request]:
    data = rows(load.rows)
    flat = [number for row in data for number in row]

    def sent(path: str, content: Any) -> Request:
        return Request(path, json.dumps(content).encode())

    tensor = {"name": "input", "shape": [load.rows, 64], "datatype": "FP64"}
    if load.model == "onnx":
        tensor["datatype"] = "FP32"
    return {
        "score": sent("/score", {"data": data}),
        "v2": sent("/v2/models/model/infer", {"inputs": [{**tensor, "data": flat}]}),
        "litserve": sent("/predict", {"data": data}),
        "bentoml": sent("/predict", {"rows": data}),
        "mlflow": sent("/invocations", {"inputs": data}),
    }


def _of_picture() -> dict[str, Request]:
    import numpy as np

    file = io.BytesIO()
    picture().save(file, "png")
    content, text = file.getvalue(), base64.b64encode(file.getvalue()).decode()
    pixels = (np.asarray(picture(), dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    array = io.BytesIO()
    np.save(array, np.ascontiguousarray(pixels))
    tensor = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return {
        "score": Request("/score", content, "image/png"),
        "array": Request("/score", array.getvalue(), "application/x-npy"),
        "v2": Request("/v2/models/model/infer", json.dumps({"inputs": [tensor]}).encode()),
        "litserve": Request("/predict", json.dumps({"image": text}).encode()),
        "bentoml": Request("/classify", json.dumps({"images": [text]}).encode()),
    }


def requests(load: Load) -> dict[str, Request]:
    """The same input as each server takes it."""
    return _of_rows(load) if load.rows else _of_picture()


# --- starting -------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """What a server is started for: the load, its model's folder, a port, room for its files."""

    load: Load
    model: Path
    port: int
    room: Path

    @property
    def file(self) -> str:
        """The model's file; empty for the echo."""
        name = _FILES[self.load.model]
        return str(self.model / name) if name else ""

    def script(self, ending: str) -> str:
        """The entry script for this model."""
        name = _SCRIPTS[self.load.model]
        plain = f"{name}_row" if name in ("sklearn", "onnx") else name
        return str(SCRIPTS / f"{f'{name}_{ending}' if ending else plain}.py")


class Server(NamedTuple):
    """One way to serve the models."""

    name: str
    dialect: str
    command: Callable[[Stage], list[str]]
    environ: tuple[tuple[str, str], ...] = ()
    peer: str = ""
    # Keeps a core busy while it waits: stopped while others are measured.
    spins: bool = False
    root: Path = ROOT
    models: tuple[str, ...] = tuple(_FILES)


def _ours(*options: str, script: str | None = None) -> Callable[[Stage], list[str]]:
    def command(stage: Stage) -> list[str]:
        entry = [] if script is None else ["--entry-script", stage.script(script)]
        where = ["--port", str(stage.port), "--host", "127.0.0.1"]
        serve = [sys.executable, "-m", "scoring_runtime", "serve", *options]
        return [*serve, *entry, "--model-dir", str(stage.model), *where]

    return command


def _bare(stage: Stage) -> list[str]:
    uvicorn = [sys.executable, "-m", "uvicorn", "benchmarks.bare_app:app"]
    return [*uvicorn, "--port", str(stage.port), "--no-access-log", "--log-level", "warning"]


def _azureml(stage: Stage) -> list[str]:
    script = ["--entry_script", stage.script(""), "--model_dir", str(stage.model)]
    return [_bin("azureml", "azmlinfsrv"), *script, "--port", str(stage.port)]


def _mlserver(stage: Stage) -> list[str]:
    sklearn = stage.file.endswith(".pkl")
    model = {
        "name": "model",
        "implementation": "mlserver_sklearn.SKLearnModel" if sklearn else "runtime.Runtime",
        "parameters": {"uri": stage.file or "."},
        "max_batch_size": BATCH,
        "max_batch_time": 0.001,
    }
    ports = {"http_port": stage.port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": 0, **ports}
    (stage.room / "settings.json").write_text(json.dumps(settings))
    (stage.room / "model-settings.json").write_text(json.dumps(model))
    return [_bin("mlserver", "mlserver"), "start", str(stage.room)]


def _litserve(stage: Stage) -> list[str]:
    return [_bin("litserve", "python"), str(PEERS / "litserve" / "serve.py"), str(stage.port)]


def _bentoml(stage: Stage) -> list[str]:
    serve = [_bin("bentoml", "bentoml"), "serve", "service:Digits"]
    where = ["--working-dir", str(PEERS / "bentoml")]
    return [*serve, *where, "--host", "127.0.0.1", "--port", str(stage.port)]


def _mlflow(stage: Stage) -> list[str]:
    saved = stage.room / "saved"
    if not saved.exists():
        save = [_bin("mlflow", "python"), str(PEERS / "mlflow" / "save.py"), str(saved)]
        subprocess.run(save, env=environ_of(MLFLOW, stage), check=True, capture_output=True)
    serve = [_bin("mlflow", "mlflow"), "models", "serve", "-m", str(saved)]
    return [*serve, "--env-manager", "local", "-w", "1", "-h", "127.0.0.1", "-p", str(stage.port)]


def _bin(peer: str, program: str) -> str:
    return str(CACHE / peer / "bin" / program)


WITHOUT_ECHO = ("linear", "forest", "onnx", "image")
NO_SCRIPT = Server("no script", "score", _ours(), models=WITHOUT_ECHO)
NO_SCRIPT_BATCHED = NO_SCRIPT._replace(
    name="no script, batches", environ=(("SCORING_MAX_BATCH_SIZE", str(BATCH)),)
)
SCRIPT = Server("script", "score", _ours(script=""))
BATCHED = Server("script, `@batched`", "score", _ours(script="batched"))
BARE = Server("bare uvicorn app", "score", _bare)
AZUREML = Server("azureml-inference-server-http", "score", _azureml, peer="azureml")
MLSERVER = Server("MLServer", "v2", _mlserver, peer="mlserver")
LITSERVE = Server("LitServe", "litserve", _litserve, peer="litserve", spins=True)
BENTOML = Server("BentoML", "bentoml", _bentoml, peer="bentoml")
MLFLOW = Server(
    "mlflow models serve", "mlflow", _mlflow, peer="mlflow",
    models=("echo", "linear", "forest", "onnx"),
)  # fmt: skip
TWO_WORKERS = NO_SCRIPT._replace(name="no script, two workers", command=_ours("--workers", "2"))
OURS = (NO_SCRIPT_BATCHED, BATCHED, NO_SCRIPT, SCRIPT)
WITH_BATCHES = (MLSERVER, LITSERVE, BENTOML)
OTHERS = (AZUREML, *WITH_BATCHES, MLFLOW)
SERVERS = (*OURS, BARE, *OTHERS)


def request_of(server: Server, load: Load) -> Request:
    """What this server is sent."""
    found = requests(load)
    if load.model == "image" and server in (NO_SCRIPT, NO_SCRIPT_BATCHED):
        return found["array"]
    return found[server.dialect]


def environ_of(server: Server, stage: Stage) -> dict[str, str]:
    """What the process gets."""
    more = {"BENCH_MODEL": stage.file, "BENCH_SCRIPT": stage.script("")}
    more |= {"AZUREML_MODEL_DIR": str(stage.model)} if stage.file else {}
    more |= {"AML_APP_ROOT": str(SCRIPTS), "BENTOML_DO_NOT_TRACK": "True"}
    found = clean_environ(**ONE_THREAD, **more, **dict(server.environ))
    path = [PEERS, PEERS / server.peer] if server.peer else [server.root]
    found["PYTHONPATH"] = os.pathsep.join(map(str, path))
    if server.peer:
        found["PATH"] = f"{CACHE / server.peer / 'bin'}{os.pathsep}{found['PATH']}"
    return found


class Running(NamedTuple):
    """A server that answers."""

    base: str
    pid: int
    request: Request
    first_answer_s: float
    spins: bool

    def load(self, request: Request, connections: int, seconds: int) -> Figures:
        """Under load for so long; one that spins is stopped again."""
        if self.spins:
            _signal(machine.descendants(self.pid), signal.SIGCONT)
        found = wrk.load(self.base, request, connections, seconds)
        if self.spins:
            _signal(machine.descendants(self.pid), signal.SIGSTOP)
        return found


@contextlib.contextmanager
def running(server: Server, load: Load, models: Path, room: Path) -> Iterator[Running]:
    """Start ``server``, wait for the first answer to the load's request, and stop it.

    ``models`` is the folder of the models, where its own is made if it is not there.
    """
    room.mkdir(parents=True, exist_ok=True)
    make_model(load.model, models)
    stage = Stage(load, models / load.model, free_port(), room)
    command, request = server.command(stage), request_of(server, load)
    environ = environ_of(server, stage)
    base = f"http://127.0.0.1:{stage.port}"
    cwd = room if server.peer else server.root
    with serving(command, environ, room / "server.log", cwd) as process:
        took = first_answer(base, request, process, room / "server.log")
        yield Running(base, process.pid, request, took, server.spins)


@contextlib.contextmanager
def serving(
    command: list[str], environ: dict[str, str], log: Path, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in ``log``, ended with all that it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environ, cwd=cwd, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    below = list(machine.descendants(process.pid)) if process.poll() is None else []
    _signal(below, signal.SIGCONT)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _signal(below, signal.SIGKILL)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in list(pids):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def first_answer(
    base: str, request: Request, process: subprocess.Popen[bytes], log: Path, patience: float = 60
) -> float:
    """Seconds until ``request`` is answered with 200; SystemExit with the log if it never is."""
    begin, said = time.monotonic(), ""
    headers = {"Content-Type": request.content_type, **dict(request.headers)}
    while time.monotonic() - begin < patience and process.poll() is None:
        asked = urllib.request.Request(base + request.path, request.body, headers, method="POST")
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                answer.read()
            return time.monotonic() - begin
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read()[-500:]!r}"
            if error.code in (415, 422):
                break
        except OSError as error:
            said = str(error)
        time.sleep(0.02)
    raise SystemExit(f"{base}{request.path}: {said}\n{log.read_text(errors='replace')[-3000:]}")


# --- peers ----------------------------------------------------------------------------------------


def install(peer: str) -> str:
    """Make the peer's environment if it is missing or older; the last line of the error if any."""
    venv, wanted = CACHE / peer, PEERS / peer / "requirements.txt"
    packages = [f"{name}=={version(name)}" for name in SHARED]
    stamp = "\n".join((sys.version, wanted.read_text(), *packages))
    complete = venv / "complete"
    if complete.exists() and complete.read_text() == stamp:
        return ""
    machine.progress(f"installing {peer}")
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(wanted), *packages]
    for command in ([sys.executable, "-m", "venv", str(venv)], pip):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    complete.write_text(stamp)
    return ""


def peer_versions(peer: str) -> dict[str, str]:
    """What is installed of the packages that decide the figures."""
    pip = [_bin(peer, "python"), "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(pip, capture_output=True, text=True, check=True)
    named = {
        line.partition("==")[0] for line in (PEERS / peer / "requirements.txt").read_text().split()
    }
    web = {"fastapi", "starlette", "uvicorn", "gunicorn", "flask", "uvloop", "httptools"}
    wanted = named | web | set(SHARED)
    return {e["name"]: e["version"] for e in json.loads(done.stdout) if e["name"].lower() in wanted}
