"""The notebooks in examples/notebooks, executed cell by cell as Jupyter does; about 90 s."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from scoring_runtime.local_services import service as local_service
from tests.hosts.redis import RedisServer

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = REPOSITORY / "examples" / "notebooks"
DATA, TARGET = load_diabetes(return_X_y=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the notebooks' folder; pip asks nobody, and services end with the test."""
    copy = shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    for name, value in {
        "PYTHONPATH": str(REPOSITORY), "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield copy
    for service in local_service.listing(copy / ".azureml" / "notebooks"):
        service.delete()


def read(path: Path) -> Any:
    load: Any = nbformat.read
    return load(path, as_version=4)


def executed(folder: Path, name: str) -> list[str]:
    """What each code cell shows, printed or as its value; a cell that fails raises."""
    notebook = read(folder / f"{name}.ipynb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own libraries
        nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": folder}}
        ).execute()
    return [shown(cell) for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode) -> str:
    parts = [
        each.get("text") or each.get("data", {}).get("text/plain", "")
        for each in cell.outputs
        if each.get("name") != "stderr"
    ]
    return "".join(parts).strip()


def test_only_import_lines_are_of_this_package() -> None:
    """Every cell is as it was for azureml but for the first word of what is imported."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = read(path)
        assert all(not cell.get("outputs") for cell in notebook.cells), path
        lines = [line for cell in notebook.cells if cell.cell_type == "code"
                 for line in cell.source.splitlines()]  # fmt: skip
        ours = [line for line in lines if "scoring_runtime" in line]
        assert ours
        assert all(line.startswith("from scoring_runtime") for line in ours), path


def test_a_model_deployed_on_this_machine(folder: Path) -> None:
    """Asked, reloaded with another script, updated to another model, and removed."""
    *_, registered, _, _, _, deployed, state, first, _, reloaded, updated, deleted = executed(
        folder, "register-model-deploy-local"
    )
    assert registered == "sklearn_regression_model\t1"
    assert 'Local service creation operation finished, operation "Succeeded"' in deployed
    assert state.endswith("\nHealthy")
    assert eval(first) == pytest.approx(Ridge().fit(DATA, TARGET).predict(DATA[:2]))
    assert reloaded == "'hello from updated score.py'"
    assert updated.endswith(f"\n{reloaded}")
    assert deleted == "'Deleted'"


def test_a_function_app_for_each_trigger(folder: Path) -> None:
    """Three folders with the model and the script; the log says how to go on."""
    *_, contents, log = executed(folder, "package-functions")
    model = "['sklearn_regression_model:1']"
    assert contents.splitlines() == [
        f"functions ['http'] {model}",
        f"functions ['blob'] {model}",
        f"functions ['service_bus'] {model}",
    ]
    assert "docker build --target functions" in log
    assert "az functionapp create" in log


def test_a_model_of_mlflow(folder: Path) -> None:
    """Kept in the workspace's database, served by MLflow's client, packaged by it."""
    *_, state, answer, _, path = executed(folder, "mlflow")
    assert state == "'Healthy'"
    expected = Ridge(alpha=0.5).fit(DATA, TARGET).predict(DATA[:2])
    assert [float(line.split()[1]) for line in answer.splitlines()[1:]] == pytest.approx(expected)
    assert (folder / path.strip("'") / "Dockerfile").is_file()
    assert (folder / ".azureml/notebooks/.azureml/mlflow.db").is_file()


def test_a_script_that_takes_its_inputs_from_redis(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Served here; the address, with its password, is in no file of the package."""
    with RedisServer(password="hunter2") as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        *_, answer, _, log = executed(folder, "redis")
    one, two = Ridge().fit(DATA, TARGET).predict(DATA[:2])
    expected = {"patient:0": one, "patient:1": two}
    assert eval(answer.splitlines()[-1]) == pytest.approx(expected)
    assert "REDIS_URL" in log
    packages = folder / ".azureml/notebooks/.azureml/packages"
    files = [path for path in packages.rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert os.path.isfile(next(packages.rglob("Dockerfile")))
