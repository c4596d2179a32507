"""What Python files import, bind and name, found without running them."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_PATH = re.compile(r"[\w.@+ -]+(/[\w.@+ -]+)*/?")
# Called with the parts of a path.
_TAKES_PATHS = {
    *("Path", "PurePath", "exists", "glob", "isdir", "iterdir", "join", "joinpath"),
    *("listdir", "open", "rglob", "scandir", "walk"),
}
_MISSING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


@dataclass(frozen=True)
class Import:
    """One import statement: ``from <level dots><module> import <names>``, or ``import <module>``.

    ``guarded`` if the file can do without it: it stands in a ``try`` that catches ImportError, or
    where only a type checker or a direct run of the file comes.
    """

    line: int
    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    guarded: bool = False


def imports_of(content: bytes, name: str = "<unknown>") -> list[Import]:
    """Every import statement of a Python file, functions and ``import_module("…")`` included.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: Python cannot parse it.
    """
    return list(_imports(_parsed(content, name)))


def names_bound(content: bytes) -> frozenset[str]:
    """The names that a module binds when it is imported, in functions by ``global``.

    One of them is ``*`` if there is a ``from … import *``.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: Python cannot parse it.
    """
    tree = _parsed(content, "<unknown>")
    said = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        said.update(_bound_at(node))
        if not isinstance(node, _SCOPES):
            skipped = node.body if _is_idle(node) else []
            waiting.extend(each for each in _children(node) if each not in skipped)
    return frozenset(said)


def paths_named(content: bytes) -> list[tuple[int, str]]:
    """String constants that look like a relative path, by line: ``(line, text)``.

    They have an extension or a slash, or stand where a path does: in a call such as ``join`` or
    ``Path``, beside the operator ``/``, or as what a name is assigned.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: Python cannot parse it.
    """
    tree = _parsed(content, "<unknown>")
    found = set[tuple[int, str]]()
    for node in ast.walk(tree):
        for each in _children(node):
            text = getattr(each, "value", None)
            if not isinstance(each, ast.Constant) or not isinstance(text, str):
                continue
            if _PATH.fullmatch(text) and (re.search("[./]", text) or _takes_path(node)):
                found.add((each.lineno, text))
    return sorted(found)


def _takes_path(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _name(node.func) in _TAKES_PATHS
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Div)
    return isinstance(node, ast.Assign | ast.AnnAssign)


def _bound_at(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(each.asname or each.name).partition(".")[0] for each in node.names]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    return []


def _is_idle(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether its body is not run when the module is imported."""
    return isinstance(node, ast.If) and _never_when_imported(node.test)


def _parsed(content: bytes, name: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the file's own string literals
        return ast.parse(content, name)


def places(each: Import, name: str) -> list[tuple[str, ...]]:
    """Where the modules of an import in the file ``name`` would be: folders and a last name.

    The names of a ``from … import …`` may be modules too. A place is below the folder that both
    ``name`` and absolute imports start from.
    """
    module = tuple(filter(None, each.module.split(".")))
    package = tuple(name.split("/")[:-1])
    if each.level > len(package) + 1:
        return []
    start = package[: len(package) - each.level + 1] if each.level else ()
    return [(*start, *module), *((*start, *module, last) for last in each.names)]


def _imports(tree: ast.AST) -> Iterator[Import]:
    """In the order of the file; a stack of its own, for code can be nested deeply."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, guarded = waiting.pop()
        yield from _imports_at(node, guarded)
        inside = [(child, guarded or child in _guarded(node)) for child in _children(node)]
        waiting.extend(reversed(inside))


def _children(node: ast.AST) -> list[ast.AST]:
    return list(ast.iter_child_nodes(node))


def _imports_at(node: ast.AST, guarded: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(node.lineno, alias.name, (), 0, guarded)
    elif isinstance(node, ast.ImportFrom):
        names = tuple(alias.name for alias in node.names)
        yield Import(node.lineno, node.module or "", names, node.level, guarded)
    elif isinstance(node, ast.Call) and (module := _imported_by_call(node)):
        yield Import(node.lineno, module, (), 0, guarded)


def _imported_by_call(call: ast.Call) -> str:
    """``x`` of ``importlib.import_module("x")`` and ``__import__("x")``."""
    named = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if named not in ("import_module", "__import__") or len(call.args) != 1:
        return ""
    value = getattr(call.args[0], "value", None)
    return value if isinstance(value, str) and _is_module_name(value) else ""


def _is_module_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _guarded(node: ast.AST) -> list[ast.AST]:
    """The children of the node in which a failing import does no harm."""
    if isinstance(node, ast.Try | ast.TryStar):
        caught = any(_catches(handler.type) for handler in node.handlers)
        return [*node.body, *node.handlers, *node.orelse] if caught else []
    if isinstance(node, ast.With | ast.AsyncWith):
        calls = [item.context_expr for item in node.items]
        suppressed = any(
            isinstance(call, ast.Call)
            and _name(call.func) == "suppress"
            and any(map(_catches, call.args))
            for call in calls
        )
        return [*node.body] if suppressed else []
    if _is_idle(node):
        return [*node.body]
    return []


def _never_when_imported(test: ast.expr) -> bool:
    if isinstance(test, ast.Compare):
        return _name(test.left) == "__name__"
    return _name(test) == "TYPE_CHECKING"


def _catches(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_name(each) in _MISSING for each in caught.elts)
    return caught is None or _name(caught) in _MISSING


def _name(node: ast.expr) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))
