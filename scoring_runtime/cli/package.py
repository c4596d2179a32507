"""``scoring-runtime package``: options to a specification, to a context, to an image."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from ..check import checks
from ..check.report import Report
from ..errors import PackagingError, ScoringRuntimeError
from ..packaging import context as build_context
from ..packaging import image, instructions, model_files
from ..packaging.deployment import files
from ..packaging.deployment.configuration import KINDS, Aci, Configuration, read
from ..packaging.environment import inference_config
from ..packaging.environment.pip import from_packages, from_requirements, merged
from ..packaging.specification import (
    FUNCTIONS,
    SOURCE,
    STANDALONE,
    VARIABLE,
    Context,
    Environment,
    PackagedModel,
    Specification,
    check_image,
)
from ..settings.settings import Settings
from .models import DEFAULT_REGISTRY
from .parser import EXIT_OK, EXIT_USAGE
from .terminal import Bar

EXIT_INTERRUPTED = 130
_LONGEST_VERSION, _LISTED = 9, 20
_CHECK_SECONDS = 60
_NO_NAME = re.compile("[^a-z0-9]+")
_TRIGGERS = {"http": "http", "blob": "blob", "service_bus_queue": "service_bus"}
_ABOUT = """\
Make a folder from which an image can be built: the model, the entry script, their packages, the
runtime and a Dockerfile. It ends with the commands to build it, to try it and to deploy it.

  scoring-runtime package --model net=model.onnx
  scoring-runtime package --entry-script score.py --model net=model.pkl --conda conda.yml
  scoring-runtime package --entry-script score.py --source-dir src --trigger blob --build
"""


def add_command(commands: Any, text: str) -> None:
    """Add ``package``, of which a list of the commands says ``text``, to the sub-commands."""
    form = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "package",
        help=text,
        description=_ABOUT,
        formatter_class=form,
        usage="%(prog)s [OPTION ...]",
    )
    _add_inputs(parser.add_argument_group("what is packaged"))
    _add_environment(parser.add_argument_group("what it needs"))
    _add_triggers(parser.add_argument_group("what starts it"))
    _add_outputs(parser.add_argument_group("what is made"))
    _add_build(parser.add_argument_group("building the image"))
    parser.set_defaults(command=_run, reads_settings=False)


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    model = (
        "a model's file or folder (net=model.pkl, net:3=model.pkl), or a registered model "
        "(net, net:3); may be given several times"
    )
    _repeated(group, "--model", "NAME[:VERSION][=PATH]", model)
    # Of every other command; an image's models have names, and a version.
    hidden = argparse.SUPPRESS
    group.add_argument("--model-dir", "--model_dir", action=_NoModelDir, help=hidden)
    place = f"where models without =PATH are registered (default: ./{DEFAULT_REGISTRY})"
    group.add_argument("--registry", metavar="FOLDER", help=place)
    script = "the script with init() and run(); some models score without (scikit-learn, ONNX, ...)"
    group.add_argument("--entry-script", metavar="FILE", help=script)
    whole = "folder that is taken whole, with the script in it (default: the script's own)"
    group.add_argument("--source-dir", metavar="FOLDER", help=whole)
    config = "inferenceconfig.json, or a deployment's YAML, with script, folder and environment"
    group.add_argument("--inference-config", metavar="FILE", help=config)


class _NoModelDir(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        place, folder = shlex.quote(f"NAME={values.rstrip('/') or '/'}/."), shlex.quote(values)
        raise argparse.ArgumentError(
            self,
            f"models of a package have names: --model {place} for what lies in the folder, or, "
            f"where models lie in it by NAME/VERSION, --registry {folder} --model NAME",
        )


def _add_environment(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--conda", metavar="FILE", help="conda environment of the script")
    group.add_argument("--requirements", metavar="FILE", help="pip requirements of the script")
    package = "one more package, such as 'pillow>=10'; may be given several times"
    _repeated(group, "--pip-package", "PACKAGE", package)
    missing = "package although nothing provides a module that the script or a model needs"
    group.add_argument("--allow-missing", action="store_true", help=missing)
    setting = (
        "a setting of the runtime, or a variable of the script, in the image; of a secret only "
        "the name is kept; may be given several times"
    )
    _repeated(group, "--setting", "NAME=VALUE", setting)
    image = "image to start from (default: the target's own)"
    group.add_argument("--base-image", metavar="IMAGE", default="", help=image)


def _add_triggers(group: argparse._ArgumentGroup) -> None:
    trigger = (
        "http, blob or service_bus_queue; may be given several times (default: http; standalone: "
        "http and each whose connection is set where it runs)"
    )
    _repeated(group, "--trigger", "TRIGGER", trigger)
    texts = {
        "--auth-level": ("LEVEL", "of http: anonymous, function or admin (default: function)"),
        "--input-path": ("PATH", "of blobs to score (default: input/{blobname}.json)"),
        "--output-path": ("PATH", "of their results (default: output/{blobname}_out.json)"),
        "--input-queue": ("QUEUE", "of messages to score (default: input)"),
    }
    for flag, (metavar, text) in texts.items():
        group.add_argument(flag, metavar=metavar, default="", help=text)
    replies = "of replies (default: output); '' for replies to a message's reply_to only"
    group.add_argument("--output-queue", metavar="QUEUE", help=replies)


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    target = "functions (Azure Functions, the default) or standalone (ACI, Kubernetes, IoT Edge)"
    group.add_argument("--target", metavar="TARGET", default="", help=target)
    config = "deploymentconfig.json of az ml model deploy: the files that deploy it, beside it"
    group.add_argument("--deployment-config", metavar="FILE", help=config)
    where = "aci, aks or iotedge (default: the file's computeType)"
    group.add_argument("--deployment-target", metavar="TARGET", default="", help=where)
    output = "folder that is made, or replaced if it is a package (default: ./package)"
    group.add_argument("--output", metavar="FOLDER", default="package", help=output)
    changed = "replace a package although its files were changed by hand"
    group.add_argument("--overwrite", action="store_true", help=changed)
    lock = "install exact versions by their hashes; needs uv (extra lock)"
    group.add_argument("--lock", action="store_true", help=lock)
    offline = "do not ask pip whether the packages can be installed"
    group.add_argument("--no-resolve", action="store_true", help=offline)
    unchecked = "do not load the script or model, nor score its samples (see check)"
    group.add_argument("--no-check", action="store_true", help=unchecked)
    group.add_argument("--json", action="store_true", help="print what was made as JSON")


def _add_build(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--build", action="store_true", help="build the image too")
    tag = "name of the image, such as net:3 (default: the first model's name and version)"
    group.add_argument("--tag", metavar="IMAGE", default="", help=tag)
    builder = "docker, podman or buildah (default: the first that works)"
    group.add_argument("--builder", metavar="BUILDER", default="", help=builder)
    argument = (
        "build argument, such as BASE_IMAGE=...; NAME alone takes the value from the environment, "
        "as PIP_INDEX_URL with a password should"
    )
    _repeated(group, "--build-arg", "NAME[=VALUE]", argument)
    option = "one more option of the builder, as in --builder-option=--network=host"
    _repeated(group, "--builder-option", "OPTION", option)


def _repeated(group: argparse._ArgumentGroup, flag: str, metavar: str, text: str) -> None:
    group.add_argument(flag, action="append", default=[], metavar=metavar, help=text)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    try:
        return _package(options)
    except ScoringRuntimeError as error:
        _say(f"scoring-runtime: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        _say("scoring-runtime: interrupted")
        return EXIT_INTERRUPTED


def _package(options: argparse.Namespace) -> int:
    _check(options)
    wanted, configuration = specification_of(options), _configuration_of(options)
    if configuration is not None:
        wanted = files.adapted(wanted, configuration)
    made = _made(wanted, options)
    for warning in made.warnings:
        _say(f"scoring-runtime: warning: {warning}")
    report = None if options.no_check else _checked(made)
    name, _, version = "".join(made.models[:1]).partition(":")
    tag = options.tag or image.default_tag(name, version)
    if options.build:
        _build(made, tag, options)
    target = options.deployment_target
    beside = None if configuration is None else _deployed(made, tag, configuration, target)
    _print(made, tag, options, report, beside)
    return EXIT_OK


def _made(specification: Specification, options: argparse.Namespace) -> Context:
    bar = Bar() if sys.stderr.isatty() else None
    try:
        return build_context.make(
            specification,
            Path(options.output),
            progress=bar,
            resolve=not options.no_resolve,
            overwrite=options.overwrite,
            allow_missing=options.allow_missing,
        )
    finally:
        if bar is not None:
            bar.close()


def _checked(made: Context) -> Report:
    """What ``check`` says of the package, within a minute.

    Raises:
        PackagingError: it cannot be loaded, or a setting is wrong.
    """
    report = checks.of_package(made.path, seconds=_CHECK_SECONDS)
    if report.facts.get("ended_in") == "load":
        report.unchecked = f"loading it takes longer than {_CHECK_SECONDS} s"
        report.findings = [each for each in report.findings if each.kind != "load"]
    if report.unchecked:
        _say(f"scoring-runtime: not checked: {report.unchecked}")
    for each in report.findings:
        if each.kind == "load":
            raise PackagingError(
                f"{each.detail or each.text}\nThe package {made.path} cannot be loaded: "
                f"{each.where}. With --no-check it is not tried."
            )
        if each.kind != "package":  # the packager has its own words for those
            _say(f"scoring-runtime: warning: {each.kind}: {each.where}: {each.text}")
    return report


def _build(made: Context, tag: str, options: argparse.Namespace) -> None:
    _say(f"{_state(made)}: {made.path}")
    builder = image.find_builder(options.builder)
    _say(f"Building {tag} with {builder.name}")
    image.build(
        made.path,
        made.target,
        tag,
        builder=builder,
        build_args=dict(_build_argument(each) for each in options.build_arg),
        output=_say,
        options=options.builder_option,
    )


def _build_argument(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not VARIABLE.fullmatch(name):
        raise PackagingError(
            "--build-arg is not NAME=VALUE, or NAME alone to take the value from the environment: "
            "a name has letters, digits and '_'."
        )
    return name, value if equals else None


def _deployed(made: Context, tag: str, configuration: Configuration, target: str) -> files.Made:
    """Write the files that deploy it beside the package."""
    inside = tag.rpartition("/")[2]
    name = _NO_NAME.sub("-", inside.partition(":")[0].lower()).strip("-")
    name = name[:32].rstrip("-") if name[:1].isalpha() else f"scoring-{name}"[:32].rstrip("-")
    target = target or configuration.compute_type
    return files.make(files.Deployment(name, inside, target, configuration), made)


# --- what is written where ------------------------------------------------------------------------


def _say(line: str) -> None:
    """On standard error, whether or not somebody still reads it."""
    _write(sys.stderr, line)


def _write(stream: TextIO, text: str) -> None:
    """Print it; characters that the stream's encoding has not are escaped.

    A reader that went away, as ``head`` does, is no error: the package is made.
    """
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # Or Python would try again at its end, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


# --- what is asked for ----------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> None:
    """What can be said before anything is read."""
    if options.builder not in ("", *image.BUILDERS):
        image.find_builder(options.builder)
    if options.tag:
        check_image(options.tag, "--tag")
    for each in options.build_arg:
        _build_argument(each)
    given = {
        "--builder": options.builder,
        "--build-arg": options.build_arg,
        "--builder-option": options.builder_option,
    }
    for option, value in given.items():
        if value and not options.build:
            raise PackagingError(
                f"{option} is for --build, which is not given: add --build or leave {option} out."
            )
    if not options.output:
        raise PackagingError("--output is empty: name a folder that is empty or not there.")


def specification_of(options: argparse.Namespace) -> Specification:
    """What the options ask for.

    Raises:
        PackagingError: one of them is wrong; the message says which and what is allowed.
    """
    script, source = _path(options.entry_script), _path(options.source_dir)
    found: list[Environment] = []
    if options.inference_config:
        said = inference_config.read(Path(options.inference_config))
        script, source = script or said.entry_script, source or said.source_dir
        found.append(said.environment)
    environment = merged(*found, *_environments(options))
    triggers = tuple(dict.fromkeys(_trigger(each) for each in options.trigger))
    deployed = options.deployment_config or options.deployment_target
    target = options.target or (STANDALONE if deployed else FUNCTIONS)
    if not triggers and target == FUNCTIONS:
        triggers = ("http",)
    return Specification(
        target=target,
        triggers=triggers,
        models=tuple(_model(each, options.registry) for each in options.model),
        entry_script=script,
        source_dir=source,
        environment=environment,
        auth_level=options.auth_level,
        input_path=options.input_path,
        output_path=options.output_path,
        input_queue=options.input_queue,
        output_queue=options.output_queue,
        lock=options.lock,
    )


def _configuration_of(options: argparse.Namespace) -> Configuration | None:
    """What the options say of the deployment; None if nothing.

    Raises:
        PackagingError: the file cannot be used, or is for another target.
    """
    said, target = options.deployment_config, options.deployment_target
    if not said and not target:
        return None
    found = read(Path(said)) if said else KINDS.get(target, Aci)()
    files.check_target(target or found.compute_type, found)
    return found


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _environments(options: argparse.Namespace) -> list[Environment]:
    found = []
    if options.conda:
        found.append(inference_config.packages(Path(options.conda)))
    if options.requirements:
        found.append(from_requirements(Path(options.requirements)))
    if options.pip_package:
        found.append(from_packages(options.pip_package))
    variables = dict(_pair(each) for each in options.setting)
    last = replace(Environment(), variables=variables, base_image=options.base_image)
    return [*found, last]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        # What stands there may be the value, and that a secret.
        shown = f" {text!r}" if VARIABLE.fullmatch(text) else ""
        raise PackagingError(f"--setting{shown} is not NAME=VALUE.")
    return name, value


def _trigger(text: str) -> str:
    if text not in _TRIGGERS:
        raise PackagingError(f"There is no trigger {text!r}. Allowed: {', '.join(_TRIGGERS)}.")
    return _TRIGGERS[text]


def _model(text: str, registry: str | None) -> PackagedModel:
    identity, equals, path = text.partition("=")
    name, colon, version = identity.partition(":")
    number = version.isascii() and version.isdecimal() and len(version) <= _LONGEST_VERSION
    if colon and not number:
        raise PackagingError(
            f"--model {text!r}: the version {version!r} is no whole number. Expected is "
            "NAME[:VERSION]=PATH, or NAME[:VERSION] of a registry."
        )
    if equals and not path:
        raise PackagingError(
            f"--model {text!r} has no path after '=': name the model's file or folder, or leave "
            "'=' out for a model of the registry."
        )
    if equals:
        content = path == "." or path.rstrip("/").endswith("/.")
        return model_files.from_path(name, int(version or 1), Path(path), content=content)
    return model_files.from_registry(Path(registry or DEFAULT_REGISTRY), name, version or None)


# --- what is printed ------------------------------------------------------------------------------


def _print(
    made: Context,
    tag: str,
    options: argparse.Namespace,
    report: Report | None,
    beside: files.Made | None,
) -> None:
    built = options.build
    if options.json:
        found = _document(made, tag, built=built)
        found["check"] = None if report is None else json.loads(report.text())
        if beside is not None:
            about = {"files": beside.files, "commands": beside.commands}
            found["deployment"] = {"path": str(beside.path), **about}
        _write(sys.stdout, json.dumps(found, indent=2))
        return
    if beside is not None:
        _write(sys.stdout, "\n".join([_summary(made), *_said(report), *_how_to_deploy(beside)]))
        return
    image_line = [f"Image: {tag}"] if built else []
    steps = instructions.text(instructions.sections(made, tag, built=built))
    _write(sys.stdout, "\n".join([_summary(made), *_said(report), *image_line, "", steps]))


def _said(report: Report | None) -> list[str]:
    """The line on what was tried, if anything was."""
    if report is None or "start_seconds" not in report.facts:
        return []
    count, taken = len(report.facts["samples"]), report.facts.get("p50_ms")
    run = f", run() takes {taken:.2f} ms" if taken is not None else ""
    start = f"loaded in {report.facts['start_seconds']:.1f} s"
    return [f"Checked: {start}, {count} sample{'' if count == 1 else 's'}{run}"]


def _how_to_deploy(beside: files.Made) -> list[str]:
    """The files beside the package, and the commands that deploy it."""
    listed = [f"  {name}" for name in beside.files]
    commands = (f"cd {shlex.quote(str(beside.path))}", *beside.commands)
    return [f"Beside it: {beside.path}", *listed, "", "Deploy", *(f"  {e}" for e in commands)]


def _state(made: Context) -> str:
    return "Unchanged" if made.unchanged else "Made"


def _summary(made: Context) -> str:
    count = len(made.source_files)
    source = [f"{count} source file{'s' if count > 1 else ''}"] if count else []
    holds = ", ".join([*made.models, *source])
    lines = [f"{_state(made)}: {made.path}  ({made.target}: {holds})"]
    lines += [f"  {SOURCE}/{name}" for name in made.source_files[:_LISTED]]
    lines += [f"  … and {count - _LISTED} more"] if count > _LISTED else []
    if made.required:
        lines.append("To be set where it runs, never in the image:")
        lines += [f"  {each.name}  {each.about}" for each in made.required]
    return "\n".join(lines)


def _document(made: Context, tag: str, *, built: bool) -> dict[str, Any]:
    steps = instructions.sections(made, tag, built=built)
    return {
        "path": str(made.path),
        "target": made.target,
        "triggers": list(made.triggers),
        "models": list(made.models),
        "image": tag,
        "built": built,
        "unchanged": made.unchanged,
        "settings": dict(made.settings),
        "required_settings": {each.name: each.about for each in made.required},
        "warnings": list(made.warnings),
        "source_files": list(made.source_files),
        "steps": {each.title: list(each.lines) for each in steps},
    }
