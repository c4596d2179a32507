"""The commands and their options as tables, from the parser itself."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from scoring_runtime.cli.main import _parser


def markdown() -> str:
    """A heading for each command, and a table of its options."""
    parts: list[str] = []
    for name, about, parser in commands(_parser(), ""):
        parts.append("\n".join(_section(name, about, parser)))
    return "\n\n".join(parts)


def commands(
    parser: argparse.ArgumentParser, prefix: str
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Every command with its one-line description and its parser, those below others too."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        about = {each.dest: each.help or "" for each in action._choices_actions}
        for name, each in action.choices.items():
            yield f"{prefix}{name}", about[name], each
            yield from commands(each, f"{prefix}{name} ")


def _section(name: str, about: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    depth = "###" if " " in name else "##"
    yield from (f"{depth} {name}", "", f"`scoring-runtime {name}`: {about}.", "")
    rows = list(_rows(parser))
    if rows:
        settings = any(setting for _, setting, _ in rows)
        yield "| option | setting | |" if settings else "| option | |"
        yield "| --- | --- | --- |" if settings else "| --- | --- |"
        for option, setting, text in rows:
            yield f"| {option} | {setting} | {text} |" if settings else f"| {option} | {text} |"


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        if action.help == argparse.SUPPRESS:
            continue
        said = re.fullmatch(r"(.*?)(?: \[(\w+)\])?", action.help or "", re.DOTALL)
        assert said is not None
        setting = f"`{said[2]}`" if said[2] else ""
        text = _marked((said[1] % {"prog": parser.prog}).replace("|", "\\|"))
        yield f"`{_usage(action)}`", setting, text


def _marked(text: str) -> str:
    """Names of options and placeholders in a help text as code."""
    return re.sub(r"(?<![\w`])(--[\w-]+(?:=\S+)?|[\w/]*\{\w+\}[\w./{}]*)", r"`\1`", text)


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    # The old spellings with underscores are taken too, and not shown.
    flags = [flag for flag in action.option_strings if "_" not in flag]
    value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
    return ", ".join(flags) + value
