"""What ``scoring-runtime package`` does: options to a specification, to a context, to an image."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import PackagingError, ScoringRuntimeError
from .models_cli import DEFAULT_REGISTRY, Bar
from .packaging import context as build_context
from .packaging import environments, image, inference_config, instructions, model_files
from .packaging.specification import (
    FUNCTIONS,
    Context,
    Environment,
    PackagedModel,
    Specification,
)

EXIT_OK, EXIT_USAGE = 0, 1
_TRIGGERS = {"http": "http", "blob": "blob", "service_bus_queue": "service_bus"}


def run(options: argparse.Namespace) -> int:
    """Package what the options ask for; the result is the exit code."""
    try:
        return _package(options)
    except ScoringRuntimeError as error:
        print(f"scoring-runtime: {error}", file=sys.stderr)
        return EXIT_USAGE


def _package(options: argparse.Namespace) -> int:
    specification = specification_of(options)
    if options.builder not in ("", *image.BUILDERS):
        image.find_builder(options.builder)
    made = _made(specification, options)
    for warning in made.warnings:
        print(f"scoring-runtime: warning: {warning}", file=sys.stderr)
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
        )
    finally:
        if bar is not None:
            bar.close()


def _build(made: Context, tag: str, options: argparse.Namespace) -> None:
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
    return name, value if equals else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- what is asked for ----------------------------------------------------------------------------


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
    environment = environments.merged(*found, *_environments(options))
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
        found.append(environments.from_conda(Path(options.conda)))
    if options.requirements:
        found.append(environments.from_requirements(Path(options.requirements)))
    if options.pip_package:
        found.append(environments.from_packages(options.pip_package))
    variables = dict(_pair(each) for each in options.setting)
    last = replace(Environment(), variables=variables, base_image=options.base_image)
    return [*found, last]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise PackagingError(f"--setting {text!r} is not NAME=VALUE.")
    return name, value


def _trigger(text: str) -> str:
    if text not in _TRIGGERS:
        raise PackagingError(f"There is no trigger {text!r}. Allowed: {', '.join(_TRIGGERS)}.")
    return _TRIGGERS[text]


def _model(text: str, registry: str | None) -> PackagedModel:
    identity, equals, path = text.partition("=")
    name, colon, version = identity.partition(":")
    if colon and not (version.isascii() and version.isdecimal()):
        raise PackagingError(
            f"--model {text!r}: the version {version!r} is no whole number. Expected is "
            "NAME[:VERSION]=PATH, or NAME[:VERSION] of a registry."
        )
    if equals:
        return model_files.from_path(name, int(version or 1), Path(path))
    return model_files.from_registry(Path(registry or DEFAULT_REGISTRY), name, version or None)


# --- what is printed ------------------------------------------------------------------------------


def _print(made: Context, tag: str, options: argparse.Namespace) -> None:
    built = options.build
    if options.json:
        print(json.dumps(_document(made, tag, built=built), indent=2))
        return
    print(_summary(made))
    if built:
        print(f"Image: {tag}")
    print()
    print(instructions.text(instructions.sections(made, tag, built=built)))


def _summary(made: Context) -> str:
    count = len(made.source_files)
    source = [f"{count} source file{'s' if count > 1 else ''}"] if count else []
    holds = ", ".join([*made.models, *source])
    lines = [f"{'Unchanged' if made.unchanged else 'Made'}: {made.path}  ({made.target}: {holds})"]
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
