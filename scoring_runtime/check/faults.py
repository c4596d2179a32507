"""Where in a script the fault is that ended, or held up, the process that tried it."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from ..settings.settings import Settings

_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)')
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ENDING = frozenset({"_exit", "abort", "kill", "killpg", "execv", "execvp", "execl"})


def definition(settings: Settings, function: str) -> str:
    """``file:line`` of a function of the entry script; the file alone if it is not there."""
    path = _path(settings)
    for node in ast.walk(_tree(path)):
        if isinstance(node, _FUNCTIONS) and node.name == function:
            return f"{path}:{node.lineno}"
    return str(path)


def is_in_function(path: Path, line: int) -> bool:
    """Whether a line of a file is done only when a function is called."""
    functions = (n for n in ast.walk(_tree(path)) if isinstance(n, _FUNCTIONS))
    return any(each.lineno <= line <= (each.end_lineno or 0) for each in functions)


def innermost(crash: str, settings: Settings) -> str:
    """``file:line in function`` of the script in what faulthandler wrote: the last call first.

    Source: https://docs.python.org/3/library/faulthandler.html
    """
    script = str(_path(settings).resolve())
    for found in _FRAME.finditer(crash):
        if str(Path(found["file"]).resolve()) == script:
            return f"{found['file']}:{found['line']} in {found['name']}"
    return ""


def ending_calls(settings: Settings) -> str:
    """``file:line`` of the one call in the script that ends a process; nothing if it has several,
    or none."""
    path = _path(settings)
    lines = {*_ending_lines(_tree(path))}
    return f"{path}:{lines.pop()}" if len(lines) == 1 else ""


def _ending_lines(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in _ENDING:
                yield node.lineno


def ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended the process with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    more = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"ended the process by the signal {name}{more}"


def _path(settings: Settings) -> Path:
    return settings.script_path or Path(settings.app_root, "main.py")


def _tree(path: Path) -> ast.AST:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):
        return ast.Module([], [])
