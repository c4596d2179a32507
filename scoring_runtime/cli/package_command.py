"""What ``scoring-runtime package`` does: options to a specification, to a context, to an image."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from ..errors import PackagingError, ScoringRuntimeError
from ..packaging import context as build_context
from ..packaging import image, instructions, model_files
from ..packaging.environment import inference_config
from ..packaging.environment.pip import from_packages, from_requirements, merged
from ..packaging.specification import (
    FUNCTIONS,
    SOURCE,
    VARIABLE,
    Context,
    Environment,
    PackagedModel,
    Specification,
    check_image,
)
from .models import DEFAULT_REGISTRY, Bar

EXIT_OK, EXIT_USAGE = 0, 1
_LONGEST_VERSION, _LISTED = 9, 20
_TRIGGERS = {"http": "http", "blob": "blob", "service_bus_queue": "service_bus"}


def run(options: argparse.Namespace) -> int:
    """Package what the options ask for; the result is the exit code."""
    try:
        return _package(options)
    except ScoringRuntimeError as error:
        _say(f"scoring-runtime: {error}")
        return EXIT_USAGE


def _package(options: argparse.Namespace) -> int:
    _check(options)
    specification = specification_of(options)
    made = _made(specification, options)
    for warning in made.warnings:
        _say(f"scoring-runtime: warning: {warning}")
    tag = options.tag or _default_tag(made)
    if options.build:
        _build(made, tag, options)
    _print(made, tag, options)
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


def _build(made: Context, tag: str, options: argparse.Namespace) -> None:
    _say(f"{_state(made)}: {made.path}")
    builder = image.find_builder(options.builder)
    _say(f"Building {tag} with {builder.name}")
    arguments = dict(_build_argument(each) for each in options.build_arg)
    extra = options.builder_option
    image.build(
        made.path,
        made.target,
        tag,
        builder=builder,
        build_args=arguments,
        output=_say,
        options=extra,
    )


def _default_tag(made: Context) -> str:
    name, _, version = made.models[0].partition(":") if made.models else ("", "", "")
    return image.default_tag(name, version)


def _build_argument(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not VARIABLE.fullmatch(name):
        raise PackagingError(
            "--build-arg is not NAME=VALUE, or NAME alone to take the value from the environment: "
            "a name has letters, digits and '_'."
        )
    return name, value if equals else None


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
    if not triggers and options.target == FUNCTIONS:
        triggers = ("http",)
    return Specification(
        target=options.target,
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
    )


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


def _print(made: Context, tag: str, options: argparse.Namespace) -> None:
    built = options.build
    if options.json:
        _write(sys.stdout, json.dumps(_document(made, tag, built=built), indent=2))
        return
    image_line = [f"Image: {tag}"] if built else []
    steps = instructions.text(instructions.sections(made, tag, built=built))
    _write(sys.stdout, "\n".join([_summary(made), *image_line, "", steps]))


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
