"""SECURITY.md: its tests are there, and the workflows do what it says."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {getattr(each, "name", "") for each in ast.walk(tree)}


def test_each_threat_has_a_test() -> None:
    rows = [each for each in TEXT.splitlines() if each.startswith("| ")][2:]
    assert len(rows) > 12
    assert [each for each in rows if "`tests/" not in each] == []


def test_known_vulnerabilities_are_looked_for_on_github() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    runs = {
        name: [each.get("run", "") for each in job["steps"]]
        for name, job in workflow["jobs"].items()
    }
    assert runs["audit"][-1] == "make audit"
    assert "if" not in workflow["jobs"]["audit"]


def test_bills_of_materials_are_released() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert "make sbom" in text and "build/sbom/*" in text
    done = subprocess.run(
        ["make", "--dry-run", "sbom"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    made = re.findall(r"build/sbom/(\w+)\.cdx\.json", done.stdout)
    assert made == ["functions", "standalone", "wheel"]
