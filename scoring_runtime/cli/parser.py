"""What every command of the command line has: a help with an example, and exit code 1 for usage."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any, NoReturn

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


def _list_them(parser: argparse.ArgumentParser, *_: object) -> int:
    parser.print_help()
    return EXIT_OK
