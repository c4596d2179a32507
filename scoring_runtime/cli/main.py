"""``scoring-runtime``: parse, configure logging, call one function."""

from __future__ import annotations

import argparse
import asyncio
import builtins
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..connections.named import triggers
from ..errors import ConfigurationError, InputError, RunFailed, ScoringRuntimeError, StartError
from ..messages import ScoringRequest, ScoringResponse
from ..release import DOCUMENTATION, VERSION
from ..scoring.diagnosis import diagnosis, in_one_line
from ..scoring.runtime import build
from ..scoring.served import served
from ..settings import kinds
from ..settings import markdown as settings_table
from ..settings.processors import for_libraries
from ..settings.secrets import masked
from ..settings.settings import Settings, environment_name
from ..telemetry import standard_streams
from ..telemetry.logs import configure_logging, log, redirect_print
from ..telemetry.threads import carry_ids
from ..triggers.outcomes import EXTENSIONS, directed, directions
from . import models
from .parser import EXIT_OK, Parser, add, model_options, option, refused, subcommands
from .terminal import show_table

REPLAY = "score records with another model or script, and show what changed"
BATCH = "score a folder, a container or a big file once, and end"
PACKAGE = "make an image of a model, a script and its environment"
EXIT_REFUSED, EXIT_CANNOT_START, EXIT_RUN_FAILED = 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # A reader that went away, as head does. Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _run(words: Sequence[str]) -> int:
    options = _parser(words).parse_args(words)
    command: Callable[[Settings, argparse.Namespace], int] = options.command
    if not options.reads_settings:
        return command(Settings(), options)
    settings = None
    try:
        settings = _settings(options)
        _export(settings)
        return command(settings, options)
    except StartError as error:
        print(diagnosis(error, settings), file=sys.stderr)
        return EXIT_CANNOT_START


def _parser(words: Sequence[str] = ("package", "replay", "batch")) -> argparse.ArgumentParser:
    """The parser of the command line; a command that is not among ``words`` may lack its options.

    So that a server does not load the packager.
    """
    parser = Parser(
        prog="scoring-runtime",
        description="Host a trained model behind events.",
        epilog=f"Documentation: {DOCUMENTATION}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scoring-runtime {VERSION}")
    parser.set_defaults(set=[], defaults={})
    commands = subcommands(parser)
    _add_serve(commands)
    _add_score(commands)
    _add_check(commands)
    if "replay" in words:
        _add_replay(commands)
    else:
        commands.add_parser("replay", help=REPLAY)
    if "batch" in words:
        from . import batch

        made = batch.add_command(commands, BATCH)
        made.set_defaults(command=_batch, defaults=batch.DEFAULTS)
    else:
        commands.add_parser("batch", help=BATCH)
    models.add_commands(commands)
    if "package" in words:
        from . import package

        package.add_command(commands, PACKAGE)
    else:
        commands.add_parser("package", help=PACKAGE)
    text = "show every setting, its value and its source"
    show = add(commands, "settings", text, "--json")
    model_options(show)
    form = show.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="names and defaults for a page")
    show.set_defaults(command=_show_settings)
    return parser


def _add_serve(commands: Any) -> None:
    text = "score requests, files and messages until stopped"
    serve = add(commands, "serve", text, "--entry-script score.py --model-dir model")
    model_options(serve)
    option(serve, "--port", "SERVER_PORT", "port to listen on (5001)", int)
    option(serve, "--host", "SCORING_HOST", "address to listen on (127.0.0.1)")
    option(
        serve, "--workers", "WORKER_COUNT", "worker processes, or auto (1)", str, "--worker_count"
    )
    option(serve, "--health-port", "HEALTH_PORT", "second port for health (5000)", int)
    watch = "score the files dropped into this folder"
    option(serve, "--watch", "BLOB_INPUT_FOLDER", watch)
    option(serve, "--output", "BLOB_OUTPUT_FOLDER", "folder for their results (output beside it)")
    origins = "origins that may call from a page"
    option(serve, "--access-control-allow-origins", "AML_CORS_ORIGINS", origins)
    key = "send to Application Insights (extra appinsights)"
    option(serve, "--appinsights-instrumentation-key", "AML_APP_INSIGHTS_KEY", key)
    # The old server's hidden option; start scripts of images still pass it.
    serve.add_argument("--rest", action="store_true", help=argparse.SUPPRESS)
    serve.set_defaults(command=_serve)


def _add_score(commands: Any) -> None:
    text = "score one input and print the answer"
    score = add(commands, "score", text, "--entry-script score.py --model-dir model input.json")
    model_options(score)
    score.add_argument("file", nargs="?", default="-", help="the input; - is standard input")
    score.add_argument("--content-type", default="", help="of the input (by the file's name)")
    score.add_argument("--accept", default="", help="content type of the answer (JSON)")
    score.add_argument("--model", default="", help="name or name:version, of several")
    score.add_argument("--method", default="", help="such as predict_proba")
    score.add_argument(
        "-v", "--verbose", action="store_true", help="the log too, not only warnings"
    )
    score.set_defaults(command=_score)


def _add_check(commands: Any) -> None:
    text = "say what will happen, before it does: load, score samples, measure, compare"
    check = add(commands, "check", text, "--entry-script score.py --model-dir model")
    model_options(check)
    about = "a folder that package made, in place of a script or a model"
    check.add_argument("folder", nargs="?", default="", metavar="PACKAGE_FOLDER", help=about)
    check.add_argument("--image", metavar="IMAGE", default="", help="check an image, inside it")
    check.add_argument("--builder", metavar="BUILDER", default="", help="docker or podman")
    sample = "one more sample to score; may be given several times"
    check.add_argument("--sample", action="append", default=[], metavar="FILE", help=sample)
    target = "functions or standalone: whose limits count (default: the package's)"
    check.add_argument("--target", choices=("functions", "standalone"), default="", help=target)
    limit = "how long it may take (300)"
    check.add_argument("--seconds", type=_seconds, default=300, metavar="SECONDS", help=limit)
    check.add_argument("--json", action="store_true", help="the report as JSON")
    check.set_defaults(command=_check, reads_settings=False)


def _seconds(text: str) -> float:
    try:
        found = kinds.seconds(text)
    except ValueError:
        found = 0.0
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed. Allowed: seconds above 0.")
    return found


def _add_replay(commands: Any) -> None:
    from . import replay

    example = "records --entry-script score.py --model-dir model"
    parser = add(commands, "replay", REPLAY, example)
    model_options(parser)
    replay.add_options(parser)
    parser.set_defaults(command=_replay)


def _settings(options: argparse.Namespace) -> Settings:
    said = dict(options.set)
    said |= {n: str(v) for n, v in vars(options).items() if n.isupper() and v is not None}
    if "AZUREML_ENTRY_SCRIPT" in said:
        said["AZUREML_ENTRY_SCRIPT"] = os.path.realpath(said["AZUREML_ENTRY_SCRIPT"])
    if "AML_APP_INSIGHTS_KEY" in said:
        said["AML_APP_INSIGHTS_ENABLED"] = "true"
    _check_command_line(said)
    return Settings.from_environ(
        os.environ,
        command_line=said,
        defaults={"AML_APP_ROOT": os.getcwd(), **options.defaults},
    )


def _check_command_line(said: dict[str, str]) -> None:
    try:
        Settings.from_environ({}, command_line=said)
    except ConfigurationError as error:
        if "(from the command line)" not in str(error):
            raise
        raise SystemExit(refused(error)) from None
    folder = Path(said.get("AZUREML_MODEL_DIR", ""))
    if folder.is_file():
        said_so = f"--model-dir names the file {folder}: name its folder, {folder.parent}"
        raise SystemExit(refused(said_so))


def _export(settings: Settings) -> None:
    """What scripts and old tools read from the environment."""
    exported = {
        "AML_APP_ROOT": settings.app_root,
        "AZUREML_ENTRY_SCRIPT": settings.entry_script,
        "AZUREML_MODEL_DIR": settings.model_dir,
        "WORKER_COUNT": str(settings.worker_count),
        "SERVER_PORT": str(settings.port),
        "HEALTH_PORT": str(
            settings.health_port if settings.separate_health_endpoint else settings.port
        ),
        "AML_APP_INSIGHTS_ENABLED": "true" if settings.app_insights_active else "false",
    }
    os.environ.update({name: value for name, value in exported.items() if value})
    os.environ.update(for_libraries(os.environ, settings.worker_count))


def _configure_logging(settings: Settings, stream: str, *, quiet: bool = False) -> None:
    """``quiet`` leaves out what the runtime says of itself, not what the script prints or logs."""
    places = [Path(settings.app_root)]
    if settings.script_path is not None:
        places.append(settings.script_path.parent)
    own = places if stream == "stdout" else []
    configure_logging(settings.log_level, own, stream, settings.log_format)
    redirect_print()
    carry_ids()
    if quiet:
        logging.getLogger("azmlinfsrv.print").setLevel(settings.log_level)
        log.setLevel(max(log.level, logging.WARNING))
    for warning in settings.warnings:
        log.warning("%s", warning)


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    try:
        from ..standalone import serve
    except ModuleNotFoundError as error:
        return refused(f"serve needs {error.name}: pip install 'scoring-runtime[server]'")
    try:
        standard_streams.install()
        _configure_logging(settings, "stdout")
        _check_platform(settings, sys.platform)
        settings = serve.with_shorter_timeout(settings)
        if settings.log_format == "text":
            _banner(settings)
        return serve.run(settings, _export)
    except serve.PortInUse as error:
        return refused(error)


def _check_platform(settings: Settings, platform: str) -> None:
    """Say what Windows cannot do.

    Raises:
        ConfigurationError: several workers are asked for there.
    """
    if platform != "win32":
        return
    elsewhere = "use WSL or a container for that"
    if settings.worker_count > 1:
        raise ConfigurationError(
            f"WORKER_COUNT is {settings.worker_count}, but Windows cannot fork worker processes. "
            f"Allowed here: 1; {elsewhere}."
        )
    log.warning("On Windows one worker serves, and without uvloop slower: %s.", elsewhere)


def _batch(settings: Settings, options: argparse.Namespace) -> int:
    from . import batch

    # Where scripts of batch endpoints write what they do not return.
    os.environ["AZUREML_BI_OUTPUT_PATH"] = os.path.abspath(options.output)
    begin = partial(_configure_logging, stream="stderr", quiet=not options.verbose)
    code: int = batch.run(settings, options, begin)
    return code


def _score(settings: Settings, options: argparse.Namespace) -> int:
    try:
        body = sys.stdin.buffer.read() if options.file == "-" else Path(options.file).read_bytes()
    except OSError as error:
        return refused(f"{options.file}: {error.strerror}")
    _configure_logging(settings, "stderr", quiet=not options.verbose)
    by_name = EXTENSIONS.get(Path(options.file).suffix.lower(), "application/json")
    said = options.content_type or by_name
    headers = ((b"content-type", said.encode("latin-1")),)
    asked = directions({name: getattr(options, name) for name in ("accept", "model", "method")})
    request = directed(ScoringRequest(body, headers), asked)
    try:
        with _stdout_is_stderr():
            answer, content = asyncio.run(_score_one(settings, request))
    except StartError:
        raise
    except ScoringRuntimeError as error:
        print(error, file=sys.stderr)
        if isinstance(error, RunFailed) and error.__cause__ is not None:
            print(f"Cause: {masked(in_one_line(error.__cause__))}", file=sys.stderr)
        return EXIT_REFUSED if isinstance(error, InputError) else EXIT_RUN_FAILED
    stream = sys.stdout if answer.status < 400 else sys.stderr
    stream.buffer.write(content + (b"\n" if stream.isatty() else b""))
    if answer.status < 400:
        return EXIT_OK
    return EXIT_REFUSED if answer.status < 500 else EXIT_RUN_FAILED


def _check(_: Settings, options: argparse.Namespace) -> int:
    from . import check  # which loads the packager

    def settings() -> Settings:
        found = _settings(options)
        _export(found)
        return found

    return check.run(options, settings)


def _replay(settings: Settings, options: argparse.Namespace) -> int:
    from . import replay

    real_print = builtins.print
    _configure_logging(settings, "stderr", quiet=True)
    if options.samples:
        builtins.print = real_print  # only scripts print to the log
    try:
        if options.samples:
            return replay.write_samples(options)
        with _stdout_is_stderr():
            report = asyncio.run(replay.replayed(settings, options))
    except OSError as error:
        return refused(f"{error.filename}: {error.strerror}")
    builtins.print = real_print
    return replay.show(report, options)


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Standard output is for the answer: what libraries write there goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _show_settings(settings: Settings, options: argparse.Namespace) -> int:
    if options.markdown:
        print(settings_table.markdown())
        return EXIT_OK
    for warning in settings.warnings:
        print(f"scoring-runtime: {warning}", file=sys.stderr)
    rows = settings_table.rows(settings)
    if options.json:
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    if sys.stdout.isatty():
        show_table(("SETTING", "VALUE", "SOURCE"), ([*map(str, row.values())][:3] for row in rows))
        return EXIT_OK
    for row in rows:
        print(f"{row['name']}={row['value']}  ({row['source']})")
    return EXIT_OK


async def _score_one(settings: Settings, request: ScoringRequest) -> tuple[ScoringResponse, bytes]:
    runtime = build(settings)
    runtime.start()
    await runtime.started()
    response = await runtime.score(request)
    content = await runtime.whole(response.body)
    await runtime.stop()
    return response, content


def _banner(settings: Settings) -> None:
    if not settings.model_dir:
        log.info("The environment variable 'AZUREML_MODEL_DIR' has not been set.")
        log.info("Use the --model-dir command line argument to set it.")
    wanted = settings.app_insights_enabled and settings.app_insights_key
    if wanted and not settings.app_insights_active:
        log.info("Invalid Application Insights instrumentation key provided.")
        log.info("Application Insights has been disabled.")
    shown = ("entry_script", "model_dir", "config_file", "worker_count", "scoring_timeout_ms")
    rows = [f"{environment_name(n)}: {getattr(settings, n)}" for n in shown]
    base = f"{'https' if settings.tls_cert else 'http'}://127.0.0.1:{settings.port}"
    score = f"Score:          POST  {base}/score\n" if "http" in triggers(settings) else ""
    found = served(settings)
    if score and len(found) > 1:
        score += "".join(
            f"                POST  {base}/score/{each.name}/{each.version}\n" for each in found
        )
    if score and found[0].folder is not None:
        score += f"V2:             POST  {base}/v2/models/NAME/infer\n"
    watched = settings.blob_input_folder
    watching = f"Watching:       {Path(watched).resolve()}\n" if watched else ""
    print("\nServer Settings\n---------------\n" + "\n".join(rows), file=sys.stderr)
    print(
        f"\nServer Routes\n---------------\n"
        f"{score}"
        f"Liveness Probe: GET   {base}/\n"
        f"Readiness:      GET   {base}/health/ready\n"
        f"Schema:         GET   {base}/swagger.json\n"
        f"{watching}\n"
        f"{_open_to(settings)}"
        f"Documentation:  {DOCUMENTATION}\n",
        file=sys.stderr,
        flush=True,
    )


def _open_to(settings: Settings) -> str:
    """What is open to whom, in lines."""
    address = settings.address
    here = address in ("127.0.0.1", "::1", "localhost")
    whom = "this machine only" if here else f"every machine that reaches {address}"
    tls = "with TLS" if settings.tls_cert else "without TLS"
    tls += " for clients with a certificate (SCORING_TLS_CA)" if settings.tls_ca else ""
    if not settings.asks_for_keys:
        return f"Open to:        {whom} (SCORING_HOST), without a key and {tls}\n"
    admins = settings.admin_keys or settings.admin_keys_file
    given = {
        "a key (SCORING_KEYS)": settings.keys or settings.keys_file,
        "a token (SCORING_ENTRA_TENANT)": settings.entra_tenant,
        "an administrator's key (SCORING_ADMIN_KEYS)": admins,
    }
    scoring = " or ".join(what for what, value in given.items() if value)
    rest = "with an administrator's key" if admins else "closed (set SCORING_ADMIN_KEYS)"
    openly = "health and /metrics" if settings.metrics_open else "health"
    return (
        f"Open to:        {whom} (SCORING_HOST), {tls}\n"
        f"Scoring:        with {scoring}\n"
        f"All else:       {rest}; {openly} without\n"
    )
