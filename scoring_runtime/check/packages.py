"""A package folder, as ``scoring-runtime package`` makes it, tried where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import PackagingError
from ..models.kinds import installed_version, pickles
from ..models.pickled import said
from ..packaging.context import Document, read_document
from ..packaging.imports import imports_of, is_known, packages_of, uncovered
from ..packaging.specification import DOCUMENT, MODELS, ROOTS, SOURCE, moved
from ..settings.settings import Settings
from . import faults

_NAMED = 3


def document_of(folder: Path) -> Document:
    """What was packaged in a folder.

    Raises:
        PackagingError: there is none.
    """
    found = read_document(folder)
    if found is None:
        raise PackagingError(
            f"{folder} holds no package (no {DOCUMENT}): name the folder that `scoring-runtime "
            "package` made, or --entry-script and --model-dir."
        )
    return found


def variables(folder: Path, document: Document, source: Path) -> dict[str, str]:
    """The variables of the image, with its paths as they are here; ``source`` is its source."""
    root = ROOTS[document.target]
    settings = moved(document.settings, f"{root}/{SOURCE}", str(source))
    return moved(settings, root, str(folder.resolve()))


def lacking(folder: Path, document: Document) -> list[str]:
    """What the script or a model imports and requirements.txt does not bring, a sentence each."""
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    source = folder / SOURCE
    files = [(path.relative_to(source).as_posix(), path) for path in sorted(source.rglob("*.py"))]
    pickled = {
        f"The model {path.relative_to(folder)}": sorted(said(path).modules)
        for path in pickles(folder / MODELS)
    }
    roots = [document.entry_script] if document.entry_script else []
    found = uncovered(files, requirements, roots=roots, pickled=pickled)
    return [each.sentence for each in found if each.needed]


def other_here(folder: Path) -> str:
    """What of requirements.txt is installed in another version here, or not at all; or nothing."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines():
        try:
            wanted = Requirement(line.partition("#")[0])
        except InvalidRequirement:  # an option, a wheel
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        there = installed_version(wanted.name)
        if there is None:
            found.append(f"{wanted.name} is not installed here")
        elif not wanted.specifier.contains(there, prereleases=True):
            found.append(f"{wanted.name} is {there} here, and {wanted.specifier} in the package")
    return "; ".join(found[:_NAMED])


def not_installed(settings: Settings, is_loaded: bool) -> list[tuple[str, str, str]]:
    """``file:line``, module and package of each import of the script that is not installed here.

    Those of its modules beside it too; of what ``is_loaded`` only those in functions, for the
    others have been done, or were not wanted. A script that changes the path of modules is passed
    over: nobody else knows what it finds.
    """
    script = settings.script_path
    if script is None or not script.is_file():
        return []
    root = Path(settings.app_root)
    places = [root, script.parent, *([root / settings.source_dir] if settings.source_dir else [])]
    found: dict[str, tuple[str, str, str]] = {}
    waiting, seen = [script], set[Path]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        if b"sys.path" in path.read_bytes():
            continue
        for module, line in imports_of(path).items():
            own, top = _own(module, places), module.partition(".")[0]
            waiting += [each for each in own if each not in seen]
            if own or is_known(module) or find_spec(top) is not None:
                continue
            if not is_loaded or faults.is_in_function(path, line):
                found.setdefault(top, (f"{path}:{line}", top, packages_of(module)[0]))
    return list(found.values())


def _own(module: str, places: Sequence[Path]) -> list[Path]:
    """The files of a module that lies in one of these folders."""
    top = module.partition(".")[0]
    files = [place / f"{top}.py" for place in places]
    named = [path for path in files if path.is_file()]
    return named or [path for place in places for path in sorted((place / top).rglob("*.py"))]
