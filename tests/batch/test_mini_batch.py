"""Scripts of Azure ML's batch endpoints and of ParallelRunStep, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scoring_runtime.batch.job import Asked, job_of
from scoring_runtime.batch.mini_batch import size_of, takes_mini_batches
from scoring_runtime.batch.plan import files_below
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings.settings import Settings
from tests.batch.jobs import batch, command, summary
from tests.conftest import WriteScript
from tests.hosts.standalone import clean_environ

# As the documentation's scripts are: arguments by argparse, EntryScript, a list of paths.
FILES = '''
"""Say how long each file is."""
import argparse
import os
from pathlib import Path

from azureml_user.parallel_run import EntryScript


def init():
    global args, output
    parser = argparse.ArgumentParser()
    parser.add_argument("--unit", required=True)
    args = parser.parse_args()
    entry_script = EntryScript()
    entry_script.logger.info("init")
    assert entry_script is EntryScript()
    assert entry_script.config["mini_batch_size"] == "2"
    assert Path(entry_script.output_dir) == Path(os.environ["AZUREML_BI_OUTPUT_PATH"])
    assert Path(entry_script.input_dir).is_dir() and Path(entry_script.working_dir).is_dir()
    output = Path(entry_script.output_dir)


def run(mini_batch):
    assert isinstance(mini_batch, list) and len(mini_batch) <= 2
    names = [Path(path).name for path in mini_batch]
    if "raise" in names:
        raise ValueError("a file that nobody can read")
    (output / f"own-{names[0]}").touch()
    return [f"{name}:{Path(path).stat().st_size}{args.unit}"
            for name, path in zip(names, mini_batch) if name != "skip"]


def shutdown():
    (EntryScript().output_dir and output / "shut-down").touch()
'''

TABLE = """
import pandas as pd

def init():
    pass

def run(mini_batch):
    assert isinstance(mini_batch, pd.DataFrame)
    mini_batch["sum"] = mini_batch.a + mini_batch.b
    return mini_batch
"""


def files(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_a_list_of_paths(write_script: WriteScript, tmp_path: Path) -> None:
    """Rows are appended; what is not returned has failed, and may."""
    script, source = write_script(FILES), files(tmp_path / "i\nn", "a", "bb", "ccc", "dddd", "skip")
    target = tmp_path / "out"
    words = ("--entry-script", script, "--input", source, "--output", target, "--workers", "2")
    old = ("--mini_batch_size", "2", "--error_threshold", "1", "--", "--unit", "B")
    told = json.loads(batch(*words, "--json", *old).stdout)
    assert (told["scored"], told["failed"], told["reasons"]) == (4, 1, {"NotReturned": 1})
    lines = (target / "parallel_run_step.txt").read_text().splitlines()
    assert lines == ["a:1B", "bb:2B", "ccc:3B", "dddd:4B"]
    assert {"own-a", "own-ccc", "own-skip", "shut-down"} <= {each.name for each in target.iterdir()}
    # Another time there is nothing to do.
    (target / "own-a").unlink()
    assert batch(*words, *old).returncode == 0
    assert not (target / "own-a").exists()


def test_more_errors_than_the_threshold_end_the_job(
    write_script: WriteScript, tmp_path: Path
) -> None:
    script, source = write_script(FILES), files(tmp_path / "in", "a", "raise", "z")
    target = tmp_path / "out"
    words = ("--entry-script", script, "--input", source, "--output", target, "--workers", "1")
    old = ("--mini-batch-size", "2", "--run-max-try", "1", "--error-threshold")
    done = batch(*words, *old, "1", "--", "--unit", "B")
    assert done.returncode == 4 and "1 may have none" in done.stderr
    # Again: those that had none before have none now.
    done = batch(*words, *old, "1", "--", "--unit", "B")
    assert done.returncode == 4 and "2 inputs have no result; 1 may" in done.stderr
    done = batch(*words, *old, "-1", "--", "--unit", "B")
    assert done.returncode == 0, done.stderr
    assert (target / "parallel_run_step.txt").read_text() == "z:1B\n"


def test_summary_only_leaves_the_output_to_the_script(
    write_script: WriteScript, tmp_path: Path
) -> None:
    script, source = write_script(FILES), files(tmp_path / "in", "a", "b")
    words = ("--entry-script", script, "--input", source, "--output", tmp_path / "out")
    old = ("--mini-batch-size", "2", "--output-action", "summary_only", "--workers", "1")
    done = batch(*words, *old, "--", "--unit", "B")
    assert done.returncode == 0, done.stderr
    there = {each.name for each in (tmp_path / "out").iterdir()}
    assert there == {"own-a", "shut-down", "parallel_run_step.summary.json"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "folder"])
def test_a_data_frame_of_a_tables_rows(
    kind: str, write_script: WriteScript, tmp_path: Path
) -> None:
    """Values of a row are separated by blanks, without names, as ParallelRunStep writes them."""
    rows = [(n, n * 2) for n in range(50)]
    source = tmp_path / "in"
    source.mkdir()
    if kind == "jsonl":
        text = "".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows)
        (source / "t.jsonl").write_text(text)
    else:
        for name, some in (("1.csv", rows[:20]), ("2.csv", rows[20:])):
            (source / name).write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in some))
    place = {"csv": source / "2.csv", "jsonl": source / "t.jsonl", "folder": source}[kind]
    told = summary(
        *("--entry-script", write_script(TABLE), "--input", place, "--output", tmp_path / "out"),
        *("--mini-batch-size", "1kb", "--workers", "2"),
        *("--append-row-file-name", "sums.txt", "--rows", "7"),
    )
    expected = rows[20:] if kind == "csv" else rows
    assert told["scored"] == len(expected)
    lines = (tmp_path / "out" / "sums.txt").read_text().splitlines()
    assert lines == [f"{a} {b} {a + b}" for a, b in expected]


def test_hidden_files_are_no_tables_either(tmp_path: Path) -> None:
    (tmp_path / ".checkpoints").mkdir()
    for name in ("a.csv", ".b.csv", ".checkpoints/a.csv"):
        (tmp_path / name).write_text("a\n1\n")
    assert [each.name for each in files_below(tmp_path)] == ["a.csv"]


@pytest.mark.parametrize("size", ["2", "1kb"])
def test_a_folder_that_cannot_be_listed_is_said(
    size: str, write_script: WriteScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of its files is left out without a word."""
    script, source = write_script(TABLE), files(tmp_path / "in", "a.csv")
    below = files(source / "below", "b.csv")
    list_it = os.scandir

    def refusing(path: str) -> Any:  # whoever runs the tests may be root
        if Path(path) == below:
            raise PermissionError(13, "Permission denied", path)
        return list_it(path)

    monkeypatch.setattr(os, "scandir", refusing)
    settings = Settings.from_environ({"AZUREML_ENTRY_SCRIPT": str(script)})
    asked = Asked(str(source), str(tmp_path / "out"), mini_batch_size=size)
    with pytest.raises(ConfigurationError, match=r"below cannot be read: Permission denied\.$"):
        job_of(settings, asked, print)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_values_of_a_data_frame_are_those_of_the_file(
    kind: str, write_script: WriteScript, tmp_path: Path
) -> None:
    """Texts that look like numbers or dates stay texts, and numbers keep their last digits."""
    given = pd.DataFrame(
        {
            "zip": ["00123", "7", "1e3"],
            "date": ["2020-01-01", "x", ""],
            "wait_time": [99999999, 2**60 + 1, 3],
            "x": [0.1 + 0.2, 1e-7 / 3, 5.0],
        }
    )
    source = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        given["at"] = [pd.Timestamp(1577836800123456789), pd.NaT, pd.Timestamp(0)]
        given.to_parquet(source)
    else:
        lines = [json.dumps(each) for each in given.to_dict("records")]
        source.write_text("\n\n".join(lines), encoding="utf-8-sig")
    script = write_script(
        """
        def init(): pass
        def run(mini_batch):
            mini_batch.to_pickle("seen.pickle")
            return mini_batch
        """
    )
    words = command("--entry-script", script, "--workers", "1", "--input", source)
    subprocess.run([*words, "--output", "out"], cwd=tmp_path, env=clean_environ(), check=True)
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "seen.pickle"), given)


@pytest.mark.parametrize(
    ("text", "found"), [("10", (10, 0)), ("1kb", (0, 1024)), (" 2 MB", (0, 2 * 1024**2))]
)
def test_sizes_as_parallel_run_config_has_them(text: str, found: tuple[int, int]) -> None:
    assert size_of(text) == found


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1tb", "kb"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Allowed: a number of files, as in 10"):
        size_of(text)


def test_a_script_is_known_by_its_parameter(write_script: WriteScript) -> None:
    """Nothing is imported for that."""
    assert takes_mini_batches(write_script("1 / 0\ndef run(mini_batch): pass\n"))
    assert not takes_mini_batches(write_script("def run(data): pass\n"))
    assert not takes_mini_batches(write_script("def run(:\n"))
    assert not takes_mini_batches(None)
