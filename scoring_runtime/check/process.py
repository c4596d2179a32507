"""The process of the trial: started, watched, ended; what it told as a report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from ..settings.secrets import masked
from ..settings.settings import Settings, setting_names
from . import faults
from .report import Report

_MODULE = "scoring_runtime.check.trial"
_MARGIN_SECONDS = 10.0
_KEPT_LINES = 20
_OF_THE_HOST = ("SCORING_KEYS", "SCORING_ADMIN_KEYS", "SCORING_ENTRA_", "SCORING_TLS_")
_FILES = ("told", "crash")
_LINE_LENGTH = 300


def tried(
    report: Report,
    settings: Settings,
    samples: Sequence[str],
    seconds: float,
    variables: Mapping[str, str] | None = None,
    place: Path | None = None,
) -> None:
    """Have a process try it, for so many seconds at most, and report what it told and how it ended.

    It has the environment and the working folder of this one, unless it is given the ``variables``
    of an image, which take the place of this process's settings, and the folder, its ``place``.
    What it has started itself ends with it.
    """
    with tempfile.TemporaryDirectory(prefix="scoring-check-") as name:
        specification, told, crash = (Path(name, each) for each in ("specification", *_FILES))
        said = {
            "told": str(told),
            "crash": str(crash),
            "settings": _said(settings),
            "defaults": {"AML_APP_ROOT": settings.app_root},
            "samples": [os.path.abspath(each) for each in samples],
            "seconds": seconds,
            "began": time.monotonic(),
        }
        specification.write_text(json.dumps(said), encoding="utf-8")
        command = [sys.executable, "-m", _MODULE, str(specification)]
        code, output = _run(command, _environ(variables), place, seconds)
        stage, began = _read(_text(told), report)
        if not stage:  # it has not come so far as to load anything
            report.unchecked = f"the check itself has failed, please report it:\n{masked(output)}"
        elif stage != "done":
            ended = (_text(crash), faults.ended(code), seconds - began, output)
            _add_end(report, settings, stage, *ended)


def _said(settings: Settings) -> dict[str, str]:
    """The settings that were set, by name; every trigger is tried, and none asks for keys."""
    kept = [name for name in setting_names() if not name.startswith(_OF_THE_HOST)]
    said = {name: settings.environ[name] for name in kept if name in settings.environ}
    said |= {"AML_APP_ROOT": settings.app_root, "SCORING_TRIGGERS": "http,blob,service_bus"}
    said |= {"AZUREML_ENTRY_SCRIPT": settings.entry_script} if settings.entry_script else {}
    return said | ({"AZUREML_MODEL_DIR": settings.model_dir} if settings.model_dir else {})


def _environ(variables: Mapping[str, str] | None) -> dict[str, str]:
    if variables is None:
        return {**os.environ}
    known = setting_names()
    kept = {name: value for name, value in os.environ.items() if name.upper() not in known}
    return {**kept, **variables}


def _run(
    command: Sequence[str], environ: Mapping[str, str], place: Path | None, seconds: float
) -> tuple[int, str]:
    """The exit code, and the last lines that it wrote."""
    process = subprocess.Popen(
        command,
        env=environ,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    kept: deque[str] = deque(maxlen=_KEPT_LINES)
    reader = threading.Thread(target=_keep, args=(process.stdout, kept), daemon=True)
    reader.start()
    try:
        code = process.wait(seconds + _MARGIN_SECONDS)
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        _end(process)
        reader.join(1)
        process.stdout.close()
    return code, "\n".join(kept)


def _keep(stream: IO[bytes], kept: deque[str]) -> None:
    with contextlib.suppress(ValueError, OSError):
        while line := stream.readline(1 << 16):
            kept.append(line.decode("utf-8", "replace").rstrip()[:_LINE_LENGTH])


def _end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read(text: str, report: Report) -> tuple[str, float]:
    """What a trial told, into the report; the last stage that it came to, and when, in seconds."""
    stage, began = "", 0.0
    for line in text.splitlines():
        name, value = json.loads(line)
        if name == "stage":
            stage, began = value
        elif name == "finding":
            report.add(*value)
        elif name == "note":
            report.notes.append(value)
        elif name == "unchecked":
            report.unchecked = f"the check itself has failed, please report it:\n{value}"
        else:
            report.facts.setdefault(name, value)
    return stage, began


def _add_end(
    report: Report,
    settings: Settings,
    stage: str,
    crash: str,
    ended: str,
    seconds: float,
    output: str,
) -> None:
    """A process that has not come to its end."""
    kind, _, sample = stage.partition(" ")
    is_load = kind == "load"
    what = "Loading it" if is_load else f"run(){f' on {sample}' if sample else ''}"
    where = faults.innermost(crash, settings)
    if crash.startswith("Timeout"):
        report.facts["ended_in"] = kind
        ended = f"has not ended after {seconds:.0f} s"
    elif not where:
        where = faults.ending_calls(settings)
    where = where or faults.definition(settings, "init" if is_load else "run")
    report.add("load" if is_load else "run", where, f"{what} {ended}.", masked(output))
