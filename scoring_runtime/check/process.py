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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..packaging.app_settings import setting_names
from ..packaging.imports import packages_of
from ..settings.secrets import masked
from ..settings.settings import Settings, setting_fields
from . import faults
from .report import Report

_MODULE = "scoring_runtime.check.trial"
_MARGIN_SECONDS = 10.0
_KEPT_LINES = 20
_LINE_LENGTH = 300


@dataclass
class Told:
    """What a trial has told, and how its process ended."""

    stage: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[list[str]] = field(default_factory=list)
    changing: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    variable: str = ""
    broken: str = ""
    code: int = 0
    crash: str = ""
    output: str = ""


def tried(
    settings: Settings,
    samples: Sequence[str],
    seconds: float,
    variables: Mapping[str, str] | None = None,
    place: Path | None = None,
) -> Told:
    """Have a process try it, for so many seconds at most; its children end with it.

    It has the environment and the working folder of this one, unless it is given the ``variables``
    of an image, which take the place of this process's settings, and the folder, its ``place``.
    """
    with tempfile.TemporaryDirectory(prefix="scoring-check-") as name:
        folder = Path(name)
        paths = {"told": str(folder / "told"), "crash": str(folder / "crash")}
        specification = {
            **paths,
            "settings": _said(settings),
            "defaults": {"AML_APP_ROOT": settings.app_root},
            "samples": [os.path.abspath(each) for each in samples],
            "seconds": seconds,
            "began": time.monotonic(),
        }
        (folder / "specification").write_text(json.dumps(specification), encoding="utf-8")
        command = [sys.executable, "-m", _MODULE, str(folder / "specification")]
        code, output = _run(command, _environ(variables), place, seconds)
        told = _read(folder / "told")
        told.code, told.output = code, output
        with contextlib.suppress(OSError):
            told.crash = (folder / "crash").read_text(encoding="utf-8", errors="replace")
    return told


def _said(settings: Settings) -> dict[str, str]:
    """The settings that were set, as text by name; what turns the other triggers on is left out."""
    known = [name for each in setting_fields() for name in setting_names(each.metadata)]
    said = {name: settings.environ[name] for name in known if name in settings.environ}
    said |= {"AML_APP_ROOT": settings.app_root, "SCORING_TRIGGERS": "http,blob,service_bus"}
    said |= {"AZUREML_ENTRY_SCRIPT": settings.entry_script} if settings.entry_script else {}
    return said | ({"AZUREML_MODEL_DIR": settings.model_dir} if settings.model_dir else {})


def _environ(variables: Mapping[str, str] | None) -> dict[str, str]:
    if variables is None:
        return {**os.environ}
    known = {name for each in setting_fields() for name in setting_names(each.metadata)}
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


def _read(path: Path) -> Told:
    told = Told()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return told
    for line in lines:
        name, value = json.loads(line)
        if name in ("stage", "missing", "variable", "broken"):
            setattr(told, name, value)
        elif name == "fact":
            told.facts[value[0]] = value[1]
        else:
            getattr(told, {"finding": "findings"}.get(name, name)).append(value)
    return told


# --- what it means --------------------------------------------------------------------------------


def add(report: Report, told: Told, settings: Settings, seconds: float) -> None:
    """What a trial told, and how it ended, in the report."""
    report.facts |= told.facts
    report.notes += told.notes
    for kind, where, text, detail in told.findings:
        report.add(kind, where, text, detail)
    if told.missing:
        name, where, text, detail = told.missing
        advice = f"{text}. pip install {packages_of(name)[0]}"
        report.add("package", where or name, advice, detail)
    if not told.stage:
        told.broken = masked(told.output)  # it has not come so far as to load anything
        told.stage = "done"
    if told.broken:
        report.unchecked = f"the check itself has failed, please report it:\n{told.broken}"
    if told.stage != "done":
        _add_end(report, told, settings, seconds)
    for name in told.changing:
        _add_changing(report, name, settings)


def _add_changing(report: Report, name: str, settings: Settings) -> None:
    said = f"{name}: the same input has another answer the second time"
    if settings.cached and settings.cache_ttl_seconds:
        setting = "CACHE_URL" if settings.cache_url else "REDIS_HOST"
        text = f"{said}; the cache gives the first one for {settings.cache_ttl_seconds} s."
        report.add("answers", setting, text)
    else:
        report.notes.append(f"{said}: triggers are not compared, and a cache would keep the first.")


def _add_end(report: Report, told: Told, settings: Settings, seconds: float) -> None:
    stage, _, sample = told.stage.partition(" ")
    what = "Loading it" if stage == "load" else f"run(){f' on {sample}' if sample else ''}"
    kind = "load" if stage == "load" else "run"
    where = faults.innermost(told.crash, settings)
    output = masked(told.output)
    if told.crash.startswith("Timeout"):
        report.facts["ended_in"] = stage
        text = f"{what} has not ended after {seconds:g} s."
        where = where or faults.definition(settings, "init" if stage == "load" else "run")
    else:
        where = where or faults.ending_calls(settings)
        where = where or faults.definition(settings, "init" if stage == "load" else "run")
        text = f"{what} {faults.ended(told.code)}."
    report.add(kind, where, text, output)
