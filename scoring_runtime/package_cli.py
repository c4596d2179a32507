"""``scoring-runtime package``: its options. What it does is imported when it is asked for."""

from __future__ import annotations

import argparse
from typing import Any

from .models_cli import DEFAULT_REGISTRY
from .settings import Settings


def add_command(commands: Any) -> None:
    """Add ``package`` to the sub-commands of a parser."""
    text = "make an image's build context from a model, a script and its environment"
    parser = commands.add_parser("package", help=text, description=text)
    _add_inputs(parser)
    _add_triggers(parser)
    _add_outputs(parser)
    parser.set_defaults(command=_run)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    model = "a model's file or folder, or a registered model; may be given several times"
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME[:VERSION][=PATH]", help=model
    )
    place = f"where models without =PATH are registered (./{DEFAULT_REGISTRY})"
    parser.add_argument("--registry", metavar="FOLDER", help=place)
    parser.add_argument("--entry-script", metavar="FILE", help="the script with init() and run()")
    whole = "folder that is taken whole; without it the script and the modules it imports are"
    parser.add_argument("--source-dir", metavar="FOLDER", help=whole)
    config = "inferenceconfig.json with script, source folder and environment"
    parser.add_argument("--inference-config", metavar="FILE", help=config)
    parser.add_argument("--conda", metavar="FILE", help="conda environment of the script")
    parser.add_argument("--requirements", metavar="FILE", help="pip requirements of the script")
    parser.add_argument(
        "--pip-package", action="append", default=[], metavar="PACKAGE", help="such as 'pillow>=10'"
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the runtime, or a variable of the script; never a secret",
    )


def _add_triggers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trigger",
        action="append",
        default=[],
        metavar="TRIGGER",
        help="http, blob or service_bus_queue (http; standalone: all whose connection is set)",
    )
    parser.add_argument("--auth-level", default="", help="anonymous, function or admin (function)")
    parser.add_argument("--input-path", default="", help="of blobs (input/{blobname}.json)")
    parser.add_argument("--output-path", default="", help="of blobs (output/{blobname}_out.json)")
    parser.add_argument("--input-queue", default="", help="of messages (input)")
    parser.add_argument("--output-queue", help="of replies (output); empty for none")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", default="functions", help="functions (the default) or standalone"
    )
    parser.add_argument("--base-image", default="", help="instead of the target's own")
    parser.add_argument("--output", metavar="DIR", default="package", help="(./package)")
    parser.add_argument("--overwrite", action="store_true", help="a package changed by hand too")
    offline = "do not ask pip whether the packages can be installed"
    parser.add_argument("--no-resolve", action="store_true", help=offline)
    parser.add_argument("--build", action="store_true", help="build the image too")
    parser.add_argument("--builder", default="", help="docker, podman or buildah (the first found)")
    argument = "build argument, such as BASE_IMAGE=… or PIP_INDEX_URL (from the environment)"
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help=argument
    )
    option = "one more option of the builder, as in --builder-option=--network=host"
    parser.add_argument(
        "--builder-option", action="append", default=[], metavar="OPTION", help=option
    )
    parser.add_argument("--tag", default="", help="name of the image (from the model's)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from .package_command import run

    return run(options)
