"""``scoring-runtime replay``: what is the same, what has changed, what is skipped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from scoring_runtime.cli import replay
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.recording.records import Entry, line_of
from scoring_runtime.recording.redaction import Redaction
from tests.cli.test_main import run_in
from tests.hosts.standalone import StandaloneHost

JSON = ((b"content-type", b"application/json"),)
SUM = """
    import json
    def init(): pass
    def run(data):
        value = json.loads(data)
        if value == "fail":
            raise ValueError("as asked")
        return {"sum": sum(value), "text": "a"}
"""


def record(
    body: object = b"[1, 2]",
    answer: object = b'{"sum":3,"text":"a"}',
    status: int = 200,
    **more: Any,
) -> Entry:
    """By default what SUM answers to it."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    headers = more.pop("headers", JSON)
    trigger = more.pop("trigger", "http")
    run_ms = more.pop("run_ms", 1.0)
    request = ScoringRequest(body, headers, request_id="r", **more)
    return Entry(1.5e9, trigger, request, len(body), status, JSON, answer, 0.1, run_ms)


def write(path: Path, *entries: Entry | bytes) -> Path:
    hide = Redaction()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (e if isinstance(e, bytes) else line_of(e, "m:1", hide, 10_000) for e in entries)
    path.write_bytes(b"".join(lines))
    return path


@pytest.fixture
def replayed(tmp_path: Path, write_script: Any) -> Callable[..., tuple[int, dict[str, Any]]]:
    """``replayed(script, *entries, options=(…))`` → exit code and report."""

    def run(source: str, *entries: Entry | bytes, options: tuple[str, ...] = ()) -> Any:
        write(tmp_path / "records/a.jsonl", *entries)
        script = write_script(source)
        done = run_in(tmp_path, "replay", "records", "--entry-script", script, "--json", *options)
        assert done.returncode in (0, 5), done.stderr.decode()
        return done.returncode, json.loads(done.stdout)

    return run


def counts(report: dict[str, Any]) -> list[int]:
    return [report[name] for name in ("same", "changed", "now_failing", "now_passing")]


def test_the_same_script_has_no_differences(replayed: Any) -> None:
    """However the JSON is written; errors that are errors again too."""
    code, report = replayed(
        SUM,
        record(),
        record(answer=b'{ "text": "a", "sum": 3.0 }'),
        record(b'"fail"', b"{}", 500),
        record(b"no JSON", b"{}", 500),
        record(trigger="blob"),
        record(trigger="service_bus", headers=()),
    )
    assert (code, counts(report)) == (0, [6, 0, 0, 0])
    assert report["skipped"] == {}
    assert report["largest_difference"] == 0


def test_each_kind_of_change_is_counted(replayed: Any) -> None:
    """And the worst are named, with their place; the exit code says that there are some."""
    code, report = replayed(
        SUM,
        record(),
        record(answer={"sum": 2, "text": "a"}),
        record(answer={"sum": 3.75, "text": "a"}),
        record(answer={"sum": 3, "text": "b"}),
        record(answer={"sum": 3}),
        record(b'"fail"', b"1", 200),
        record(b"[1, 2]", b"{}", 500),
        record(b'"fail"', b"{}", 418),
    )
    assert (code, counts(report)) == (5, [1, 5, 1, 1])
    assert report["largest_difference"] == pytest.approx(1 / 3)
    rows = {(each["record"].rpartition(":")[2], each["at"]): each for each in report["worst"]}
    assert set(rows) == {
        ("2", "$.sum"), ("3", "$.sum"), ("4", "$.text"), ("5", "$"), ("6", "status"),
        ("7", "status"), ("8", "status"),
    }  # fmt: skip
    assert (rows["2", "$.sum"]["before"], rows["2", "$.sum"]["after"]) == ("2", "3")
    assert [each["at"] for each in report["worst"]][-2:] == ["$.sum", "$.sum"]  # the smallest


@pytest.mark.parametrize(("tolerance", "same"), [("0", 0), ("0.1", 1), ("0.5", 2)])
def test_a_tolerance_takes_small_differences_for_none(
    tolerance: str, same: int, replayed: Any
) -> None:
    """As a share of the larger, at least of 1."""
    entries = (record(answer={"sum": 3.2, "text": "a"}), record(answer={"sum": 2, "text": "a"}))
    code, report = replayed(SUM, *entries, options=("--tolerance", tolerance))
    assert counts(report)[:2] == [same, 2 - same]
    assert code == (0 if same == 2 else 5)
    assert report["largest_difference"] == pytest.approx(1 / 3)


PAIRS: list[tuple[object, object, float]] = [
    (1, 1.0, 0.0),
    (1, 2, 0.5),
    (0.001, 0.002, 0.001),
    (-100, 100, 2.0),
    (True, 1, math.inf),
    (None, 0, math.inf),
    ("1", 1, math.inf),
    ([1], [1, 2], math.inf),
    ({"a": 1}, {"b": 1}, math.inf),
    (float("nan"), float("nan"), 0.0),
    (float("nan"), 1.0, math.inf),
    (float("inf"), 1.0, math.inf),
    (10**400, 1.5, math.inf),
    (10**400, 10**400, 0.0),
    ({"a": [1, {"b": 2.5}]}, {"a": [1, {"b": 2.0}]}, 0.2),
]


@pytest.mark.parametrize(("before", "after", "distance"), PAIRS)
def test_how_far_two_answers_are_apart(before: object, after: object, distance: float) -> None:
    """By the largest difference in them."""
    found = replay._largest(json.dumps(before).encode(), json.dumps(after).encode())
    assert found.distance == pytest.approx(distance)


def test_what_is_no_json_is_compared_by_its_bytes() -> None:
    assert replay._largest(b"\x93NUMPY1", b"\x93NUMPY1").distance == 0
    assert replay._largest(b"\x93NUMPY1", b"\x93NUMPY22") == (
        math.inf, "the bytes", "7 bytes", "8 bytes",
    )  # fmt: skip


def test_what_cannot_be_scored_again_is_skipped_with_the_reason(replayed: Any) -> None:
    """A torn last line too; what is whole is scored."""
    whole = line_of(record(), "m:1", Redaction(), 10_000)
    large = line_of(record(b"x" * 20_000), "m:1", Redaction(), 10_000)
    code, report = replayed(
        SUM,
        record({"password": 1}),
        record(answer={"token": 1}),
        record(b"", headers=((b"x-input-key", b"k"),)),
        record(b"[1]", b"{}", 503, run_ms=-1),
        large,
        record(),
        whole[:-20],
    )
    assert (code, counts(report)) == (0, [1, 0, 0, 0])
    assert report["skipped"] == {
        "something in a body is hidden": 2,
        "its input was named by a key": 1,
        "it was not scored (503)": 1,
        "a body was left out": 1,
        "no whole record, as the last line of a killed process": 1,
    }


def test_what_a_script_prints_is_not_in_the_report(replayed: Any) -> None:
    """Standard output is the report alone."""
    noisy = 'import os\nprint("imported")\nos.write(1, b"raw")\ndef init(): print("init")\n'
    code, report = replayed(
        f"{noisy}def run(data):\n    print(data)\n    return 1", record(b"1", b"1")
    )
    assert (code, report["same"]) == (0, 1)


def test_for_people_it_is_counts_and_a_table(tmp_path: Path, write_script: Any) -> None:
    write(tmp_path / "a.jsonl", record(), record(answer={"sum": 2, "text": "a"}), b"torn")
    done = run_in(tmp_path, "replay", "a.jsonl", "--entry-script", write_script(SUM))
    assert done.returncode == 5
    assert done.stdout.decode().splitlines() == [
        "same: 1", "changed: 1", "now failing: 0", "now passing: 0",
        "skipped: 1 (no whole record, as the last line of a killed process)",
        "largest difference: 0.333333", "",
        "record     at     before  after", "a.jsonl:2  $.sum  2       3",
    ]  # fmt: skip
    assert "a.jsonl:3 is no whole record" in done.stderr.decode()


def test_what_is_wrong_is_said(tmp_path: Path, write_script: Any) -> None:
    """Records that are not there, a script that does not load, a tolerance that is none."""
    run = partial(run_in, tmp_path, "replay")
    script = write_script(SUM)
    missing = run("nowhere", "--entry-script", script)
    assert (missing.returncode, missing.stdout) == (1, b"")
    assert missing.stderr.decode().splitlines()[-1] == (
        "scoring-runtime: nowhere: No such file or directory"
    )
    write(tmp_path / "a.jsonl", record())
    broken = run(
        "a.jsonl", "--entry-script", write_script("def init(): 1/0\ndef run(d): pass", "b.py")
    )
    assert broken.returncode == 3
    assert "ZeroDivisionError" in broken.stderr.decode().splitlines()[-1]
    for wrong in ("-1", "nan", "much"):
        done = run("a.jsonl", "--entry-script", script, "--tolerance", wrong)
        assert done.returncode == 1
        said = f"argument --tolerance: '{wrong}' is not allowed. Allowed: a number from 0."
        assert said in done.stderr.decode()


def test_samples_are_inputs_with_their_answers(tmp_path: Path) -> None:
    """Different ones that were scored by their body alone."""
    csv = ((b"content-type", b"text/csv; header=present"),)
    form = ((b"content-type", b"application/x-www-form-urlencoded"),)  # what curl says
    write(
        tmp_path / "records/a.jsonl",
        record(b"[1]", b"1"), record(b"[1]", b"1"), record(b"a,b\n1,2\n", b"2", headers=csv),
        record(b"[2]", b"{}", 500), record(b"[3]", b"3", query=b"method=predict_proba"),
        record(b"", b"4", method="GET"), record({"password": 1}, b"5"),
        record(b"[6]", b"6", headers=form), record(b"a=1", b"7", headers=form),
    )  # fmt: skip
    done = run_in(tmp_path, "replay", "records", "--samples", "golden/samples")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [
        "3 samples in golden/samples",
        "skipped: 4 (it is not scored by its body alone, or has failed)",
        "skipped: 1 (something in a body is hidden)",
    ]
    found = {path.name: path.read_bytes() for path in (tmp_path / "golden/samples").iterdir()}
    assert found == {
        "001.json": b"[1]", "001.expected.json": b"1",
        "002.csv": b"a,b\n1,2\n", "002.expected.json": b"2",
        "003.json": b"[6]", "003.expected.json": b"6",
    }  # fmt: skip


def test_a_sample_that_is_there_already_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", record())
    (tmp_path / "s").mkdir()
    (tmp_path / "s/001.json").write_text("mine")
    done = run_in(tmp_path, "replay", "a.jsonl", "--samples", "s")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"scoring-runtime: s/001.json: File exists\n"
    assert (tmp_path / "s/001.json").read_text() == "mine"


def test_a_stream_that_ends_in_an_error_is_a_failure(replayed: Any) -> None:
    """As any other; the next record is scored."""
    script = """
        from azureml.contrib.services.aml_request import rawhttp
        from azureml.contrib.services.aml_response import AMLResponse
        def init(): pass
        def parts(data):
            yield data
            if data == b"[2]":
                raise ValueError("as asked")
        @rawhttp
        def run(request):
            kind = {"content-type": "application/json"}
            return AMLResponse(parts(request.get_data()), 200, kind)
    """
    code, report = replayed(script, record(b"[2]", b"[2]"), record(b"[3]", b"[3]"))
    assert (code, counts(report)) == (5, [1, 0, 1, 0])


def test_at_most_a_hundred_samples(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *(record([number], b"1") for number in range(150)))
    done = run_in(tmp_path, "replay", "a.jsonl", "--samples", "s")
    assert done.stdout.decode().startswith("100 samples")
    assert len(list((tmp_path / "s").iterdir())) == 200


def test_records_larger_than_the_memory_are_read_one_by_one(
    tmp_path: Path, write_script: Any
) -> None:
    """Of 200 MB of them the process holds less than 150 with all that is loaded."""
    line = line_of(
        record(b"[" + b"1," * 4000 + b"2]", {"sum": 4002, "text": "a"}), "m", Redaction(), 10_000
    )
    with (tmp_path / "a.jsonl").open("wb") as file:
        for _ in range(200_000_000 // len(line)):
            file.write(line)
    code = """
        import sys
        from pathlib import Path
        from scoring_runtime.cli.main import main
        code = main(["replay", "a.jsonl", "--entry-script", "score.py", "--json"])
        most = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
        print(code, most, file=sys.stderr)
    """
    write_script(SUM)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert json.loads(done.stdout)["same"] == 200_000_000 // len(line), done.stderr
    exit_code, kilobytes = map(int, done.stderr.split()[-2:])
    assert exit_code == 0
    assert kilobytes < 150_000


# --- record and replay ----------------------------------------------------------------------------


def test_what_a_host_records_is_the_same_again(tmp_path: Path, write_script: Any) -> None:
    """Formats, methods, headers and errors; with the same script 0 differences."""
    script = write_script(
        """
        import json
        from azureml.contrib.services.aml_request import AMLRequest, rawhttp
        from azureml.contrib.services.aml_response import AMLResponse
        def init(): pass
        @rawhttp
        def run(request):
            if request.method == "GET":
                return dict(request.args)
            if request.headers.get("X-Fail"):
                raise ValueError("as asked")
            data = request.get_data()
            return AMLResponse(data, 200 if data else 422, {"content-type": "x/y"})
        """
    )
    with StandaloneHost(script, environ={"SCORING_RECORD": str(tmp_path / "r")}) as host:
        url = f"{host.url}/score"
        for number in range(50):
            httpx.post(url, content=bytes([number]) * number)
            httpx.get(url, params={"a": number, "b": "ü&="})
            httpx.post(url, content=b"1", headers={"x-fail": "1"})
    done = run_in(tmp_path, "replay", "r", "--entry-script", script, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, counts(report), report["skipped"]) == (0, [150, 0, 0, 0], {})
    other = write_script("def init(): pass\ndef run(data): return data", "other.py")
    done = run_in(tmp_path, "replay", "r", "--entry-script", other, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 5
    assert report["now_passing"] > 0
    assert sum(counts(report)) == 150


def test_another_version_of_a_model_scores_the_records(tmp_path: Path, write_script: Any) -> None:
    """Several models: by what the records ask for, or all by --model."""
    pytest.importorskip("sklearn")
    from joblib import dump
    from sklearn.dummy import DummyRegressor

    for version, value in ((1, 1.0), (2, 1.5)):
        folder = tmp_path / "models" / "m" / str(version)
        folder.mkdir(parents=True)
        dump(
            DummyRegressor(strategy="constant", constant=value).fit([[1]], [value]),
            folder / "model.joblib",
        )
    body, answer = b'{"data": [[1]]}', b"[1.0]"
    write(
        tmp_path / "a.jsonl", record(body, answer, model="m:1"), record(body, answer, model="m:9")
    )
    run = partial(run_in, tmp_path, "replay", "a.jsonl", "--model-dir", "models", "--json")
    assert counts(json.loads(run().stdout)) == [1, 0, 1, 0]
    assert counts(json.loads(run("--model", "m:2").stdout)) == [0, 2, 0, 0]
    assert counts(json.loads(run("--model", "m:1").stdout)) == [2, 0, 0, 0]
