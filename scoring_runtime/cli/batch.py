"""``scoring-runtime batch``: options, what is shown meanwhile, the summary."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from time import monotonic
from typing import Any

from ..batch import on_ray
from ..batch.crew import EXIT_INTERRUPTED, Crew, Tally
from ..batch.job import Asked, Begin, job_of
from ..errors import ConfigurationError
from ..settings.settings import Settings
from .parser import add, model_options, option, refused
from .terminal import Bar

DEFAULTS = {"WORKER_COUNT": "auto", "BLOB_POLL_SECONDS": "0.1-2"}
"""Of settings, where a batch has others than a server."""
_SAY_SECONDS = 10.0
_OLD_TIMEOUT = "SCORING_TIMEOUT_MS"


def add_command(commands: Any, text: str) -> argparse.ArgumentParser:
    """The command, with the options of every command that scores."""
    batch = add(commands, "batch", text, "--model-dir model --input rows.csv --output scored.csv")
    model_options(batch)
    given = batch.add_argument
    place = "folder, container, or file: CSV, JSON Lines, Parquet"
    given("--input", required=True, metavar="PLACE", help=place)
    given("--output", required=True, metavar="PLACE", help="where results go: of the same kind")
    per_node = ("--process-count-per-node", "--process_count_per_node")
    option(batch, "--workers", "WORKER_COUNT", "worker processes, or auto (auto)", str, *per_node)
    text = "files that one call of a model without a script may score together (1)"
    option(batch, "--batch-size", "SCORING_MAX_BATCH_SIZE", text, int)
    text = "rows of a file that are scored by one call (10000)"
    given("--rows", type=_positive, default=0, metavar="N", help=text)
    text = "whether a CSV file has a line of names (as it looks)"
    given("--header", choices=("present", "absent"), default="", help=text)
    text = 'give run() the rows as JSON: {"NAME": [[1, 2], …]}'
    given("--rows-as", default="", metavar="NAME", help=text)
    given("--model", default="", help="name or name:version, of several")
    given("--method", default="", help="such as predict_proba")
    given("--follow", action="store_true", help="go on with what comes, until stopped")
    text = "what runs the workers: processes, or Ray"
    given("--engine", choices=("processes", "ray"), default="processes", help=text)
    given("--json", action="store_true", help="the summary as JSON")
    given("-v", "--verbose", action="store_true", help="the log too, not only warnings")
    _add_mini_batches(batch)
    text = "for the script of run(mini_batch), as its sys.argv"
    given("arguments", nargs="*", metavar="-- ARGUMENT", help=text)
    return batch


def _add_mini_batches(batch: argparse.ArgumentParser) -> None:
    """What ParallelRunConfig and batch deployments are told, by its names."""
    text = "files of a mini batch (10), or bytes of a table's rows (1mb)"
    _old(batch, "--mini-batch-size", default="", metavar="SIZE", help=text)
    text = "inputs without a result that end all; -1: none do"
    _old(batch, "--error-threshold", type=_threshold, metavar="N", help=text)
    actions = ("append_row", "summary_only")
    text = "whether results are appended to one file (append_row)"
    _old(batch, "--output-action", choices=actions, default="", help=text)
    text = "that file (parallel_run_step.txt)"
    names = ("--append-row-file-name", "--output-file-name")
    _old(batch, *names, dest="output_file_name", default="", metavar="NAME", help=text)
    text = "seconds that one run() may take (3600)"
    option(batch, "--run-invocation-timeout", _OLD_TIMEOUT, text, _milliseconds)
    option(batch, "--run-max-try", "BLOB_MAX_ATTEMPTS", "tries of one input (5)", int)


def _old(parser: argparse.ArgumentParser, *flags: str, **said: Any) -> None:
    both = [each for flag in flags for each in (flag, f"--{flag[2:].replace('-', '_')}")]
    parser.add_argument(*both, **said)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not allowed: a whole number from 1 is")
    return int(text)


def _threshold(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or int(text) < -1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: a whole number from -1 is")
    return int(text)


def _milliseconds(text: str) -> int:
    return _positive(text) * 1000


def run(settings: Settings, options: argparse.Namespace, begin: Begin) -> int:
    """Score; the exit code."""
    for warning in settings.warnings:
        print(f"scoring-runtime: {warning}", file=sys.stderr)
    asked = Asked(**{name: getattr(options, name) for name in Asked._fields})
    try:
        job = job_of(settings, asked, begin)
        crew = Crew(job, _Progress(options.json), options.error_threshold)
        hire = partial(on_ray.hire, job=job) if options.engine == "ray" else None
        tally = crew.run(hire)
    except ConfigurationError as error:
        return refused(error)
    except KeyboardInterrupt:  # before the workers, or after them
        return EXIT_INTERRUPTED
    what = "rows" if job.kind else "inputs"
    print(json.dumps(vars(tally), indent=2) if options.json else _text(tally, what))
    if tally.why:
        print(tally.why, file=sys.stderr)
    return tally.code


def _text(tally: Tally, what: str) -> str:
    rate = f", {tally.here / tally.seconds:,.0f} a second" if tally.seconds else ""
    lines = [f"Scored {tally.scored:,} of {tally.total:,} {what} in {tally.seconds:.1f} s{rate}."]
    for kind in ("before", "refused", "failed", "left"):
        if number := getattr(tally, kind):
            lines.append(f"{'Done before' if kind == 'before' else kind.capitalize()}: {number:,}.")
    lines += [f"  {reason}: {number:,}" for reason, number in tally.reasons.most_common()]
    return "\n".join([*lines, f"Which, and why: {tally.errors}"][: len(lines) + bool(tally.errors)])


class _Progress:
    """A bar with rate and time left at a terminal; else a line now and then."""

    def __init__(self, quiet: bool) -> None:
        self._bar = Bar() if sys.stderr.isatty() else None
        self._quiet = quiet
        self._began = self._said = monotonic()

    def __call__(self, tally: Tally) -> None:
        done, rate = tally.before + tally.here, tally.here / (monotonic() - self._began)
        left = f", {_time((tally.total - done) / rate)} left" if rate else ""
        text = f"{rate:,.0f}/s{left}"
        if self._bar is not None:
            self._bar(done, tally.total, text)
            if tally.total and done >= tally.total:
                self._bar.close()
        elif tally.total and not self._quiet and monotonic() - self._said > _SAY_SECONDS:
            self._said = monotonic()
            print(f"{done:,} of {tally.total:,}, {text}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
