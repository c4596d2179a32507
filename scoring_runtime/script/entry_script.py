"""The entry script: found, imported and checked."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import EntryScriptContract, EntryScriptFailed, EntryScriptNotFound
from ..settings.settings import Settings
from ..telemetry.logs import script_log
from . import import_aliases
from .arguments import ToArguments, choose, is_async

MODULE_NAME = "entry_module"
_IMPORTS_JOBLIB = re.compile(rb"^\s*(?:import|from)\s+joblib\b", re.MULTILINE)
_CLOUDPICKLES = ("cloudpickle", "joblib.externals.cloudpickle")


@dataclass(frozen=True)
class EntryScript:
    """A loaded script.

    ``kind`` is ``text`` (run() gets the body as str), ``schema`` (typed arguments by name) or
    ``raw`` (the request itself). ``arguments`` makes the keyword arguments of one call.
    ``uses_flask``: its code names something of flask, which needs flask's request context.
    """

    path: Path
    init: Callable[[], Any]
    run: Callable[..., Any]
    kind: str
    arguments: ToArguments
    uses_flask: bool

    @property
    def is_async(self) -> bool:
        """Whether calling ``run`` gives a coroutine."""
        return is_async(self.run)

    @property
    def sees_headers(self) -> bool:
        """Whether ``run`` is given the request's headers."""
        return self.kind == "raw" or "request_headers" in inspect.signature(self.run).parameters

    @property
    def schema_decorated(self) -> bool:
        """Whether ``@input_schema`` or ``@output_schema`` is on ``run``."""
        return self.kind == "schema"


def load(settings: Settings) -> EntryScript:
    """Import the entry script and decide how ``run()`` is called.

    Raises:
        EntryScriptNotFound: there is no such file (or no ``main`` module).
        EntryScriptFailed: importing it raised.
        EntryScriptContract: ``init`` or ``run`` is missing or has a signature that cannot work.
    """
    module = imported(settings)
    path = Path(str(module.__file__))
    run = _run_of(module, path)
    kind, arguments = choose(run, settings)
    return EntryScript(path, module.init, run, kind, arguments, _uses_flask(module))


def imported(settings: Settings) -> ModuleType:
    """The module of the entry script, which has ``init`` and ``run``; raises as :func:`load`."""
    _extend_sys_path(settings)
    import_aliases.install()
    module = _import_script(settings)
    for name in ("init", "run"):
        if not callable(getattr(module, name, None)):
            raise EntryScriptContract(
                f"User script at {module.__file__} does not have a {name}() function defined."
            )
    return module


def carry_by_value() -> None:
    """Have the script's functions sent to other processes whole, as those of ``__main__`` are.

    joblib, loky and Dask send functions with cloudpickle, which sends the name of one that is in a
    module; no other process can import the entry script by its name. To be called whenever the
    script may have imported one of them.
    """
    module = sys.modules.get(MODULE_NAME)
    if module is None:
        return
    if _IMPORTS_JOBLIB.search(Path(str(module.__file__)).read_bytes()):
        with contextlib.suppress(ImportError):
            importlib.import_module("joblib")  # run() may be the first to do it
    for name in _CLOUDPICKLES:
        cloudpickle = sys.modules.get(name)
        if cloudpickle is not None:
            cloudpickle.register_pickle_by_value(module)


def exists(settings: Settings) -> bool:
    """Whether there is an entry script: one is named, or ``main`` can be imported and is one.

    A ``main.py`` that knows neither ``init`` nor ``run`` is some other program.
    """
    if settings.script_path is not None:
        return True
    _extend_sys_path(settings)
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec("main")
    except (ImportError, ValueError):
        return True  # importing it says why
    if found is None:
        return False
    if found.origin is None or not found.origin.endswith(".py"):
        return True
    return _defines_both(Path(found.origin))


def _defines_both(path: Path) -> bool:
    """Whether ``init`` and ``run`` are names of the module, or may be; nothing is imported."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, ValueError, SyntaxError):
        return True  # importing it says why
    names = {name for statement in body for name in _names_of(statement)}
    return "*" in names or {"init", "run"} <= names


def _names_of(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in statement.names)
    else:  # what an if, a try or an assignment binds
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif node is not statement and isinstance(node, ast.stmt):
                yield from _names_of(node)


def _extend_sys_path(settings: Settings) -> None:
    root = Path(settings.app_root)
    places = [root]
    if settings.source_dir:
        places.append(root / settings.source_dir)
    if settings.script_path is not None:
        places.append(settings.script_path.parent)
    for place in map(str, places):
        if place not in sys.path:
            sys.path.append(place)


def _import_script(settings: Settings) -> ModuleType:
    path = settings.script_path
    if path is None:
        return _import_main(settings)
    if not path.is_file():
        raise EntryScriptNotFound(
            f"No such file or directory: the entry script {path} (AZUREML_ENTRY_SCRIPT or "
            f"--entry-script).{_content_of(path.parent)}"
        )
    loader = SourceFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_loader(MODULE_NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    _forget_schemas()
    # dataclasses and pickle look a class's module up by name.
    sys.modules[MODULE_NAME] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        raise EntryScriptFailed(f"Importing the entry script {path} failed") from error
    return module


def _import_main(settings: Settings) -> ModuleType:
    try:
        return importlib.import_module("main")
    except ModuleNotFoundError as error:
        if error.name != "main":
            raise EntryScriptFailed("Importing main.py failed") from error
        if settings.model_dir and not Path(settings.model_dir).is_dir():
            raise EntryScriptNotFound(
                f"The model folder {settings.model_dir} (AZUREML_MODEL_DIR or --model-dir) does "
                "not exist, and no entry script is named (AZUREML_ENTRY_SCRIPT or --entry-script)."
            ) from None
        raise EntryScriptNotFound(
            "No score script found. Expected score script main.py. Name yours with "
            "AZUREML_ENTRY_SCRIPT or --entry-script. Expected script to be found in PYTHONPATH: "
            f"{sys.path}.{_content_of(Path(settings.app_root))}"
        ) from None
    except BaseException as error:
        raise EntryScriptFailed("Importing main.py failed") from error


def _content_of(folder: Path) -> str:
    if not folder.is_dir():
        return f" The folder {folder} does not exist."
    return f" {folder} contains: {', '.join(sorted(os.listdir(folder))) or 'nothing'}."


def _run_of(module: ModuleType, path: Path) -> Callable[..., Any]:
    inner = getattr(module, "driver_module", None)
    if isinstance(inner, ModuleType) and hasattr(inner, "run"):
        script_log.info(
            "Found driver script at %s and the score script at %s", path, inner.__file__
        )
        run: Callable[..., Any] = inner.run
        return run
    script_log.info("Found user script at %s", path)
    run = module.run
    return run


def _uses_flask(module: ModuleType) -> bool:
    flask = sys.modules.get("flask")
    if flask is None:
        return False
    names = [flask, *vars(flask).values()]
    return any(value is each for value in vars(module).values() for each in names)


def _forget_schemas() -> None:
    """inference-schema keeps schemas by module and function name; a new script begins afresh."""
    schema_util = sys.modules.get("inference_schema.schema_util")
    for table in ("__functions_schema__", "__versions__"):
        known = getattr(schema_util, table, {})
        for name in [name for name in known if name.startswith(f"{MODULE_NAME}.")]:
            del known[name]
