"""What commands have in common: a help with an example, options that are settings, and exit code 1
for usage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from ..settings.secrets import masked
from ..settings.settings import nearest_setting, setting_names

EXIT_OK, EXIT_USAGE = 0, 1


class Parser(argparse.ArgumentParser):
    """As the old server, and unlike argparse, it ends with 1 when it is used wrongly."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def refused(why: object) -> int:
    """Say why nothing is done; the exit code of a command that was used wrongly."""
    print(f"scoring-runtime: {why}", file=sys.stderr)
    return EXIT_USAGE


def subcommands(parser: argparse.ArgumentParser) -> Any:
    """The sub-commands of a parser, which lists them when none is named."""
    parser.set_defaults(command=partial(_list_them, parser), reads_settings=False)
    return parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)


def add(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A sub-command; ``text`` says in a list of them what it does, ``example`` is its arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = f"example:\n  {parser.prog} {example}"
    parser.set_defaults(reads_settings=True)
    return parser


def model_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that loads a script or a model."""
    option(parser, "--entry-script", "AZUREML_ENTRY_SCRIPT", "the script with init() and run()")
    option(parser, "--model-dir", "AZUREML_MODEL_DIR", "the folder of the model")
    option(parser, "--config-file", "AZUREML_CONFIG_FILE", "settings as a JSON file")
    text = "any setting, such as SCORING_TIMEOUT_MS=5000; may be given several times"
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", help=text
    )


def _setting(text: str) -> tuple[str, str]:
    """What stands there may be a secret: no message has its text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("expected is NAME=VALUE")
    if name not in setting_names():
        near = nearest_setting(name)
        said = f": did you mean {near}?" if near else "; scoring-runtime settings lists them"
        raise argparse.ArgumentTypeError(f"there is no setting {masked(name)}{said}")
    return name, value


def option(
    parser: argparse.ArgumentParser,
    flag: str,
    variable: str,
    text: str,
    kind: Callable[[str], object] = str,
    *more: str,
) -> None:
    """An option that sets the setting ``variable``; ``more`` are other names of it."""
    old = f"--{flag[2:].replace('-', '_')}"
    flags = list(dict.fromkeys((flag, old, *more)))
    metavar = flag[2:].upper().replace("-", "_")
    help_text = f"{text} [{variable}]"
    parser.add_argument(*flags, dest=variable, type=kind, metavar=metavar, help=help_text)


def _list_them(parser: argparse.ArgumentParser, *_: object) -> int:
    parser.print_help()
    return EXIT_OK
