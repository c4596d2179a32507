"""What ModelDataCollector and Collector write: paths, columns, what is returned."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from scoring_runtime.script import collectors
from scoring_runtime.script.collectors import Collector, ModelDataCollector, Place
from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import until

ROOT = Path(__file__).parents[2]
# Of azureml-monitoring 0.1.0a21, in its order.
COLUMNS = [
    "$aml_dc_correlation_id", "$aml_dc_scoring_timestamp", "$aml_dc_boundary", "$aml_workspace",
    "$aml_service_name", "$aml_model_name", "$aml_model_version", "$aml_request_id",
]  # fmt: skip
ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Kept(list[tuple[str, list[str], list[list[Any]]]]):
    """What has been collected: path, columns, rows."""

    def keep(self, path: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.append((path, [*names], [[*row] for row in rows]))

    def use(self, **environ: str) -> None:
        collectors.use(Place.of(Settings.from_environ(environ), self.keep))


@pytest.fixture
def kept() -> Iterator[Kept]:
    found = Kept()
    found.use()
    yield found
    collectors.use(None)


DATA: list[tuple[Any, list[str], list[list[Any]]]] = [
    ([1, 2.5], ["0", "1"], [[1, 2.5]]),
    ([[1, 2], [3, 4]], ["0", "1"], [[1, 2], [3, 4]]),
    ([[1, 2], [3]], ["0", "1"], [[1, 2], [3, ""]]),
    ((1, "a"), ["0", "1"], [[1, "a"]]),
    (np.array([1.5, 2.5]), ["0", "1"], [[1.5, 2.5]]),
    (np.array([[1, 2], [3, 4]]), ["0", "1"], [[1, 2], [3, 4]]),
    ([np.float64(1.5), np.int64(2)], ["0", "1"], [[1.5, 2]]),
    ([np.array([1, 2]), np.array([3, 4])], ["0", "1"], [[1, 2], [3, 4]]),
    (np.array(7), ["0"], [[7]]),
    (3.5, ["0"], [[3.5]]),
    ("text", ["0"], [["text"]]),
    (None, ["0"], [[None]]),
    ([], [], [[]]),
    ({"a": 1, "b": "x"}, ["a", "b"], [[1, "x"]]),
    (pd.Series([1, 2]), ["0", "1"], [[1, 2]]),
    (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), ["a", "b"], [[1, "x"], [2, "y"]]),
    (pd.DataFrame([[1, 2]]), ["0", "1"], [[1, 2]]),
    (SimpleNamespace(toPandas=lambda: pd.DataFrame({"s": [1]})), ["s"], [[1]]),
]


@pytest.mark.parametrize(("data", "names", "rows"), DATA)
def test_rows_of_every_kind_of_data(
    data: Any, names: list[str], rows: list[list[Any]], kept: Kept
) -> None:
    """Predictions have no columns but their own."""
    assert ModelDataCollector("m", designation="predictions").collect(data) is None
    [(_, columns, found)] = kept
    assert (columns, found) == (names, rows)


def test_names_of_features_are_the_columns(kept: Kept) -> None:
    """Rows that are longer or shorter are made to fit; a frame's own names win."""
    collector = ModelDataCollector("m", "predictions", feature_names=["a", "b"])
    collector.collect([[1], [1, 2, 3]])
    collector.collect(pd.DataFrame({"x": [1]}))
    assert [each[1:] for each in kept] == [
        (["a", "b"], [[1, ""], [1, 2]]),
        (["x"], [[1]]),
    ]


def test_inputs_are_joined_with_predictions(kept: Kept) -> None:
    """As azureml-monitoring's documentation has it."""
    inputs = ModelDataCollector("best", designation="inputs", feature_names=["a"])
    predictions = ModelDataCollector("best", designation="predictions", feature_names=["p"])
    correlations = inputs.collect([[1], [2]], user_correlation_id="loan7")
    assert list(correlations) == COLUMNS
    assert re.fullmatch(f"loan7-{ID}", correlations[COLUMNS[0]])
    assert correlations["$aml_dc_boundary"] == 1440
    predictions.collect(predictions.add_correlations(np.array([[5], [6]]), correlations))
    predictions.collect(predictions.add_correlations([7], None))
    values = list(correlations.values())
    assert [each[1:] for each in kept] == [
        (["a", *COLUMNS], [[1, *values], [2, *values]]),
        (["p", *COLUMNS], [[5, *values], [6, *values]]),
        (["p"], [[7]]),
    ]


PLACES: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({}, {}, "default/default/default/default/m/default/general"),
    ({"designation": "inputs"}, {}, "default/default/default/default/m/default/inputs"),
    ({"identifier": "old"}, {}, "default/default/default/default/m/default/old"),
    (
        {"workspace": "sub/group/ws", "webservice_name": "svc", "model_version": 10},
        {"SERVICE_NAME": "no", "AZUREML_ARM_SUBSCRIPTION": "no"},
        "sub/group/ws/svc/m/10/general",
    ),
    (
        {},
        {
            "AZUREML_ARM_SUBSCRIPTION": "1A-2b", "AZUREML_ARM_RESOURCEGROUP": "Group",
            "AZUREML_ARM_WORKSPACE_NAME": "Ws", "SERVICE_NAME": "aks-1", "WORKSPACE_NAME": "no",
        },
        "1a-2b/group/ws/aks-1/m/default/general",
    ),
    ({}, {"WORKSPACE_NAME": "Mine"}, "default/default/mine/default/m/default/general"),
    ({"designation": "../../x", "workspace": "a/../b"}, {}, "a/_/b/default/m/default/.._.._x"),
    ({"designation": ".."}, {}, "default/default/default/default/m/default/_"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "environ", "path"), PLACES)
def test_the_folders_are_those_of_azure_ml(
    arguments: dict[str, Any], environ: dict[str, str], path: str, kept: Kept
) -> None:
    """/modeldata/{subscription}/{group}/{workspace}/{service}/{model}/{version}/{designation}/…"""
    kept.use(**environ)
    before = datetime.now(UTC)
    ModelDataCollector("m", **arguments).collect([1])
    days = {f"{day:%Y/%m/%d}" for day in (before, datetime.now(UTC))}
    assert kept[0][0] in {f"modeldata/{path}/{day}/data.csv" for day in days}


def test_the_version_is_the_newest_of_the_models_that_are_there(kept: Kept, tmp_path: Path) -> None:
    for version in (2, 10):
        (tmp_path / "m" / str(version)).mkdir(parents=True)
        (tmp_path / "m" / str(version) / "model.pkl").write_bytes(b"x")
    kept.use(AZUREML_MODEL_DIR=str(tmp_path))
    ModelDataCollector("m").collect([1])
    ModelDataCollector("other").collect([1])
    assert "/m/10/general/" in kept[0][0]
    assert "/other/default/general/" in kept[1][0]


def test_collections_of_the_newer_package(kept: Kept) -> None:
    """Joined by the context that the first returns."""
    inputs, outputs = Collector(name="model_inputs"), Collector(name="model_outputs")
    context = inputs.collect(pd.DataFrame({"a": [1]}))
    assert outputs.collect(pd.DataFrame({"p": [2]}), context) is context
    assert re.fullmatch(ID, context.get_id())
    assert abs(context.get_timestamp() - datetime.now(UTC).timestamp()) < 60
    assert context.get_headers() == {}
    (path, columns, [row]), (other, _, [answer]) = kept
    assert "/default/default/model_inputs/" in path
    assert "/model_outputs/" in other
    assert columns == ["a", *COLUMNS]
    assert row[1] == answer[1] == context.get_id()


class _Unreadable:
    columns = ()

    def itertuples(self, **_: object) -> None:
        raise RuntimeError("as asked")


def test_data_that_cannot_be_read_harms_nobody(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, or the function that the script has given is told."""
    errors: list[Exception] = []
    ModelDataCollector("m").collect(_Unreadable())
    Collector(name="a").collect(_Unreadable())
    Collector(name="a", on_error=errors.append).collect(_Unreadable())
    assert caplog.messages == ["Not collected: RuntimeError: as asked"] * 2
    assert [str(error) for error in errors] == ["as asked"]
    assert kept == []


def test_a_line_of_the_file_is_a_row() -> None:
    """Line ends in texts become spaces; quotes and commas are read again."""
    rows: list[list[Any]] = [["a\nb", 'x"y', "1,2"], ["c\r\nd", None, True]]
    text = collectors.csv_of(rows).decode()
    assert list(csv.reader(text.splitlines())) == [
        ["a b", 'x"y', "1,2"], ["c  d", "", "True"],
    ]  # fmt: skip


SCRIPT = """
    import json
    import pandas as pd
    from azureml.monitoring import ModelDataCollector
    from azureml.ai.monitoring import Collector

    def init():
        global inputs, predictions, newer
        inputs = ModelDataCollector("best", designation="inputs", feature_names=["age", "password"])
        predictions = ModelDataCollector("best", designation="predictions", feature_names=["p"])
        newer = Collector(name="model_inputs")

    def run(data):
        rows = json.loads(data)["data"]
        correlations = inputs.collect(rows)
        sums = [row[0] for row in rows]
        predictions.collect(predictions.add_correlations(sums, correlations))
        newer.collect(pd.DataFrame(rows, columns=["age", "ssn"]))
        return sums
"""


@pytest.mark.parametrize("preload", ["false", "true"])
def test_workers_write_to_one_file_a_day(
    preload: str, write_script: WriteScript, tmp_path: Path
) -> None:
    """Whole rows under one header, each with its request's id; secrets are hidden."""
    environ = {
        "SCORING_RECORD": str(tmp_path / "records"), "WORKER_COUNT": "2",
        "WORKER_PRELOAD": preload, "SCORING_RECORD_RATE": "0", "SCORING_RECORD_REDACT": "ssn",
    }  # fmt: skip
    with StandaloneHost(write_script(SCRIPT), environ=environ) as host:
        for number in range(60):
            body = {"data": [[number, "hunter2hunter2"]]}
            answer = httpx.post(
                f"{host.url}/score", json=body, headers={"x-request-id": f"r{number}"}
            )
            assert answer.json() == [number]
    files = sorted((tmp_path / "records").rglob("*"))
    found = {path.parents[3].name: path for path in files if path.is_file()}
    assert sorted(found) == ["inputs", "model_inputs", "predictions"]
    for name, path in found.items():
        text = path.read_text()
        assert "hunter2" not in text
        rows = list(csv.DictReader(text.splitlines()))
        assert len(rows) == 60
        assert {row["$aml_request_id"] for row in rows} == {f"r{number}" for number in range(60)}
        assert sorted(int(row["p" if name == "predictions" else "age"]) for row in rows) == [
            *range(60)
        ]


def test_collecting_can_be_turned_off(write_script: WriteScript, tmp_path: Path) -> None:
    """Requests are kept as before."""
    environ = {
        "SCORING_RECORD": str(tmp_path / "records"), "AML_MODEL_DC_STORAGE_ENABLED": "false",
    }  # fmt: skip
    with StandaloneHost(write_script(SCRIPT), environ=environ) as host:
        assert httpx.post(f"{host.url}/score", json={"data": [[1, 2]]}).json() == [1]
        until(lambda: list((tmp_path / "records").rglob("*.jsonl")))
        assert "nothing is collected or sent" in host.log
    assert not (tmp_path / "records/modeldata").exists()


def test_importing_the_names_imports_no_library() -> None:
    """Neither numpy nor pandas comes with them."""
    code = (
        "from scoring_runtime.script import import_aliases; import_aliases.install(); import sys\n"
        "from azureml.monitoring import ModelDataCollector\n"
        "print(sorted({'numpy', 'pandas', 'azure.storage.blob'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=clean_environ(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
