"""``scoring-runtime models``: register, list, show, use and delete models in a registry folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ScoringRuntimeError
from ..models import in_force, registry
from ..models.folder import is_registry, registered_model
from ..models.in_force import Choice
from ..models.registry import Record
from ..settings.settings import Settings
from .parser import EXIT_OK, add, refused, subcommands
from .terminal import Bar, show_table

DEFAULT_REGISTRY = "azureml-models"
_COLUMNS = ("NAME", "VERSION", "KIND", "CREATED", "DESCRIPTION")

Command = Callable[[Path, argparse.Namespace], int]


def add_commands(commands: Any) -> None:
    """Add ``models`` and its commands to the sub-commands of a parser.

    Each sets ``command``, called with the settings and the options; its result is the exit code.
    """
    models = add(commands, "models", "register, list, show, use and delete models", "list")
    kinds = subcommands(models)
    _add_register(kinds)
    listed = _add(kinds, "list", "list the models and their versions", "iris", _list)
    listed.add_argument("name", nargs="?", metavar="NAME", help="only the versions of this model")
    shown = _add(kinds, "show", "show what is noted of a model", "iris:2", _show)
    _add_name(shown, "the highest version without one")
    text = "say which version is in force: this one, or from now on the newest"
    _add_name(_add(kinds, "use", text, "iris:1", _use), "the newest version without one")
    deleted = _add(kinds, "delete", "delete a version of a model, or all", "iris:1 --yes", _delete)
    _add_name(deleted, "the version to delete")
    deleted.add_argument("--all-versions", action="store_true", help="delete every version")
    deleted.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_name(parser: argparse.ArgumentParser, text: str) -> None:
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("model", nargs="?", metavar="NAME[:VERSION]", help=text)
    named.add_argument("-n", "--name", metavar="NAME[:VERSION]", help="the same")


def _add_register(kinds: Any) -> None:
    text, example = "copy a file or folder in, as the next version", "-n iris -p model.pkl"
    parser = _add(kinds, "register", text, example, _register)
    parser.add_argument("-n", "--name", required=True, help="name of the model")
    parser.add_argument("-p", "--path", required=True, help="the model's file or folder")
    for flag in ("--tag", "--property"):
        text = "may be given several times"
        parser.add_argument(
            flag, action="append", default=[], metavar="KEY=VALUE", type=_pair, help=text
        )
    parser.add_argument("--description", default="", metavar="TEXT", help="for people")
    text = "JSON or CSV that shows the input: names, types, and the example of the documents"
    parser.add_argument("--sample", metavar="FILE", help=text)


def _add(
    kinds: Any, name: str, text: str, example: str, command: Command
) -> argparse.ArgumentParser:
    parser = add(kinds, name, text, example)
    place = f"AZUREML_MODEL_DIR if that is one, else ./{DEFAULT_REGISTRY}"
    parser.add_argument("--registry", metavar="FOLDER", help=f"folder of the models ({place})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=partial(_run, command))
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _run(command: Command, settings: Settings, options: argparse.Namespace) -> int:
    try:
        return command(_folder(settings, options), options)
    except ScoringRuntimeError as error:
        return refused(error)


def _folder(settings: Settings, options: argparse.Namespace) -> Path:
    if options.registry:
        return Path(options.registry)
    if settings.model_dir and is_registry(Path(settings.model_dir)):
        return Path(settings.model_dir)
    return Path(DEFAULT_REGISTRY)


# --- commands -------------------------------------------------------------------------------------


def _register(folder: Path, options: argparse.Namespace) -> int:
    bar = Bar() if sys.stderr.isatty() else None
    try:
        record = registry.register(
            folder,
            options.name,
            options.path,
            tags=dict(options.tag),
            properties=dict(options.property),
            description=options.description,
            sample=options.sample,
            progress=bar,
        )
    finally:
        if bar is not None:
            bar.close()
    _print(options, record.document(), f"{record.id}  {record.path}")
    return EXIT_OK


def _list(folder: Path, options: argparse.Namespace) -> int:
    if options.name is not None:
        registered_model(folder, options.name)
    records = [each for each in registry.listing(folder) if options.name in (None, each.name)]
    if not records:
        print(f"scoring-runtime: there are no models in {folder}", file=sys.stderr)
    if options.json or not records:
        _print(options, [_without_files(record) for record in records])
    else:
        show_table(_COLUMNS, map(_row, records))
    return EXIT_OK


def _show(folder: Path, options: argparse.Namespace) -> int:
    record = registry.details(folder, *_name_and_version(options))
    _print(options, record.document(), *_lines(record))
    return EXIT_OK


def _delete(folder: Path, options: argparse.Namespace) -> int:
    name, version = _name_and_version(options)
    if version is not None and options.all_versions:
        return refused(f"{version} and --all-versions exclude each other")
    chosen = registry.to_delete(folder, name, version, all_versions=options.all_versions)
    wanted = ", ".join(f"{each.name}:{each.version}" for each in chosen)
    if not options.yes and not _agreed(f"Delete {wanted} from {folder}?"):
        return refused("nothing was deleted; --yes deletes without asking")
    deleted = registry.delete(folder, name, version, all_versions=options.all_versions)
    document = [{"name": each.name, "version": each.version} for each in deleted]
    _print(options, document, *(f"deleted {each.name}:{each.version}" for each in deleted))
    return EXIT_OK


def _use(folder: Path, options: argparse.Namespace) -> int:
    name, version = _name_and_version(options)
    chosen = registered_model(folder, name, version)
    known = in_force.at_start(folder).get(name, Choice(()))
    now = known.turned_to(chosen.version, version is not None)
    in_force.write(folder, {name: now})
    document = {"name": name, "version": chosen.version, "before": now.before or None}
    document["pinned"] = now.pinned
    line = f"{name}:{chosen.version} is in force from the next start, or reload, on"
    _print(options, document, line if now.pinned else f"{line}, and newer ones after it")
    return EXIT_OK


def _name_and_version(options: argparse.Namespace) -> tuple[str, str | None]:
    name, _, version = (options.model or options.name).partition(":")
    return name, version or None


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- what is printed ------------------------------------------------------------------------------


def _print(options: argparse.Namespace, document: object, *lines: str) -> None:
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(*lines, sep="\n", end="\n" if lines else "")


def _row(record: Record) -> tuple[str, ...]:
    noted = record.manifest
    text = "(damaged metadata)" if record.damage else " ".join(noted.description.split())
    return record.name, str(record.version), noted.kind, noted.created, text


def _without_files(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.document().items() if key != "files"}


def _lines(record: Record) -> list[str]:
    """One line for each thing that is noted, then one for each file."""
    lines = []
    for key, value in _without_files(record).items():
        pairs = isinstance(value, Mapping)
        text = ", ".join(f"{k}={v}" for k, v in value.items()) if pairs else str(value)
        lines += [f"{key.replace('_', ' ')}: {text}"] if text else []
    files = record.manifest.files.items()
    return [*lines, *(f"file: {name} {size} bytes sha256 {sha}" for name, (sha, size) in files)]
