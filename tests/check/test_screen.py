"""What ``scoring-runtime check`` prints for people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scoring_runtime.check.report import Report, read
from scoring_runtime.cli.check import show
from scoring_runtime.cli.main import main

ROOT = Path(__file__).parents[2]


def screen(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    show(report)
    return capsys.readouterr().out


def test_the_gravest_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("score.py", notes=["it is so"])
    report.add("sample", "a.json", "refused")
    report.add("run", "score.py:5 in run", "raised")
    lines = screen(report, capsys).splitlines()
    assert lines[0] == "CHECKED  score.py" and "note     it is so" in lines
    assert lines[-5:] == ["run: score.py:5 in run", "  raised", "", "sample: a.json", "  refused"]
    assert report.exit_code == 4


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ({"why_not": "it is fixed"}, "it is fixed"),
        (
            {"size": 1, "gain": 1.0, "differ": [], "largest": 0.0, "setting": "-"},
            "gain nothing: 2.000 ms an input alone, 0.500 ms of 64; answers are the same to the",
        ),
        (
            {"size": 64, "gain": 4.0, "differ": [], "largest": 0.0, "setting": "S=64"},
            "64 together are 4.0 times as fast (0.500 ms an input, alone 2.000); answers are the "
            "same to the bit: S=64",
        ),
        (
            {"size": 64, "gain": 4.0, "differ": [3, 17], "largest": 1e-16, "setting": "S=64"},
            "answers of 3, 17 together differ by up to 1.0e-16: S=64",
        ),
        (
            {"size": 64, "gain": 4.0, "differ": [3], "largest": None, "setting": "S=64"},
            "answers of 3 together differ in more than digits",
        ),
    ],
)
def test_what_is_said_of_batches(
    batches: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ms = {"ms": {"1": 2.0, "2": 1.0, "3": 1.0, "17": 0.6, "64": 0.5}}
    facts = {"batches": batches if "why_not" in batches else {**ms, **batches}}
    assert said in screen(Report("x", facts), capsys)


def test_it_fits_one_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("score.py").write_text("def init(): ...\ndef run(raw_data): return raw_data\n")
    Path("sample_input.json").write_text("[1.5]")
    monkeypatch.setenv("SCORING_CONCURRENCY", "2")
    assert main(["check", "--entry-script", "score.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0].strip() for line in lines[1:] if line]
    wanted = [
        "start",
        "samples",
        "answers",
        "time",
        "memory",
        "threads",
        "batches",
        "Nothing is wrong.",
    ]
    assert names == wanted
    assert lines[2] == "samples  sample_input.json"


def test_a_sample_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--sample", "nowhere.json"]) == 1
    assert "nowhere.json: No such file or directory" in capsys.readouterr().err


def test_no_extra_is_needed(tmp_path: Path) -> None:
    """An image has those that it needs itself."""
    (tmp_path / "score.py").write_text("def init(): ...\ndef run(raw_data): return raw_data\n")
    code = (
        "import sys\n"
        "for name in 'packaging pathspec psutil yaml rich numpy uvicorn azure'.split():\n"
        "    sys.modules[name] = None\n"
        "from scoring_runtime.cli.main import main\n"
        f"raise SystemExit(main(['check', '--entry-script', {str(tmp_path / 'score.py')!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_scripts_are_checked_where_numpy_is_not() -> None:
    """Neither the trial nor the fixture of tests needs it."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import scoring_runtime.check.trial, scoring_runtime.testing.under_test\n"
        "assert not [each for each in sys.modules if each.startswith('azure')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_trial_that_cannot_begin_says_nothing_of_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scoring_runtime.check.process._MODULE", "scoring_runtime.nowhere")
    Path("score.py").write_text("def init(): ...\ndef run(raw_data): ...\n")
    assert main(["check", "--entry-script", "score.py"]) == 9
    said = capsys.readouterr().out
    assert "the check itself has failed" in said and "scoring_runtime.nowhere" in said


def test_a_report_is_read_as_it_was_written() -> None:
    report = Report("x", {"a": 1}, notes=["n"], unchecked="why")
    report.add("limit", "S", "text", "detail")
    assert read(report.text()) == report
    for text in ("", "[]", "{}", '{"findings": [{"kind": 1}]}'):
        with pytest.raises(ValueError):
            read(text)
