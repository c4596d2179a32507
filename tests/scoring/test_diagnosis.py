"""The one screen that says why the process cannot start."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import sklearn
from sklearn.linear_model import LinearRegression

from scoring_runtime.errors import (
    ConfigurationError,
    EntryScriptContract,
    EntryScriptFailed,
    EntryScriptNotFound,
    StartError,
)
from scoring_runtime.scoring.diagnosis import diagnosis, summary
from scoring_runtime.scoring.runtime import load
from scoring_runtime.settings.settings import Settings

WriteScript = Callable[..., Path]
RULE = "=" * 51


def settings_for(script: Path | None, **environ: str) -> Settings:
    said = (
        {"AML_APP_ROOT": str(script.parent), "AZUREML_ENTRY_SCRIPT": script.name} if script else {}
    )
    return Settings.from_environ({**said, **environ})


def shown(settings: Settings) -> tuple[str, StartError]:
    """The diagnosis of a start that fails, and its error."""
    with asyncio.Runner() as runner, pytest.raises(StartError) as caught:
        load(settings, runner)
    return diagnosis(caught.value, settings), caught.value


def screen(*parts: str) -> str:
    return "\n".join(parts)


def without_marks(text: str) -> str:
    """The screen without the lines that underline code, which differ from Python to Python."""
    return "\n".join(line for line in text.splitlines() if not line or line.strip(" ~^"))


# --- whole screens --------------------------------------------------------------------------------


def test_a_long_message_does_not_push_the_cause_off_the_screen(write_script: WriteScript) -> None:
    """What is beyond 64 kB does not arrive, and the cause is the last line."""
    script = write_script(
        """
        def init():
            raise ValueError("first " + "x" * 100_000 + " last")

        def run(data): ...
        """
    )
    text, _ = shown(settings_for(script))
    assert len(text) < 16_000
    assert "ValueError: first xxx" in text and "xxx last\n" in text
    assert text.splitlines()[-1].startswith("Cause: ValueError: first xxx")


def test_init_raised(write_script: WriteScript, tmp_path: Path) -> None:
    """What failed, where in the script, the traceback of the user's part, the folder, the cause."""
    models = tmp_path / "models" / "iris" / "1"
    models.mkdir(parents=True)
    (models / "iris.pkl").touch()
    script = write_script(
        """
        def read(name):
            return {"there": 1}[name]

        def init():
            read("missing")

        def run(data): ...
        """
    )
    text, error = shown(settings_for(script, AZUREML_MODEL_DIR=str(models)))
    assert isinstance(error, EntryScriptFailed)
    assert without_marks(text) == screen(
        RULE,
        "User's init function failed",
        "",
        f"Where: {script}:3 in read",
        '    return {"there": 1}[name]',
        "",
        "Traceback (most recent call last):",
        f'  File "{script}", line 6, in init',
        '    read("missing")',
        f'  File "{script}", line 3, in read',
        '    return {"there": 1}[name]',
        "KeyError: 'missing'",
        "",
        f"Model Directory Contents: {models}",
        "1/",
        "    iris.pkl",
        RULE,
        "Cause: KeyError: 'missing'",
    )


def test_a_package_is_missing(write_script: WriteScript) -> None:
    """The hint names the package; without a model folder, that is said."""
    script = write_script("import lightgbm_of_the_user.sub\ndef init(): ...\ndef run(data): ...\n")
    text, _ = shown(settings_for(script))
    lines = text.splitlines()
    assert lines[1] == f"Importing the entry script {script} failed"
    assert lines[3] == f"Where: {script}:1 in <module>"
    assert "AZUREML_MODEL_DIR is not set (--model-dir)." in lines
    assert lines[-2:] == [
        "The package that provides 'lightgbm_of_the_user' is not installed here: add it to the "
        "requirements of the model's environment. A module of your own belongs beside the entry "
        "script.",
        "Cause: ModuleNotFoundError: No module named 'lightgbm_of_the_user'",
    ]


def test_a_module_of_ones_own_is_not_called_a_package(write_script: WriteScript) -> None:
    """Its file is named where it lies, or the package of one's own that lacks it."""
    beside = write_script("", "src/deep/features.py")
    write_script("", "helpers/__init__.py")
    script = write_script("import features\ndef init(): ...\ndef run(data): ...\n")
    assert shown(settings_for(script))[0].splitlines()[-2] == (
        f"{beside} is not on the path of modules: name its folder in AZUREML_SOURCE_DIRECTORY, or "
        "put it beside the entry script."
    )
    script = write_script("import helpers.texts\ndef init(): ...\ndef run(data): ...\n")
    hint = shown(settings_for(script))[0].splitlines()[-2]
    assert hint == f"{script.parent / 'helpers'} is yours and has no module 'texts'."


def test_a_syntax_error(write_script: WriteScript) -> None:
    """It has no frame of its own: file and line come from the error."""
    script = write_script("def init(): ...\n\ndef run(data)\n    return data\n")
    lines = shown(settings_for(script))[0].splitlines()
    assert lines[3] == f"Where: {script}:3"
    assert lines[-1] == f"Cause: SyntaxError: expected ':' ({script}, line 3)"


def test_a_syntax_error_in_a_module_beside_the_script(write_script: WriteScript) -> None:
    """The file that has to be mended is named, not the one that imports it."""
    beside = write_script("x = (\n", "broken_beside.py")
    script = write_script("import broken_beside\ndef init(): ...\ndef run(data): ...\n")
    text, _ = shown(settings_for(script))
    assert f"Where: {beside}:1" in text.splitlines()


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (
            "def run(data): ...",
            EntryScriptContract,
            "User script at {script} does not have a init() function defined.",
        ),
        (
            "def init(): ...\ndef run(*data): ...",
            EntryScriptContract,
            "run() cannot accept positional-only arguments, *args, or **kwargs.",
        ),
    ],
)
def test_a_script_without_what_it_needs(
    source: str, kind: type[StartError], message: str, write_script: WriteScript
) -> None:
    """Nothing was raised in the script: no traceback and no model folder."""
    script = write_script(source)
    text, error = shown(settings_for(script))
    said = message.format(script=script)
    assert type(error) is kind
    assert text == screen(RULE, said, RULE, f"Cause: {said}")


def test_no_script(tmp_path: Path) -> None:
    """What is in the folder instead."""
    (tmp_path / "scorer.py").touch()
    text, error = shown(settings_for(tmp_path / "score.py"))
    assert isinstance(error, EntryScriptNotFound)
    assert text == screen(RULE, str(error), RULE, f"Cause: {error}")
    assert str(error) == (
        f"No such file or directory: the entry script {tmp_path / 'score.py'} "
        f"(AZUREML_ENTRY_SCRIPT or --entry-script). {tmp_path} contains: scorer.py."
    )


def test_a_wrong_setting() -> None:
    """The old server's banner; no settings are known yet."""
    error = ConfigurationError("SERVER_PORT has the value 'x'")
    assert diagnosis(error) == screen(
        RULE,
        "===============Configuration Error=================",
        "SERVER_PORT has the value 'x'",
        RULE,
        "Cause: SERVER_PORT has the value 'x'",
    )


@pytest.mark.parametrize(
    ("error", "headline"), [(ValueError("odd"), "ValueError('odd')"), (OSError(), "OSError()")]
)
def test_an_error_of_another_kind(error: Exception, headline: str) -> None:
    """Shown as it is."""
    last = str(error) or repr(error)
    assert diagnosis(error, Settings()) == screen(RULE, headline, RULE, f"Cause: {last}")


# --- the parts ------------------------------------------------------------------------------------


def failing(source: str, write_script: WriteScript, **environ: str) -> list[str]:
    """The lines for an init() with this body."""
    script = write_script(f"def init():\n    {source}\ndef run(data): ...\n")
    return shown(settings_for(script, **environ))[0].splitlines()


@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("raise ValueError('one\\ntwo\\n  three')", "Cause: ValueError: one two three"),
        ("raise ValueError('\\n\\nwhy')", "Cause: ValueError: why"),
        ("raise ValueError('x' * 2000)", f"Cause: ValueError: {'x' * 988} …"),
        (
            "exec(compile('(', 'rules.py', 'exec'))",
            "Cause: SyntaxError: '(' was never closed (rules.py, line 1)",
        ),
        ("raise ValueError()", "Cause: ValueError"),
        ("e = ValueError('x'); e.add_note('a note'); raise e", "Cause: ValueError: x"),
        ("raise OSError(2, 'No such file', 'm.pkl')", None),
        ("import sys; sys.exit(0)", "Cause: SystemExit: 0"),
        (
            "raise ExceptionGroup('g', [ValueError('x')])",
            "Cause: ExceptionGroup: g (1 sub-exception)",
        ),
    ],
)
def test_the_last_line_is_the_cause(
    source: str, last: str | None, write_script: WriteScript
) -> None:
    """One line with all that the exception itself says, without its notes; why, not only what."""
    expected = last or "Cause: FileNotFoundError: [Errno 2] No such file: 'm.pkl'"
    assert failing(source, write_script)[-1] == expected


def test_the_runtimes_own_frames_are_not_shown(write_script: WriteScript) -> None:
    """Neither this package nor the import system."""
    text = "\n".join(failing("import no_such_package_here", write_script))
    assert "runtime.py" not in text
    assert "importlib" not in text
    text = shown(settings_for(write_script("import no_such_package_here\n")))[0]
    assert "entry_script.py" not in text
    assert "importlib" not in text


def test_frames_below_the_script_are_shown_and_the_script_is_where(
    write_script: WriteScript,
) -> None:
    """The error rises in a library: the line of the script that called it is named."""
    lines = failing("import json; json.loads('nope')", write_script)
    where = next(line for line in lines if line.startswith("Where: "))
    assert where.endswith("score.py:2 in init")
    assert any("json" in line and "decoder.py" in line for line in lines)


def test_an_error_outside_the_script_has_no_where(tmp_path: Path) -> None:
    """Nothing is guessed."""
    error = EntryScriptFailed("User's init function failed")
    error.__cause__ = ValueError("x")
    text = diagnosis(error, settings_for(tmp_path / "score.py"))
    assert "Where:" not in text
    assert diagnosis(error).splitlines() == [
        RULE,
        "User's init function failed",
        "",
        "",
        "ValueError: x",
        RULE,
        "Cause: ValueError: x",
    ]


def test_a_model_folder_that_does_not_exist(write_script: WriteScript, tmp_path: Path) -> None:
    """Said, instead of a tree."""
    folder = tmp_path / "nope"
    lines = failing("raise ValueError('x')", write_script, AZUREML_MODEL_DIR=str(folder))
    assert f"AZUREML_MODEL_DIR is {folder}, which does not exist." in lines


@pytest.mark.keep
def test_a_large_model_folder_is_cut(write_script: WriteScript, tmp_path: Path) -> None:
    """Row 63: 200 lines of it."""
    folder = tmp_path / "models"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03d}").touch()
    lines = failing("raise ValueError('x')", write_script, AZUREML_MODEL_DIR=str(folder))
    begin = lines.index(f"Model Directory Contents: {folder}")
    assert lines[begin + 200 : begin + 203] == [
        "    198",
        "Output Truncated. First 200 lines shown.",
        RULE,
    ]


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("import sys; sys.exit(4)", "The script ended the process itself (sys.exit)."),
        ("raise AttributeError('x')", RULE),
        ("raise ModuleNotFoundError('no name')", RULE),
        ("raise ValueError('x')", RULE),
    ],
)
def test_hints(source: str, hint: str, write_script: WriteScript) -> None:
    """What helps stands before the cause; where nothing is known, nothing does."""
    assert failing(source, write_script)[-2] == hint


def test_a_model_pickled_in_a_notebook(write_script: WriteScript) -> None:
    """The real error of pickle gets that hint."""
    source = "import pickle; pickle.loads(b'c__main__\\nNetOfTheUser\\n.')"
    lines = failing(source, write_script)
    assert lines[-2].startswith("The model was pickled by a script that defined its classes")
    assert "NetOfTheUser" in lines[-1]


def test_a_secret_in_what_a_script_raises_is_not_shown(write_script: WriteScript) -> None:
    """Such as the address of a database that does not answer."""
    script = write_script(
        """
        def init():
            raise OSError("no answer from postgresql://me:hunter2@db/x")
        def run(data): ...
        """
    )
    text, error = shown(settings_for(script))
    assert "hunter2" not in text
    assert text.endswith("Cause: OSError: no answer from postgresql://me:***@db/x")
    assert summary(error) == (
        "User's init function failed. Cause: OSError: no answer from postgresql://me:***@db/x"
    )


def test_a_pickle_of_another_scikit_learn_is_named(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Below the model's tree, whatever it was that loading it raised."""
    folder = tmp_path / "models"
    folder.mkdir()
    estimator = LinearRegression().fit([[1], [2]], [1, 2])
    new = pickle.dumps(estimator, protocol=4)
    (folder / "new.pkl").write_bytes(new)
    installed = sklearn.__version__.encode()
    old = b"0.0.9".ljust(len(installed), b"9")[: len(installed)]
    (folder / "old.pkl").write_bytes(new.replace(installed, old))
    source = "raise ValueError('node array from the pickle has an incompatible dtype')"
    lines = failing(source, write_script, AZUREML_MODEL_DIR=str(folder))
    at = next(n for n, line in enumerate(lines) if line.startswith("old.pkl was written"))
    assert lines[at] == (
        f"old.pkl was written with scikit-learn {old.decode()}, installed is {sklearn.__version__}."
    )
    assert not any("new.pkl was written" in line for line in lines)
