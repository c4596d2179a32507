"""What Python files import and pickles name, and which of it an image would lack."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..script import import_aliases
from .environment.names import DISTRIBUTIONS, NAMESPACES, RETIRED, canonical
from .environment.pip import provided

_OF_THE_IMAGE = {"scoring_runtime", "entry_module", "__main__"}
_NOT_IMPORTED = re.compile(r"__name__|(\w+\.)?TYPE_CHECKING")
_CATCHES = re.compile(r"\b(ImportError|ModuleNotFoundError|(Base)?Exception)\b")


class Lacking(NamedTuple):
    """A module that nothing provides: ``needed`` if no model and no script runs without it."""

    sentence: str
    needed: bool


def uncovered(
    files: Iterable[tuple[str, Path]],
    requirements: Iterable[str],
    *,
    roots: Collection[str] = (),
    pickled: Mapping[str, Iterable[str]] = MappingProxyType({}),
    folders: Iterable[Path] = (),
) -> list[Lacking]:
    """The modules that the image would lack, each with the first file or pickle that needs it.

    Such a module is not of the standard library, not among the files, not answered by
    :mod:`scoring_runtime.script.import_aliases` and not brought by a requirement, or by what that
    requires in turn. ``files`` are ``(path below the source folder with /, path)``, ``roots`` those
    that are needed with what they import, packages whole; ``pickled`` are the modules that pickles
    name, by what messages call those, and in ``folders`` other modules of the user's own may lie. A
    file that cannot be parsed is passed over.
    """
    imports = {name: imports_of(path) for name, path in files if name.endswith(".py")}
    needed = _reached(imports, roots, {each for names in pickled.values() for each in names})
    code = [name for name, _ in files if name.endswith((".py", ".so", ".pyd"))]
    own = {part.partition(".")[0] for name in code for part in name.split("/")}
    there = provided(requirements)
    ordered = sorted(imports, key=lambda name: (name not in needed, name))
    wanted = [(name, f"line {n} imports", m) for name in ordered for m, n in imports[name].items()]
    wanted += [(name, "needs", each) for name, modules in pickled.items() for each in modules]
    found: dict[str, Lacking] = {}
    for name, verb, module in wanted:
        if module.partition(".")[0] in own or is_known(module) or _is_provided(module, there):
            continue
        package = packages_of(module)[0]
        sentence = f"{name} {verb} {_shown(module)}, {_advice(module, package, folders)}"
        found.setdefault(package, Lacking(sentence, name in needed or name in pickled))
    return list(found.values())


def imports_of(path: Path) -> dict[str, int]:
    """The modules that a file cannot do without, by their full names, with the line of the first.

    Not those that it may lack: in a ``try`` that catches ImportError, or for a type checker or a
    direct run of the file only.
    """
    found: dict[str, int] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's own string literals
            waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
        while waiting:
            node = waiting.pop()
            for module in _imported(node):
                found.setdefault(module, getattr(node, "lineno", 0))
            children = [*ast.iter_child_nodes(node)]
            waiting += reversed(_unguarded(node, children))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
        return []
    top = node.module.partition(".")[0]
    # Of a namespace the names may be modules too; what has capitals is a class.
    names = [each.name for each in node.names if each.name.islower() or top == "azureml"]
    below = [f"{node.module}.{each}" for each in names if top in NAMESPACES and each != "*"]
    return below or [node.module]


def _unguarded(node: ast.AST, children: list[ast.AST]) -> list[ast.AST]:
    """The children of a node in which a failing import does harm."""
    if isinstance(node, ast.Try):
        caught = " ".join(ast.unparse(e.type) if e.type else "Exception" for e in node.handlers)
        return node.finalbody if _CATCHES.search(caught) else children  # type: ignore[return-value]
    if isinstance(node, ast.With) and _CATCHES.search(" ".join(map(ast.unparse, node.items))):
        return []
    if isinstance(node, ast.If) and _NOT_IMPORTED.match(ast.unparse(node.test)):
        return [*node.orelse]
    return children


def _reached(
    imports: Mapping[str, Mapping[str, int]], roots: Collection[str], modules: Collection[str]
) -> set[str]:
    """The files that these files and modules run: modules beside them, packages whole."""
    units: dict[str, list[str]] = {}
    for name in imports:
        for base in {"", *(f"{root.rpartition('/')[0]}/" for root in roots if "/" in root)}:
            if name.startswith(base):
                unit = name.removeprefix(base).partition("/")[0].removesuffix(".py")
                units.setdefault(unit, []).append(name)
    found = {*roots}
    waiting = [*modules, *(each for root in roots for each in imports.get(root, ()))]
    while waiting:
        for name in units.pop(waiting.pop().partition(".")[0], ()):
            found.add(name)
            waiting += imports[name]
    return found


def _advice(module: str, package: str, folders: Iterable[Path]) -> str:
    """What somebody else has registered under the name of an own module is never named."""
    top = module.partition(".")[0]
    for folder in folders:
        if (folder / f"{top}.py").is_file() or any((folder / top).glob("*.py")):
            return (
                f"which lies in {folder} and is not packaged: take it along with --source-dir, or "
                "put it beside the entry script."
            )
    if package in RETIRED:
        return f"a part of {package} that this runtime does not have: do without it."
    return f"which no requirement provides: add --pip-package {package}."


def is_known(module: str) -> bool:
    """Whether every image has it: of the standard library, of this runtime, or stood in for."""
    top = module.partition(".")[0]
    standard = top in sys.stdlib_module_names or top in IMPORT_MAPPING
    return standard or top in _OF_THE_IMAGE or import_aliases.answers(module)


def _is_provided(module: str, there: set[str]) -> bool:
    parts = module.split(".")[: NAMESPACES.get(module.partition(".")[0], 1)]
    usual = {canonical(".".join(parts[:end])) for end in range(1, len(parts) + 1)}
    return not there.isdisjoint({*usual, *packages_of(module)})


def _shown(module: str) -> str:
    """Its top-level name, or what is a distribution's of a namespace."""
    parts = module.split(".")
    listed = (each for each in (".".join(parts[:2]), parts[0]) if each in DISTRIBUTIONS)
    return next(listed, ".".join(parts[: NAMESPACES.get(parts[0], 1)]))


def packages_of(module: str) -> list[str]:
    """The packages that bring a module; the first is the one to install."""
    shown = _shown(module)
    installed = sorted(_installed().get(shown, ()))
    known = DISTRIBUTIONS.get(shown, installed if len(installed) == 1 else [canonical(shown)])
    return [*known, *installed]


@cache
def _installed() -> Mapping[str, frozenset[str]]:
    """Top-level modules that are installed here, and the distributions that bring them."""
    found = metadata.packages_distributions()
    return {module: frozenset(map(canonical, names)) for module, names in found.items()}
