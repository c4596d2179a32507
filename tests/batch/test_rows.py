"""A big file in parts: every row once, whatever is killed; rows that spoil a part; formats."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.tree import DecisionTreeRegressor

from scoring_runtime.batch.job import Asked, job_of
from scoring_runtime.batch.plan import rows_of
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings
from tests.batch.jobs import SUMS, batch, command, summary
from tests.conftest import WriteScript
from tests.hosts.standalone import clean_environ
from tests.hosts.waiting import on_a_loop, until

ROWS = 20_000
# Read at import: fixtures take variables of this prefix out of the environment.
_SEED = os.environ.get("SCORING_TEST_SEED")


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SUMS)


def table(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("a,b\n" + "".join(f"{line}\n" for line in lines))
    return path


def model(folder: Path) -> Path:
    """A tree: its answer to a row is the same whatever rows come with it."""
    rng = np.random.default_rng(0)
    given = pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"])
    folder.mkdir()
    tree = DecisionTreeRegressor(random_state=0).fit(given, given["a"] * 3 - given["b"])
    joblib.dump(tree, folder / "model.joblib")
    return folder


async def over_http(settings: Settings, bodies: list[bytes]) -> list[bytes]:
    """What a client gets for each body; the routes give what the runtime gives."""
    runtime = build(settings)
    runtime.start()
    headers = ((b"content-type", b"text/csv"), (b"accept", b"text/csv"))
    found = [await runtime.score(ScoringRequest(body, headers)) for body in bodies]
    await runtime.stop()
    assert all(each.status == 200 for each in found)
    return [each.body for each in found if isinstance(each.body, bytes)]


@on_a_loop
async def test_killed_at_random_and_repeated_every_row_is_there_once(tmp_path: Path) -> None:
    """The bytes are those that HTTP gives; two batches work on the file beside each other."""
    seed = int(_SEED or random.randrange(10**6))
    print(f"SCORING_TEST_SEED={seed}")
    chance = random.Random(seed)
    values = np.round(np.random.default_rng(seed).normal(size=(ROWS, 2)), 5)
    source = table(tmp_path / "rows.csv", [f"{a},{b}" for a, b in values])
    folder, target = model(tmp_path / "model"), tmp_path / "scored.csv"
    words = command("--model-dir", folder, "--input", source, "--output", target, "--rows", "250")
    kills = 0
    while kills < 3:
        pair = [
            subprocess.Popen(
                [*words, "--workers", "1"],
                env=clean_environ(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for _ in range(2)
        ]
        parts = target.with_name("scored.csv.parts")
        before = len([*parts.glob("*.out")])
        until(lambda p=parts, n=before: len([*p.glob("*.out")]) > n or target.exists())
        time.sleep(chance.uniform(0, 0.2))
        for each in pair:
            os.killpg(each.pid, signal.SIGKILL)
            each.wait()
        kills += 1
    told = summary(*words[4:], "--workers", "2")
    assert (told["total"], told["scored"], told["left"]) == (ROWS, ROWS, 0)
    settings = Settings.from_environ({"AZUREML_MODEL_DIR": str(folder)})
    bodies = [each.body() for each in rows_of(source, 250, 2**30)]
    head, *answers = [each.split(b"\r\n", 1) for each in await over_http(settings, bodies)]
    assert target.read_bytes() == b"\r\n".join(
        [head[0], b"".join([head[1], *(b for _, b in answers)])]
    )
    [alone, other] = await over_http(
        settings, [b"a,b\n" + b"%f,%f\n" % tuple(values[n]) for n in (0, ROWS - 1)]
    )
    lines = target.read_bytes().split(b"\r\n")
    assert len(lines) == ROWS + 2
    assert (lines[1], lines[-2]) == (alone.split(b"\r\n")[1], other.split(b"\r\n")[1])
    assert not target.with_name("scored.csv.parts").exists()
    assert not target.with_name("scored.csv.errors.jsonl").exists()


def test_rows_that_spoil_a_part_are_found_and_the_others_scored(
    script: Path, tmp_path: Path
) -> None:
    """In their order; the file of errors says which and why."""
    lines = [f"{n},1" for n in range(1000)]
    lines[7], lines[8], lines[500], lines[999] = "refuse,1", "x,1", "refuse,2", "y,2"
    source, target = table(tmp_path / "rows.csv", lines), tmp_path / "scored.jsonl"
    words = ("--entry-script", script, "--input", source, "--output", target)
    told = summary(*words, "--rows", "400", "--workers", "1", code=4)
    assert told["reasons"] == {"InputError": 2, "RunFailed": 2}
    assert (told["scored"], told["refused"], told["failed"]) == (996, 2, 2)
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert found == [None if n in (7, 8, 500, 999) else n + 1 for n in range(1000)]
    errors = Path(told["errors"]).read_text().splitlines()
    said = [json.loads(line) for line in errors]
    assert [(each["row"], each["rows"], each["status"]) for each in said] == [
        (8, 1, 400), (9, 1, 500), (501, 1, 400), (1000, 1, 500),
    ]  # fmt: skip
    assert "could not convert string to float: 'x'" in said[1]["message"]
    # Again there is nothing to do, and the code tells the same.
    assert summary(*words, code=4)["reasons"] == told["reasons"]


def test_a_row_that_kills_its_process_costs_no_other_part(script: Path, tmp_path: Path) -> None:
    """It is tried as often as a file is; the others of its part have no result."""
    lines = [f"{n},1" for n in range(60)]
    lines[25] = "die,1"
    source, target = table(tmp_path / "rows.csv", lines), tmp_path / "scored.csv"
    options = ("--rows", "10", "--workers", "2", "--run-max-try", "2")
    words = ("--entry-script", script, "--input", source, "--output", target, *options)
    told = summary(*words, code=4)
    assert (told["scored"], told["failed"]) == (50, 10)
    found = [*csv.reader(target.read_text().splitlines())]
    assert found == [["predictions"]] + [
        [""] if 20 <= n < 30 else [str(float(n + 1))] for n in range(60)
    ]
    [error] = Path(told["errors"]).read_text().splitlines()
    assert json.loads(error)["row"] == 21 and "process ended" in error


def test_an_interrupt_ends_it_within_seconds_and_the_next_run_goes_on(
    script: Path, tmp_path: Path
) -> None:
    source = table(tmp_path / "rows.csv", [f"{n},1" for n in range(60)])
    target = tmp_path / "scored.csv"
    options = ("--rows", "1", "--workers", "2")
    words = ("--entry-script", script, "--input", source, "--output", target, *options)
    slow = clean_environ(TEST_SECONDS="0.3")
    began = subprocess.Popen(command(*words), env=slow, stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "scored.csv.parts"
    until(lambda: len([*parts.glob("*.out")]) > 2)
    began.send_signal(signal.SIGINT)
    at = time.monotonic()
    assert began.wait(timeout=20) == 130
    assert time.monotonic() - at < 10
    assert began.stderr is not None
    with began.stderr:
        assert "Interrupted." in began.stderr.read()
    done = len([*parts.glob("*.out")])
    assert 2 < done < 60 and not target.exists()
    told = summary(*words)
    assert (told["scored"], told["total"]) == (60, 60)
    assert len(target.read_text().splitlines()) == 61


def test_more_errors_than_are_allowed_end_it(script: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "rows.csv", ["refuse,1"] * 30)
    words = ("--entry-script", script, "--input", source, "--output", tmp_path / "o.csv")
    done = batch(*words, "--rows", "5", "--workers", "1", "--error-threshold", "7")
    assert done.returncode == 4 and "7 may have none (--error-threshold)" in done.stderr
    assert not (tmp_path / "o.csv").exists()
    # As many as there are, and it is no failure.
    told = summary(*words, "--rows", "5", "--workers", "1", "--error-threshold", "30")
    assert told["refused"] == 30


def test_rows_as_json_for_scripts_that_read_it(write_script: WriteScript, tmp_path: Path) -> None:
    script = write_script(
        """
        import json
        def init(): pass
        def run(data):
            return [{"first": row[0], "n": len(row)} for row in json.loads(data)["data"]]
        """
    )
    source = table(tmp_path / "rows.csv", ["1.5,x", ",y"])
    words = ("--entry-script", script, "--rows-as", "data", "--workers", "1", "--input", source)
    summary(*words, "--output", tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text().splitlines() == ["first,n", "1.5,2", "nan,2"]
    summary(*words, "--output", tmp_path / "o.jsonl")
    assert (tmp_path / "o.jsonl").read_text() == '{"first":1.5,"n":2}\n{"first":null,"n":2}\n'


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_scripts_own_csv_and_lines(end: str, write_script: WriteScript, tmp_path: Path) -> None:
    """Whichever line ends it writes, with or without the last."""
    script = write_script(
        f"""
        from azureml.contrib.services.aml_request import rawhttp
        from azureml.contrib.services.aml_response import AMLResponse
        def init(): pass
        @rawhttp
        def run(request):
            rows = request.data.decode().splitlines()[1:]
            lines = "csv" not in request.headers["accept"]
            answer = AMLResponse("\\n".join(rows if lines else ["x,y", *rows]) + {end!r}, 200)
            answer.headers["Content-Type"] = request.headers["accept"]
            return answer
        """
    )
    # All parts begin with the same character.
    given = [f"5{n},0" for n in range(7)]
    source = table(tmp_path / "rows.csv", given)
    words = ("--entry-script", script, "--workers", "1", "--rows", "2", "--input", source)
    summary(*words, "--output", tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text().splitlines() == ["x,y", *given]
    summary(*words, "--output", tmp_path / "o.jsonl")
    assert (tmp_path / "o.jsonl").read_text().splitlines() == given


AS_THEY_ARE = """
import json
def init(): pass
def run(data): return json.loads(data)["data"]
"""


def test_rows_as_json_lose_no_digits(write_script: WriteScript, tmp_path: Path) -> None:
    rows = ["9007199254740993,1_0", "-12345678901234567890,2", "3,x_1"]
    source = table(tmp_path / "rows.csv", rows)
    words = ("--entry-script", write_script(AS_THEY_ARE), "--rows-as", "data", "--workers", "1")
    summary(*words, "--input", source, "--output", tmp_path / "o.jsonl")
    said = (tmp_path / "o.jsonl").read_text()
    assert said == '[9007199254740993,"1_0"]\n[-12345678901234567890,"2"]\n[3.0,"x_1"]\n'


@pytest.mark.parametrize("rows", ["1", "2", "9"])
def test_a_value_is_a_number_or_text_whatever_part_it_is_in(
    write_script: WriteScript, tmp_path: Path, rows: str
) -> None:
    """By the column: with a code, mostly numbers, mostly texts, empty."""
    source = tmp_path / "rows.csv"
    source.write_text('id,n,text,no\n12,1,x,\n01,wrong,"y, z",\n3,,7,\n4,2.5,u,\n')
    words = ("--entry-script", write_script(AS_THEY_ARE), "--rows-as", "data", "--workers", "1")
    target = tmp_path / "o.jsonl"
    summary(*words, "--rows", rows, "--input", source, "--output", target)
    assert [*map(json.loads, target.read_text().splitlines())] == [
        ["12", 1, "x", None],
        ["01", "wrong", "y, z", None],
        ["3", None, "7", None],
        ["4", 2.5, "u", None],
    ]


def test_other_options_take_nothing_that_was_begun(script: Path, tmp_path: Path) -> None:
    asked = Asked(str(table(tmp_path / "rows.csv", ["1,2"])), str(tmp_path / "o.csv"))
    settings = Settings.from_environ({"AZUREML_ENTRY_SCRIPT": str(script)})
    others = (asked._replace(method="x"), asked._replace(model="x"), asked._replace(rows_as="x"))
    jobs = [job_of(settings, each, print) for each in (asked, *others)]
    assert len({each.parts[0].name for each in jobs if each.parts}) == len(jobs)


def test_another_input_of_the_same_moment_is_not_taken_for_done(
    script: Path, tmp_path: Path
) -> None:
    first, other = (table(tmp_path / n, [line]) for n, line in (("a.csv", "1,2"), ("b.csv", "3,4")))
    longer = table(tmp_path / "below" / "a.csv", ["1,2", "5,6"])
    for each in (first, other, longer):
        os.utime(each, ns=(10**18, 10**18))
    target = tmp_path / "o.jsonl"
    words = ("--entry-script", script, "--workers", "1", "--output", target, "--input")
    for source, total in ((first, [3.0]), (other, [7.0]), (longer, [3.0, 11.0])):
        summary(*words, source)
        assert [*map(json.loads, target.read_text().splitlines())] == total
        made = target.stat().st_ino
        summary(*words, source, "--rows", "1")
        assert target.stat().st_ino == made  # there was nothing to do


def test_an_input_that_has_no_rows_any_more_has_an_empty_output(
    script: Path, tmp_path: Path
) -> None:
    source, target = table(tmp_path / "rows.csv", ["1,2"]), tmp_path / "o.csv"
    words = ("--entry-script", script, "--workers", "1", "--input", source, "--output", target)
    summary(*words)
    source.write_text("")
    for _ in range(2):
        assert summary(*words)["total"] == 0
        assert target.read_bytes() == b""
    assert not [*tmp_path.glob("*.parts")]


@pytest.mark.parametrize("rows", ["1", "9"])
def test_rows_as_json_have_the_order_of_the_file_s_first_row(
    write_script: WriteScript, tmp_path: Path, rows: str
) -> None:
    script = write_script(
        """
        import json
        def init(): pass
        def run(data): return [f"{a} {b}" for a, b in json.loads(data)["data"]]
        """
    )
    source = tmp_path / "rows.jsonl"
    source.write_text('{"a": 1, "b": 2}\n{"b": 2, "a": 1}\n{"b": 2}\n{"c": 3}\n')
    words = ("--entry-script", script, "--rows-as", "data", "--workers", "1", "--rows", rows)
    target = tmp_path / "o.jsonl"
    assert summary(*words, "--input", source, "--output", target, code=2)["refused"] == 1
    assert target.read_text().splitlines() == ['"1 2"', '"1 2"', '"None 2"', "null"]
    assert "Unknown columns: 'c'. Expected: 'a', 'b'." in Path(f"{target}.errors.jsonl").read_text()


def test_a_parquet_file(tmp_path: Path) -> None:
    """Row groups in parts."""
    folder, source = model(tmp_path / "model"), tmp_path / "rows.parquet"
    given = pd.DataFrame({"a": np.arange(50.0), "b": 1.0})
    given.to_parquet(source, row_group_size=17)
    target = tmp_path / "scored.csv"
    words = ("--model-dir", folder, "--workers", "1", "--rows", "5", "--input", source)
    assert summary(*words, "--output", target)["scored"] == 50
    tree = joblib.load(folder / "model.joblib")
    assert pd.read_csv(target)["predict"].tolist() == tree.predict(given).tolist()


def test_an_answer_with_other_rows_is_none(write_script: WriteScript, tmp_path: Path) -> None:
    script = write_script("def init(): pass\ndef run(data): return ['one for all']\n")
    source = table(tmp_path / "rows.csv", ["1,2", "3,4"])
    words = ("--entry-script", script, "--workers", "1", "--run-max-try", "1", "--input", source)
    done = batch(*words, "--output", tmp_path / "o.jsonl")
    # A row alone has one answer; which is right then.
    assert done.returncode == 0
    script.write_text("def init(): pass\ndef run(data): return 'text'\n")
    told = summary(*words, "--output", tmp_path / "p.jsonl", code=4)
    assert told["reasons"] == {"WrongBatchLength": 2}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--input", "rows.csv", "--output", "rows.csv"), "another file, whose name ends in .csv"),
        (("--input", "rows.csv", "--output", "o.txt"), "another file, whose name ends in .csv"),
        (("--input", "rows.csv", "--output", "o.parquet"), "whose name ends in .csv, .jsonl"),
        (("--input", "rows.xls", "--output", "o.csv"), "rows.xls cannot be read in parts"),
        (("--input", "none.csv", "--output", "o.csv"), "--input none.csv is not there."),
        (("--input", "rows.csv", "--output", "o.csv", "--follow"), "--follow is for a folder"),
        (("--input", "rows.csv", "--output", "o.csv", "--rows", "0"), "a whole number from 1"),
        (("--input", "u.csv", "--output", "o.csv"), "u.csv is UTF-16. Allowed"),
        (("--input", "no.parquet", "--output", "o.csv"), "is not a Parquet file"),
        (("--input", "twice.parquet", "--output", "o.csv"), "has two columns 'a'"),
        (("--output", "o.csv"), "the following arguments are required: --input"),
        (("--input", ".", "--output", "../o", "--mini-batch-size", "1tb"), "Allowed: a number of"),
        (("--input", ".", "--output", "./o", "--mini-batch-size", "1"), "lies in --input"),
        (("--input", "https://a.blob.core.windows.net/c?sig=x", "--output", "o"), "has no query"),
    ],
)
def test_what_does_not_fit_is_said(
    options: tuple[str, ...], said: str, script: Path, tmp_path: Path
) -> None:
    table(tmp_path / "rows.csv", ["1,2"])
    (tmp_path / "rows.xls").touch()
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    (tmp_path / "no.parquet").write_text("no")
    (tmp_path / "u.csv").write_text("a,b\n1,2\n", encoding="utf-16")
    done = subprocess.run(
        command("--entry-script", script, *options),
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_script_that_cannot_start_is_said_once(write_script: WriteScript, tmp_path: Path) -> None:
    script = write_script("def init(): raise RuntimeError('no model')\ndef run(data): pass\n")
    source = table(tmp_path / "rows.csv", ["1,2"])
    words = ("--entry-script", script, "--input", source, "--output", tmp_path / "o.csv")
    done = batch(*words, "--workers", "2")
    assert done.returncode == 3
    assert done.stderr.count("no model") >= 1 and done.stderr.rstrip().endswith("no model")
