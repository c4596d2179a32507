"""A registry and what is registered in it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A registry that does not exist yet."""
    return tmp_path / "azureml-models"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that is a file; what is in it does not matter."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"a pickle")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model that is a folder."""
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables/weights.bin").write_bytes(b"weights")
    (folder / "labels.txt").write_bytes(b"labels")
    return folder
