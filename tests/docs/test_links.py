"""Links and headings: they lead somewhere, and what a reader looks for is near the README."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages

README = ROOT / "README.md"
_LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|mailto:)([^)#\s]*)(?:#([\w-]+))?\)")
# What a reader of the README must find within two clicks: words of a heading.
SOUGHT = {
    "settings": "Settings",
    "status codes": "Status codes",
    "limits": "Limits",
    "how to deploy to Functions": "Deploy",
    "how to use Redis": "In Redis",
    "why a start failed": "Troubleshooting",
}


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor that GitHub and the site give a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
    return re.sub(r"[ ]+", "-", text.strip())


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of each link within the repository."""
    for target, part in _LINK.findall(prose(page)):
        yield (page.parent / target).resolve() if target else page, part


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """Pictures too."""
    for target, part in links(page):
        assert target.exists(), target
        if part:
            assert part in [anchor(each) for each in headings(target)], (target.name, part)


def test_every_page_is_one_click_from_the_readme() -> None:
    """All of docs/ is named there."""
    linked = {target for target, _ in links(README)}
    assert set((ROOT / "docs").glob("*.md")) - linked == {ROOT / "docs" / "index.md"}


@pytest.mark.parametrize("what", sorted(SOUGHT))
def test_a_reader_finds_it_within_two_clicks(what: str) -> None:
    """A heading of the README, of a page it links to, or of one that such a page links to."""
    near = {README} | {target for target, _ in links(README) if target.suffix == ".md"}
    assert SOUGHT[what] in [heading for page in near for heading in headings(page)]


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= 6000


def test_a_term_of_the_glossary_is_linked_where_the_readme_first_uses_it() -> None:
    """Unless the README says there what it is."""
    said_there = {
        "Model", "Prediction", "Scoring", "Cache", "Host", "Queue", "Container", "Image",
        "Virtual environment", "Trigger", "Registry", "Worker", "Redis", "Connection",
    }  # fmt: skip
    text = prose(README)
    for term in headings(ROOT / "docs" / "glossary.md")[1:]:
        found = re.search(rf"\b{term}s?\b", re.sub(r"\(docs/[^)]*\)", "", text), re.IGNORECASE)
        if found and term not in said_there:
            assert f"glossary.md#{anchor(term)})" in text, term


def test_the_glossary_is_in_order_and_says_something() -> None:
    terms = headings(ROOT / "docs" / "glossary.md")[1:]
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) > 30


def test_requirements_are_in_the_ranges_of_the_package() -> None:
    """What the image installs is what pyproject.toml allows, name by name."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in wanted if f'"{line}"' not in pyproject] == []


def test_the_first_curl_sends_the_sample_of_the_diabetes_example() -> None:
    sent = re.search(r"-d '(\{.*?\})'", README.read_text())
    assert sent is not None
    sample = json.loads((ROOT / "examples/diabetes/sample_input.json").read_text())
    assert json.loads(sent[1]) == sample


# --- the site -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them; a broken link ends it."""
    folder = tmp_path_factory.mktemp("site")
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    (folder / "zensical.toml").write_text(config, encoding="utf-8")
    shutil.copytree(ROOT / "docs", folder / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


def test_the_site_has_every_page_and_asks_nothing_of_the_net(site: Path) -> None:
    """No style, script, font or picture of another machine."""
    for page in (ROOT / "docs").glob("*.md"):
        html = (site / f"{page.stem}.html").read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|source|iframe)[^>]*\bsrc=\"?(https?:[^\">\s]+)", html)
        loaded += re.findall(r"<link[^>]*\bhref=\"?(https?:[^\">\s]+)", html)
        assert loaded == [], page.name


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """Readers get to all of them from any."""
    html = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="./{page.stem}.html"' in html or page.stem == "index"
