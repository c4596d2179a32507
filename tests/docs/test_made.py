"""What is made is what the makers make; what the program has is in the pages, and the other way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import plots
from docs_parts import commands, parts, pictures
from scoring_runtime.cli.main import _parser
from scoring_runtime.settings import markdown as settings_table
from scoring_runtime.settings.settings import Settings
from scoring_runtime.telemetry.metrics import METRICS, MODEL_INFO
from tests.docs.blocks import ROOT, pages

DOCS = ROOT / "docs"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
ALL = "\n".join(page.read_text(encoding="utf-8") for page in pages())


MAKERS = parts.makers()


@pytest.mark.parametrize("path", MAKERS, ids=lambda path: path.name)
def test_a_made_part_is_what_its_maker_makes(path: Path) -> None:
    """`make docs-parts` writes them."""
    assert path.read_text(encoding="utf-8") == MAKERS[path]()


def test_every_maker_has_its_place() -> None:
    """And every place its maker."""
    named = [name for text in TEXTS.values() for name in parts.names(text)]
    assert sorted(named) == sorted(parts.PARTS)


@pytest.mark.parametrize("name", sorted(pictures.PICTURES))
def test_the_texts_of_a_picture_fit_their_boxes(name: str) -> None:
    """By the usual width of letters."""
    assert pictures.PICTURES[name]().too_wide == []


@pytest.mark.parametrize("name", sorted(plots.PLOTS))
def test_a_plot_shows_the_figures_of_the_results(name: str) -> None:
    """As texts in the SVG; `python -m benchmarks.plots` draws it, and a PNG."""
    bars, title = plots.PLOTS[name]
    svg = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    shown = {text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}
    assert {title, *(plots.label(value) for _, _, value in bars())} <= shown
    assert (DOCS / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# --- settings, routes, metrics, commands ----------------------------------------------------------


def test_every_setting_has_one_row_that_says_what_it_does() -> None:
    rows = [row for row in settings_table.markdown().splitlines() if row.startswith("| `")]
    assert len(rows) == len(settings_table.rows(Settings()))
    assert all(len(re.split(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert all(re.split(r"(?<!\\)\|", row)[4].strip() for row in rows)


def test_secrets_are_not_shown_with_the_settings() -> None:
    settings = Settings.from_environ({"AML_APP_INSIGHTS_KEY": "0f0f-secret"})
    [row] = [r for r in settings_table.rows(settings) if r["name"] == "AML_APP_INSIGHTS_KEY"]
    assert row == {"name": "AML_APP_INSIGHTS_KEY", "value": "***", "source": "environment"}


def test_a_setting_that_a_page_names_exists() -> None:
    """Whatever begins as settings do."""
    known = set(re.findall(r"`(\w+)`", settings_table.markdown()))
    named = set(re.findall(r"\b((?:SCORING|BLOB|SERVICEBUS|CACHE|REDIS|WORKER)_[A-Z_]+)\b", ALL))
    others = {"SCORING_TIMEOUT_SECONDS", "BLOB_TRIGGER"}  # a wrong one; an old constant
    families = {"SCORING_ONNX_"}
    assert named - known - others - families == set()


def _routes_in_sources() -> set[str]:
    source = (ROOT / "scoring_runtime/http/endpoint.py").read_text(encoding="utf-8")
    for name in ("model_routes", "changes", "page", "later"):
        source += (ROOT / f"scoring_runtime/http/{name}.py").read_text(encoding="utf-8")
    return set(re.findall(r'"(/[\w./]*)"', source)) - {"/versions/"}


def test_every_route_is_in_the_table_of_routes() -> None:
    """And every route of the table in the sources."""
    table = TEXTS["http.md"].split("## Routes")[1].split("\n## ")[0]
    shown = {
        found for row in table.splitlines() if row.startswith("| `")
        for found in re.findall(r"(/[\w./]*)", row.split("|")[1])
    }  # fmt: skip
    stems = {re.sub(r"/(NAME|KEY|VERSION|ID).*", "/", each) for each in shown}
    families = ("/", "/score/", "/inputs/", "/results/", "/models/", "/v2/repository/")
    known = {each if each in families else each.rstrip("/") for each in stems}
    sources = _routes_in_sources()
    assert {each for each in sources if each not in known} == set()
    assert {each for each in known if each not in sources | {"/v2/models"}} == set()


def test_a_metric_that_a_page_names_exists() -> None:
    """Those of the table are made; wherever else one stands."""
    known = {each.name for each in (*METRICS, MODEL_INFO)}
    endings = "total|seconds|size|depth|flight|up|info|open|connections|changes"
    named = set(re.findall(rf"\b(scoring_[a-z_]+_(?:{endings}))\b", ALL))
    assert known - named == {"scoring_connections"}  # which is one word
    assert named - known == set()


def test_a_command_and_an_option_that_a_page_shows_exist() -> None:
    """In shell blocks and in the text."""
    names = {name for name, _, _ in commands.commands(_parser(), "")}
    flags = {
        flag for _, _, parser in commands.commands(_parser(), "")
        for action in parser._actions for flag in action.option_strings
    }  # fmt: skip
    joined = ALL.replace("\\\n", " ")
    for line in re.findall(r"scoring-runtime ((?!\.)[a-z][^`\n]*)", joined):
        words = line.split()
        if words[0] in ("is", "turns", "loads", "does", "has", "listed"):
            continue
        command = " ".join(words[:2]) if words[0] == "models" and len(words) > 1 else words[0]
        assert command.rstrip(".,:") in names, line
        ours = line.partition(" -- ")[0]  # the rest is the script's
        given = {flag.split("=")[0] for flag in re.findall(r"(?<= )--[a-z][\w=-]*", f" {ours}")}
        assert given <= flags | {"--help"}, line
