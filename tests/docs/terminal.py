"""A terminal with a page's folder: blocks are pasted, servers stay, the output is what is compared.

``Terminal(folder, fresh=False)`` runs in the environment of the tests, with stand-ins for pip and
venv; with ``fresh`` in an empty virtual environment, into which the page installs what it needs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.docs.blocks import ROOT, Block
from tests.docs.stand_ins import PROGRAMS
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.standalone import clean_environ

# A block that ends with one of these goes on until the reader ends it.
SERVERS = {
    r"(\w+=\S+ )*scoring-runtime serve\b": 5001,
    r"make serve\b": 5001,
    r"func start\b": 7071,
    r"azurite\b": 10000,
    r"redis-server\b": 6379,
}
_NOT_FRESH = ("pip", "venv")
_SHIM = """#!/bin/sh
case "$1 $2" in
"-m venv"|"-m pip") name=$2; shift 2; exec {python} -m tests.docs.stand_ins $name "$@" ;;
esac
exec {python} "$@"
"""


class Terminal:
    """``with Terminal(folder) as terminal:`` pastes blocks into a shell in a copy of the sources.

    Pages name the usual ports, so that one page at a time is tried on a machine.
    """

    def __init__(self, folder: Path, *, fresh: bool = False, wheels: Path | None = None) -> None:
        self.folder, self._fresh = folder, fresh
        self.copy = folder / "scoring-runtime"
        self._stack = ExitStack()
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._count = 0
        self._environ = self._first_environ(wheels)

    def _first_environ(self, wheels: Path | None) -> dict[str, str]:
        bin_, home = self.folder / "bin", self.folder / "home"
        cache = os.environ.get("PIP_CACHE_DIR", str(Path("~/.cache/pip").expanduser()))
        more = {
            "HOME": str(home),
            "PIP_CACHE_DIR": cache,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "DOCS_BIN": str(bin_),
            "TERM": "dumb",
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        }
        if wheels is not None:
            more["PIP_FIND_LINKS"] = str(wheels)
        if not self._fresh:
            more["PYTHONPATH"] = str(self.copy)
        environ = clean_environ(**more)
        environ.pop("VIRTUAL_ENV", None)
        return environ

    def __enter__(self) -> Self:
        lock = self._stack.enter_context(Path(tempfile.gettempdir(), "docs-ports.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._stack.callback(self._stop_all)
        (self.folder / "home").mkdir()
        listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name)
        self._write_programs()
        self._shell = f"cd {self.copy}\n"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _write_programs(self) -> None:
        bin_ = self.folder / "bin"
        bin_.mkdir()
        run = f"PYTHONPATH={ROOT} exec {sys.executable} -m tests.docs.stand_ins"
        line = f'#!/bin/sh\n{run} NAME "$@"\n'
        texts = {name: line.replace("NAME", name) for name in PROGRAMS if name != "venv"}
        if self._fresh:
            del texts["pip"]
            base = Path(
                sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}"
            )
            texts |= dict.fromkeys(("python3", "python"), f'#!/bin/sh\nexec {base} "$@"\n')
        else:
            texts |= dict.fromkeys(("python3", "python"), _SHIM.format(python=sys.executable))
            for name, module in (("scoring-runtime", "scoring_runtime"), ("mlflow", "mlflow")):
                texts[name] = f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n'
        for name, text in texts.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)

    # --- what a page needs ------------------------------------------------------------------------

    def provide(self, need: str) -> None:
        """Make what a page says it needs."""
        NEEDS[need](self)

    def export(self, name: str, value: str) -> None:
        self._environ[name] = value

    # --- blocks -----------------------------------------------------------------------------------

    def save(self, block: Block) -> None:
        """Write a block that is a file."""
        path = Path(self.where(), block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def where(self) -> str:
        return self._finish(self._start(self._shell + "pwd"))[0].strip()

    def paste(self, block: Block) -> str:
        """Run a block; what it prints on standard output, or its server's log when it is one."""
        if block.kind == "python":
            self._count += 1
            file = self.folder / f"block{self._count}.py"
            file.write_text(block.text, encoding="utf-8")
            return self._run(f"python {file}", block)
        if port := served_port(block.text):
            self._serve(block, port)
            return ""
        return self._run(block.text, block)

    def _run(self, text: str, block: Block) -> str:
        state = self.folder / "state.sh"
        script = (
            f"{self._shell}set -aeE\ntrap 'echo \"line: $BASH_COMMAND\" >&2' ERR\n{text}\n"
            f"trap - ERR; set +aeE\n{{ export -p; echo \"cd '$PWD'\"; }} > {state}"
        )
        out, err, code = *self._finish(process := self._start(script)), process.returncode
        assert code == 0, f"{block.place} ends with {code}:\n{out}{err}"
        self._shell = state.read_text()
        return out

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            ["bash", "-c", script],
            env=self._environ, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            start_new_session=True,
        )  # fmt: skip

    def _finish(self, process: subprocess.Popen[bytes]) -> tuple[str, str]:
        try:
            out, err = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return out.decode(), err.decode()

    # --- servers ----------------------------------------------------------------------------------

    def _serve(self, block: Block, port: int) -> None:
        self._stop(port)
        before, command = last_command(block.text)
        if before:  # a reader who ends the server goes on in the same terminal
            self._run(before, block)
        log = self.folder / f"server{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"{self._shell}set -e\n{command}"],
                env=self._environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._servers[port] = process
        until = time.monotonic() + 600
        while not answers(port):
            ended = process.poll()
            assert ended is None, f"{block.place} ends with {ended}:\n{log.read_text()}"
            assert time.monotonic() < until, f"{block.place} is not ready:\n{log.read_text()}"
            time.sleep(0.05)

    def _stop(self, port: int) -> None:
        process = self._servers.pop(port, None)
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                pass
            try:
                process.wait(20)
                break
            except subprocess.TimeoutExpired:
                continue
        while answers(port):
            time.sleep(0.05)

    def _stop_all(self) -> None:
        for port in list(self._servers):
            self._stop(port)


def last_command(text: str) -> tuple[str, str]:
    """The lines before the last command, and the command with its continued lines."""
    lines = text.strip().split("\n")
    at = len(lines) - 1
    while at and lines[at - 1].endswith("\\"):
        at -= 1
    return "\n".join(lines[:at]), "\n".join(lines[at:])


def served_port(text: str) -> int:
    """The port of the server that a block's last command is; 0 when it is none."""
    command = text.replace("\\\n", " ").strip().splitlines()[-1]
    for start, port in SERVERS.items():
        if re.match(start, command):
            said = re.search(r"--port (\d+)|PORT=(\d+)", command)
            return int(said[1] or said[2]) if said else port
    return 0


def answers(port: int) -> bool:
    """Whether somebody listens there; a scoring server also has to be ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30):
            return True
    except urllib.error.HTTPError:
        return True
    except ConnectionError:  # which a port with TLS ends
        return _speaks_tls(port)
    except (urllib.error.URLError, OSError, ValueError):
        return port == 6379 and _pings(port)
    except Exception as error:
        return "HTTP" in type(error).__name__ or "Status" in type(error).__name__


def _speaks_tls(port: int) -> bool:
    anybody = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/", timeout=30, context=anybody):
            return True
    except OSError:
        return False


def _pings(port: int) -> bool:
    import redis

    try:
        return bool(redis.Redis(port=port, socket_timeout=5).ping())
    except redis.RedisError:
        return False


# --- what pages need ------------------------------------------------------------------------------


def _shell(text: str) -> Callable[[Terminal], None]:
    def provide(terminal: Terminal) -> None:
        terminal.paste(Block("needs", 0, "sh", "", text))

    return provide


def _storage(terminal: Terminal) -> None:
    azurite = terminal._stack.enter_context(Azurite())
    terminal.export("DOCS_STORAGE", azurite.connection_string)


def _service_bus(terminal: Terminal) -> None:
    broker = terminal._stack.enter_context(ServiceBusBroker())
    for name in ("input", "output"):
        broker.add_queue(name)
    terminal.export("DOCS_SERVICE_BUS", broker.connection_string)


NEEDS: dict[str, Callable[[Terminal], None]] = {
    "storage": _storage,
    "service-bus": _service_bus,
    "an-empty-folder": _shell("mkdir ../own && cd ../own"),
    "a-model-and-a-script": _shell(
        f"mkdir ../own && cd ../own\n"
        f"{sys.executable} ../scoring-runtime/examples/diabetes/train.py --output . --force\n"
        "mv sklearn_regression_model.pkl model.pkl\n"
        "cp ../scoring-runtime/examples/diabetes/score.py ."
    ),
}


def same(printed: str, shown: str, kind: str) -> bool:
    """Whether a block printed what the page shows: JSON by value, numbers to six digits."""
    if kind != "json":
        pattern = re.escape(shown.strip()).replace("…", ".*")
        return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
    try:
        return near(json.loads(printed), json.loads(shown))
    except ValueError:
        return False


def near(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(other, str) and "…" in other:
        return re.fullmatch(re.escape(other).replace("…", ".+"), str(one), re.DOTALL) is not None
    if isinstance(one, float) and isinstance(other, (int, float)):
        return abs(one - other) <= max(1e-6 * abs(other), 1e-3)
    return one == other
