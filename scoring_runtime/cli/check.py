"""``scoring-runtime check``: a report on one screen, and the exit code of what was found."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..check import checks
from ..check.report import CLASSES, Report
from ..errors import ConfigurationError, PackagingError
from ..settings.settings import Settings
from .parser import refused
from .terminal import show_table

_ORDER = list(CLASSES)


def run(options: argparse.Namespace, settings: Callable[[], Settings]) -> int:
    """Check what the options name; ``settings`` are those of the environment and the options."""
    try:
        report = _report(options, settings)
    except ConfigurationError as error:
        report = Report(options.folder or os.getcwd(), findings=[checks.wrong_setting(error)])
    except (PackagingError, OSError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        return refused(said)
    if options.json:
        print(report.text())
    else:
        show(report)
    return report.exit_code


def _report(options: argparse.Namespace, settings: Callable[[], Settings]) -> Report:
    for each in options.sample:
        Path(each).open("rb").close()
    given = [name for name in ("AZUREML_ENTRY_SCRIPT", "AZUREML_MODEL_DIR", "AZUREML_CONFIG_FILE")
             if getattr(options, name)]  # fmt: skip
    if given and (options.folder or options.image):
        raise PackagingError(
            "A package folder and an image have their own script, model and configuration: leave "
            "--entry-script, --model-dir and --config-file out, or the folder or image."
        )
    if options.image:
        if options.folder or options.sample:
            raise PackagingError("--image is checked with what is in it: no folder, no --sample.")
        more = [word for name, value in options.set for word in ("--set", f"{name}={value}")]
        more += ["--target", options.target] if options.target else []
        more += ["--seconds", f"{options.seconds:g}"]
        return checks.of_image(options.image, options.builder, more, options.seconds)
    limits = {"samples": options.sample, "seconds": options.seconds}
    if options.folder:
        return checks.of_package(Path(options.folder), more=dict(options.set), **limits)
    return checks.of_settings(settings(), target=options.target, **limits)


def show(report: Report) -> None:
    """Print it: what was measured, then what is wrong, the gravest first."""
    rows = [*_rows(report.facts)]
    if report.unchecked:
        rows.append(("not checked", report.unchecked))
    rows += [("note", each) for each in report.notes]
    show_table(("CHECKED", _short(report.target)), rows)
    findings = sorted(report.findings, key=lambda each: _ORDER.index(each.kind))
    if not findings and not report.unchecked:
        print("\nNothing is wrong.")
    for each in findings:
        print(f"\n{each.kind}: {_short(each.where)}\n  {each.text}")
        if each.detail and each.kind in ("load", "package"):
            print("\n".join(f"  {line}" for line in each.detail.splitlines()))


def _short(where: str) -> str:
    """A path below the working folder without that."""
    here = f"{os.getcwd()}{os.sep}"
    return where.removeprefix(here)


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "start_seconds" in facts:
        yield "start", f"loaded {facts['start_seconds']:.2f} s after the start of the process"
    if "samples" in facts:
        names = [_short(each) for each in facts["samples"]]
        yield "samples", ", ".join(names) or "none: sample_input.json or samples/ beside the script"
    if "same" in facts:
        of = f"{facts['same']} of {len(facts['samples'])} samples"
        yield "answers", f"the same again, and by HTTP, blob and message: {of}"
    if "p50_ms" in facts:
        first = facts["first_ms"]
        runs = (
            f"p50 {facts['p50_ms']:.2f} ms, p99 {facts['p99_ms']:.2f} ms of {facts['runs']} calls"
        )
        yield "time", f"run() {runs}; the first request {first:.0f} ms"
    if facts.get("loaded_mb"):
        after = facts.get("scored_mb", facts["loaded_mb"])
        yield "memory", f"{facts['loaded_mb']:.0f} MB with the model, {after:.0f} MB after scoring"
    if "threads" in facts:
        said = facts["threads"]
        wrong = f"{said['differ']} answers differ" if said["differ"] else "the answers are the same"
        yield "threads", f"{said['together']} at a time, {said['calls']} calls: {wrong}"
    if "batches" in facts:
        yield "batches", _batches(facts["batches"])


def _batches(said: Mapping[str, Any]) -> str:
    if "why_not" in said:
        return str(said["why_not"])
    taken = {int(size): ms for size, ms in said["ms"].items()}
    same = "answers are the same to the bit"
    if said["differ"]:
        by = (
            f"by up to {said['largest']:.1e}"
            if said["largest"] is not None
            else "in more than digits"
        )
        same = f"answers of {', '.join(map(str, said['differ']))} together differ {by}"
    if said["size"] == 1:
        return f"gain nothing: {taken[1]:.3f} ms an input alone, {taken[64]:.3f} ms of 64; {same}"
    size = said["size"]
    gain = f"{said['gain']:.1f} times as fast ({taken[size]:.3f} ms an input, alone {taken[1]:.3f})"
    return f"{size} together are {gain}; {same}: {said['setting']}"
