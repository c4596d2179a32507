"""The README says what is so: the settings table, the differences, the commands, the links."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scoring_runtime.settings import markdown as settings_table
from scoring_runtime.settings.settings import Settings
from tests.whole import test_differential

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _between(begin: str, end: str) -> str:
    return README.split(begin, 1)[1].split(end, 1)[0].strip()


def test_settings_table_is_the_generated_one():
    assert _between(settings_table.BEGIN, settings_table.END) == settings_table.markdown()


def test_every_setting_has_one_row_that_says_what_it_does():
    rows = settings_table.markdown().splitlines()[2:]
    assert len(rows) == len(settings_table.rows(Settings()))
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert all(re.split(r"(?<!\\)\|", row)[4].strip() for row in rows)


def test_secrets_are_not_shown_with_the_settings():
    settings = Settings.from_environ({"AML_APP_INSIGHTS_KEY": "0f0f-secret"})
    [row] = [r for r in settings_table.rows(settings) if r["name"] == "AML_APP_INSIGHTS_KEY"]
    assert row == {"name": "AML_APP_INSIGHTS_KEY", "value": "***", "source": "environment"}


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_into_the_repository_lead_somewhere(target: str):
    assert (ROOT / target).exists()


def test_the_first_curl_sends_the_sample_of_the_diabetes_example():
    sent = re.search(r"-d '(\{.*?\})'", README)
    assert sent is not None
    sample = json.loads((ROOT / "examples/diabetes/sample_input.json").read_text())
    assert json.loads(sent[1]) == sample


def test_requirements_are_in_the_ranges_of_the_package():
    """What the image installs is what pyproject.toml allows, name by name."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    later = {"redis>=5"}  # the cache's, which is not part of the package yet
    assert [line for line in wanted if f'"{line}"' not in pyproject and line not in later] == []


def test_the_differences_are_the_tested_ones():
    """`python -m tests.whole.test_differential --table` made the table."""
    begin = "<!-- differences: made by `python -m tests.whole.test_differential --table` -->"
    assert _between(begin, "<!-- /differences -->") == test_differential.table().strip()
