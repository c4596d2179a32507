"""How many small mistakes in a package do its tests notice?

`python -m tests.mutate --package values --count 20 --seed 1` makes that many mistakes, one at a
time, in a copy of the repository, runs `tests/<package>` and says which were found.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 300
FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
Mistake = tuple[int, str, Callable[[], None]]


def mistakes(tree: ast.AST) -> Iterator[Mistake]:
    """Each place where one can be made: line, what it is, and what makes it in the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPPED:
            other = FLIPPED[type(node.ops[0])]()
            yield node.lineno, "comparison", partial(node.ops.__setitem__, 0, other)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            is_switch = isinstance(node.value, bool)
            value = not node.value if is_switch else node.value + 1
            yield node.lineno, "constant", partial(setattr, node, "value", value)
        elif isinstance(node, ast.If | ast.IfExp):
            opposite = ast.UnaryOp(ast.Not(), node.test)
            yield node.lineno, "not", partial(setattr, node, "test", opposite)
        for name in ("body", "orelse", "finalbody"):
            lines = getattr(node, name, [])
            for at, each in enumerate(lines if isinstance(lines, list) else []):
                if isinstance(each, ast.Assign | ast.AugAssign | ast.Raise | ast.Return) or (
                    isinstance(each, ast.Expr) and isinstance(each.value, ast.Call | ast.Await)
                ):
                    yield each.lineno, "removed", partial(lines.__setitem__, at, ast.Pass())


def is_found(copy: Path, package: str) -> bool:
    """Whether a test fails, or the run takes too long."""
    options = ["-x", "-q", "-m", "not long", "-p", "no:cacheprovider", f"tests/{package}"]
    command = [sys.executable, "-m", "pytest", *options]
    environ = {**os.environ, "PYTHONPATH": str(copy)}  # for the hosts that tests start
    try:
        done = subprocess.run(
            command, cwd=copy, env=environ, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    files = sorted((ROOT / "scoring_runtime" / chosen.package).rglob("*.py"))
    places = [
        (path.relative_to(ROOT), number)
        for path in files
        for number, _ in enumerate(mistakes(ast.parse(path.read_text(encoding="utf-8"))))
    ]
    places = random.Random(chosen.seed).sample(places, min(chosen.count, len(places)))
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        left_out = shutil.ignore_patterns(
            ".git", ".venv", ".cache", "__pycache__", ".*_cache", "build"
        )
        shutil.copytree(ROOT, copy, symlinks=True, ignore=left_out)
        (copy / ".cache").symlink_to((ROOT / ".cache").resolve())
        if not is_found(copy, chosen.package):
            for path, number in places:
                tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
                line, kind, make = list(mistakes(tree))[number]
                make()
                (copy / path).write_text(ast.unparse(tree), encoding="utf-8")
                noticed = is_found(copy, chosen.package)
                shutil.copyfile(ROOT / path, copy / path)
                found += noticed
                print(f"{'found ' if noticed else 'MISSED'} {path}:{line} {kind}", flush=True)
            print(f"{found} of {len(places)} found")
        else:
            sys.exit("The tests fail without a mistake.")


if __name__ == "__main__":
    main()
