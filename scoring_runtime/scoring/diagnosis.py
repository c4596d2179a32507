"""One screen that says why the process cannot start; its last line is the cause."""

from __future__ import annotations

import traceback
from itertools import islice
from pathlib import Path

from ..errors import (
    ConfigurationError,
    EntryScriptFailed,
    EntryScriptNotFound,
    ModelUnusable,
    ScoringRuntimeError,
)
from ..models.folder import tree
from ..models.kinds import SUFFIXES, pickles
from ..models.loading import version_differences
from ..models.pickled import said
from ..settings.secrets import masked
from ..settings.settings import Settings

_RULE = "=" * 51
_LONGEST_CAUSE = 1000
_LONGEST_TRACEBACK = 12_000  # in characters; supervisors pass 64 kB of a screen on
_LOOKED_AT, _LOOKED_AT_BYTES = 20, 100_000_000


def diagnosis(error: BaseException, settings: Settings | None = None) -> str:
    """What failed, where in the user's script, what is in the model folder, what is missing.

    What looks like a secret is not shown, such as the URL in the error of a client of the script.
    """
    parts: list[str | None] = [_RULE, _headline(error)]
    cause = error.__cause__ if isinstance(error, EntryScriptFailed) else None
    if cause is not None:
        parts += ["", *_where(cause, settings), "", _traceback(cause)]
    if settings is not None and (cause is not None or _is_about_the_model(error, settings)):
        parts += _model_folder(settings)
    parts += [_RULE, _hint(cause, settings), _neither(error, settings) or _last_line(error, cause)]
    return masked("\n".join(part for part in parts if part is not None))


def summary(error: BaseException, settings: Settings | None = None) -> str:
    """The same on one line, where a message is all that arrives: what failed, and the cause."""
    cause = error.__cause__ if isinstance(error, EntryScriptFailed) else None
    if cause is None:
        return masked(str(error) or repr(error))
    parts = (f"{error}.", _hint(cause, settings), _last_line(error, cause))
    return masked(" ".join(part for part in parts if part))


def place(cause: BaseException, settings: Settings) -> str:
    """Where in the entry script it was raised, ``file:line in function``; nothing if elsewhere."""
    return next(iter(_where(cause, settings)), "").removeprefix("Where: ")


def _headline(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return f"===============Configuration Error=================\n{error}"
    return str(error) if isinstance(error, ScoringRuntimeError) else repr(error)


def _where(cause: BaseException, settings: Settings | None) -> list[str]:
    if isinstance(cause, SyntaxError) and cause.filename:
        return [f"Where: {cause.filename}:{cause.lineno}"]
    frames = traceback.extract_tb(cause.__traceback__)
    script = settings.script_path if settings else None
    own = [f for f in frames if script and Path(f.filename).resolve() == script.resolve()]
    if not own:
        return []
    frame = own[-1]
    return [f"Where: {frame.filename}:{frame.lineno} in {frame.name}", f"    {frame.line}"]


def _traceback(cause: BaseException) -> str:
    package = str(Path(__file__).parent.parent)
    shown = traceback.TracebackException.from_exception(cause)
    shown.stack = traceback.StackSummary.from_list(
        [f for f in shown.stack if package not in f.filename and "importlib" not in f.filename]
    )
    text = masked("".join(shown.format()).rstrip())  # before the cut, which may go through a secret
    left_out, half = len(text) - _LONGEST_TRACEBACK, _LONGEST_TRACEBACK // 2
    if left_out <= 0:
        return text
    return f"{text[:half]}\n… {left_out} characters are left out here …\n{text[-half:]}"


def _model_folder(settings: Settings) -> list[str]:
    if not settings.model_dir:
        return ["", "AZUREML_MODEL_DIR is not set (--model-dir)."]
    folder = Path(settings.model_dir)
    if not folder.exists():
        return ["", f"AZUREML_MODEL_DIR is {folder}, which does not exist."]
    return ["", f"Model Directory Contents: {folder.resolve()}", *tree(folder), *_versions(folder)]


def _versions(folder: Path) -> list[str]:
    """Which may be why it fails to load."""
    lines = written_otherwise(folder)
    return ["", *lines] if lines else []


def written_otherwise(folder: Path) -> list[str]:
    """A line for each pickle that another scikit-learn wrote than the one that is installed."""
    lines = []
    for path in islice(pickles(folder), _LOOKED_AT):
        written = said(path).scikit_learn if path.stat().st_size <= _LOOKED_AT_BYTES else ""
        differs = version_differences({"scikit-learn": written} if written else {})
        lines += [
            f"{path.name} was written with {each.library} {each.recorded}, installed is "
            f"{each.installed}."
            for each in differs
        ]
    return lines


def _is_about_the_model(error: BaseException, settings: Settings) -> bool:
    without_script = isinstance(error, EntryScriptNotFound) and not settings.entry_script
    return isinstance(error, ModelUnusable) or (without_script and bool(settings.model_dir))


def _neither(error: BaseException, settings: Settings | None) -> str | None:
    """The cause when there is no entry script, and no model that scores without one."""
    if settings is None or isinstance(error, ModelUnusable):
        return None
    if not _is_about_the_model(error, settings):
        return None
    kinds = f"{', '.join(SUFFIXES)} or a folder with a file MLmodel"
    return (
        "Cause: there is neither an entry script (AZUREML_ENTRY_SCRIPT, main.py) nor a model that "
        f"scores without one in {settings.model_dir} (AZUREML_MODEL_DIR)"
        f"{_what_it_is(Path(settings.model_dir))}; expected is {kinds}."
    )


def _what_it_is(folder: Path) -> str:
    if folder.is_dir():
        return ""
    return ", which is a file: name its folder" if folder.exists() else ", which does not exist"


def _hint(cause: BaseException | None, settings: Settings | None) -> str | None:
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        return _missing_module(cause.name, settings)
    if isinstance(cause, AttributeError) and "__main__" in str(cause):
        return (
            "The model was pickled by a script that defined its classes itself. Put them into a "
            "module next to the entry script and pickle the model again with that module."
        )
    if isinstance(cause, SystemExit):
        return "The script ended the process itself (sys.exit)."
    return None


def _missing_module(name: str, settings: Settings | None) -> str:
    """What to do about it, by whether its file lies in the source folder or beside the script."""
    if settings is not None:
        root = Path(settings.app_root)
        places = [root, *([settings.script_path.parent] if settings.script_path else [])]
        top, _, rest = name.partition(".")
        for place in places:
            if rest and ((place / top).is_dir() or (place / f"{top}.py").is_file()):
                return f"{place / top} is yours and has no module {rest!r}."
        for found in _own_modules(root, top):
            return (
                f"{found} is not on the path of modules: name its folder in "
                "AZUREML_SOURCE_DIRECTORY, or put it beside the entry script."
            )
    return (
        f"The package that provides {name!r} is not installed here: add it to the requirements of "
        "the model's environment. A module of your own belongs beside the entry script."
    )


def _own_modules(root: Path, name: str) -> list[Path]:
    """Files and folders of this module's name up to three folders below ``root``."""
    patterns = [
        f"{'*/' * depth}{name}{end}" for depth in (1, 2, 3) for end in (".py", "/__init__.py")
    ]
    return [found for each in patterns for found in islice(root.glob(each), 1)]


def _last_line(error: BaseException, cause: BaseException | None) -> str:
    if cause is None:
        first = str(error).splitlines()[0] if str(error) else repr(error)
        return f"Cause: {first}"
    return f"Cause: {in_one_line(cause)}"


def in_one_line(error: BaseException) -> str:
    """Type and text of what a script raised, its lines joined; of a syntax error its place too."""
    shown = traceback.TracebackException.from_exception(error)
    text = next(line for line in shown.format_exception_only() if not line.startswith("  "))
    joined = " ".join(text.split())
    joined = joined if len(joined) <= _LONGEST_CAUSE else f"{joined[:_LONGEST_CAUSE]} …"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{joined} ({error.filename}, line {error.lineno})"
    return joined
