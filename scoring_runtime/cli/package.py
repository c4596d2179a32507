"""``scoring-runtime package``: its options. What it does is imported when it is asked for."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..settings.settings import Settings
from .models import DEFAULT_REGISTRY

EXIT_INTERRUPTED = 130
_ABOUT = """\
Make a folder from which an image can be built: the model, the entry script, their packages, the
runtime and a Dockerfile. It ends with the commands to build it, to try it and to deploy it.

  scoring-runtime package --model net=model.onnx
  scoring-runtime package --entry-script score.py --model net=model.pkl --conda conda.yml
  scoring-runtime package --entry-script score.py --source-dir src --trigger blob --build
"""


def add_command(commands: Any) -> None:
    """Add ``package`` to the sub-commands of a parser."""
    text = "make an image of a model, a script and its environment"
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
    place = f"where models without =PATH are registered (default: ./{DEFAULT_REGISTRY})"
    group.add_argument("--registry", metavar="FOLDER", help=place)
    script = "the script with init() and run(); some models score without (scikit-learn, ONNX, ...)"
    group.add_argument("--entry-script", metavar="FILE", help=script)
    whole = "folder that is taken whole, with the script in it (default: the script's own)"
    group.add_argument("--source-dir", metavar="FOLDER", help=whole)
    config = "inferenceconfig.json, or a deployment's YAML, with script, folder and environment"
    group.add_argument("--inference-config", metavar="FILE", help=config)


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
    group.add_argument("--target", metavar="TARGET", default="functions", help=target)
    output = "folder that is made, or replaced if it is a package (default: ./package)"
    group.add_argument("--output", metavar="FOLDER", default="package", help=output)
    changed = "replace a package although its files were changed by hand"
    group.add_argument("--overwrite", action="store_true", help=changed)
    offline = "do not ask pip whether the packages can be installed"
    group.add_argument("--no-resolve", action="store_true", help=offline)
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
        from .package_command import run

        return run(options)
    except KeyboardInterrupt:
        print("scoring-runtime: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
