"""The page in Chromium: each part is used as people use it, at two widths, light and dark.

Pictures are kept in `build/screens`, to be looked at. About 60 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.hosts.browser import SCHEMES, SCREENS, WIDTHS, axe, browser, serious_faults
from tests.hosts.functions import host_of
from tests.hosts.standalone import StandaloneHost

pytestmark = pytest.mark.long
__all__ = ["browser"]
PARTS = ("models", "try", "triggers", "charts", "settings", "api")
SCHEMA = """
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
def init(): pass
@input_schema("data", StandardPythonParameterType([{"age": 1.5, "city": "Ulm"}]))
@output_schema(StandardPythonParameterType([1.5]))
def run(data):
    if data[0]["city"] == "Bonn":
        raise ValueError("<b>no model</b> for Bonn")
    return [each["city"] if each["city"][:1] == "<" else each["age"] * 2 for each in data]
"""
IMAGE = """
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init(): pass
@rawhttp
def run(request):
    return AMLResponse(request.get_data(), 200, {"Content-Type": request.content_type})
"""


class Opened:
    """A page that is open, what it has asked for, and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.asked: list[str] = []
        self.wrong: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text))

    def turn_to(self, part: str) -> None:
        """Go to a part by its link."""
        self.page.click(f'nav a[href="#{part}"]')
        expect(self.page.locator(f"#{part}")).to_be_visible()

    def score(self) -> str:
        """Send the form; the answer's summary, once it is there with all of its times."""
        self.page.click("#try-send")
        expect(self.page.locator("#try-summary")).not_to_contain_text("Scoring")
        expect(self.page.locator("#try-times")).not_to_contain_text("…")
        return self.page.inner_text("#try-summary")

    def check(self) -> None:
        """Nothing went wrong in it, nor did it ask another host."""
        assert [
            each for each in self.asked if not each.startswith((self.url, "data:", "blob:"))
        ] == []
        assert self.wrong == []


def opened(browser: Browser, url: str, path: str = "/", **options: Any) -> Opened:
    """The page, once it shows what is served."""
    found = Opened(browser.new_context(**options).new_page(), url)
    found.page.goto(f"{url}{path}")
    expect(found.page.locator("#state")).not_to_have_text("…")
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneHost]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "score.py").write_text(SCHEMA, encoding="utf-8")
    environ = {
        "CACHE_URL": "memory://",
        "BLOB_INPUT_FOLDER": str(folder / "input"),
        "SERVICE_NAME": "City & <i>prices</i>",
    }
    with StandaloneHost(folder / "score.py", environ=environ) as started:
        yield started


def test_the_sample_is_scored_and_the_same_request_works_elsewhere(
    host: StandaloneHost, browser: Browser
) -> None:
    found = opened(browser, host.url)
    page = found.page
    expect(page.locator("#title")).to_have_text("City & <i>prices</i>")
    found.turn_to("try")
    expect(page.locator("#try-json")).to_have_value(
        '{\n "data": [\n  {\n   "age": 1.5,\n   "city": "Ulm"\n  }\n ]\n}'
    )
    assert found.score().startswith("200 ")
    assert page.inner_text("#try-answer") == "[3.0]"
    assert "ms" in page.locator("#try-times dd").first.inner_text()  # in the queue
    page.check("input[value=form]")
    page.fill("#field-0", "4")
    assert found.score().startswith("200 ")
    assert page.inner_text("#try-answer") in ("[8]", "[8.0]")
    for way, command in (("curl", ["bash", "-c"]), ("python", [sys.executable, "-c"])):
        page.check(f"input[value={way}]")
        done = subprocess.run([*command, page.inner_text("#same")], capture_output=True, text=True)
        assert json.loads(done.stdout) == [8], done.stderr
    page.check("input[value=message]")
    expect(page.locator("#same-note")).to_contain_text("The trigger service_bus is off here")
    expect(page.locator("#same")).to_contain_text("windows.net/input/messages'")
    page.check("input[value=blob]")
    subprocess.run(["bash", "-c", page.inner_text("#same")], check=True)
    found.turn_to("triggers")
    expect(page.locator("#trigger-blob")).to_contain_text("sample.json", timeout=30_000)
    found.check()


def test_csv_is_scored_and_an_answer_is_never_markup(
    host: StandaloneHost, browser: Browser
) -> None:
    found = opened(browser, host.url)
    page = found.page
    found.turn_to("try")
    page.check("input[value=csv]")
    expect(page.locator("#try-csv")).to_have_value("age,city\n1.5,Ulm")
    expect(page.locator("#try-type")).to_have_value("text/csv")
    page.fill("#try-csv", "age,city\n2,<img src=x onerror=alert(1)>\n")
    assert found.score().startswith("200 ")
    assert "<img src=x" in page.inner_text("#try-answer")
    assert page.locator("main img").count() == 0
    page.fill("#try-type", "text/<b>odd")
    assert found.score().startswith("415 ")
    [said] = found.wrong
    assert "415" in said


def test_a_failed_request_appears_with_its_id_and_is_followed_into_the_log(
    host: StandaloneHost, browser: Browser
) -> None:
    found = opened(browser, host.url, "/#triggers")
    bad = {"data": [{"age": 1, "city": "Bonn"}]}
    asked = httpx.post(f"{host.url}/score", json=bad)
    page = found.page
    row = page.locator("#trigger-http table").first.locator(
        "tr", has_text=asked.headers["x-request-id"]
    )
    expect(row).to_contain_text("failed", timeout=20_000)
    name = row.locator("code").inner_text()
    lines = [line for line in host.log.splitlines() if name in line]
    assert any("ValueError: <b>no model</b> for Bonn" in line for line in lines)
    found.turn_to("models")
    expect(page.locator("#model-list .trouble")).to_contain_text(name)
    found.check()


def test_an_image_is_shown_before_it_is_sent_and_when_it_comes_back(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "score.py").write_text(IMAGE, encoding="utf-8")
    Image.new("RGB", (40, 30), "green").save(tmp_path / "leaf.png")
    with StandaloneHost(tmp_path / "score.py") as host:
        found = opened(browser, host.url, "/#try")
        page = found.page
        page.check("input[value=file]")
        page.set_input_files("#try-file", tmp_path / "leaf.png")
        expect(page.locator("#try-type")).to_have_value("image/png")
        assert found.score().startswith("200 ")
        for place in ("#file-shown img", "#try-answer img"):
            page.wait_for_function(
                "place => document.querySelector(place).naturalWidth == 40", arg=place
            )
        page.screenshot(path=SCREENS / "page" / "image.png", full_page=True)
        found.check()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_each_part_fits_and_can_be_read_by_all(
    host: StandaloneHost, browser: Browser, width: str, scheme: Literal["light", "dark"]
) -> None:
    """axe cannot be put into a page whose policy holds, so it is left out here, and here alone."""
    source, folder = axe(), SCREENS / "page" / f"{width}-{scheme}"
    size = {"width": WIDTHS[width], "height": 900}
    found = opened(browser, host.url, "/", viewport=size, color_scheme=scheme, bypass_csp=True)
    page = found.page
    httpx.post(f"{host.url}/score", json={"data": [{"age": 1, "city": "Bonn"}]})
    for part in PARTS:
        found.turn_to(part)
        if part == "try":
            found.score()
        if part == "triggers":
            page.locator("#triggers summary").first.click()
        if part == "api":
            page.locator("#api summary", has_text="/score").first.click()
        page.screenshot(path=folder / f"{part}.png", full_page=part != "settings")
        assert serious_faults(page, source) == [], part
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{part} is {overflow} pixels wider than the window"
    found.check()


def test_all_of_it_works_by_keyboard(host: StandaloneHost, browser: Browser) -> None:
    found = opened(browser, host.url)
    page = found.page
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#try")).to_be_visible()
    expect(page.locator('nav a[aria-current="page"]')).to_have_text("Try it")
    page.locator("#try-type").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#try-summary")).to_contain_text("200 ")
    page.locator('nav a[href="#settings"]').focus()
    page.keyboard.press("Enter")
    page.locator("#filter").focus()
    page.keyboard.type("SCORING_PAGES")
    expect(page.locator("#setting-list tbody tr")).to_have_count(1)
    found.check()


def test_on_functions_the_key_opens_it_and_is_not_shown(
    browser: Browser, write_script: Any
) -> None:
    with host_of(write_script(SCHEMA), FUNCTIONS_HOST_CHECK_KEYS="1") as host:
        page = browser.new_context().new_page()
        page.goto(f"{host.url}/")
        page.fill("#key", "test-key")
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Healthy")
        found = opened(browser, host.url, "/docs?code=test-key")
        page = found.page
        expect(page.locator("#api summary").first).to_be_visible()
        found.turn_to("try")
        assert found.score().startswith("200 ")
        assert "$FUNCTION_KEY" in page.inner_text("#same")
        assert "test-key" not in page.url + page.content()
        found.check()


def test_on_the_standalone_host_an_administrators_key_opens_it_until_the_tab_is_closed(
    browser: Browser, write_script: Any
) -> None:
    """A wrong one is said to be; the right one is asked for once, and is in no address."""
    key = "ops-0123456789abcdef"
    with StandaloneHost(write_script(SCHEMA), environ={"SCORING_ADMIN_KEYS": f"ops:{key}"}) as host:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{host.url}/docs")
        for typed in ("wrong", key):
            page.fill("#key", typed)
            page.keyboard.press("Enter")
            said = page.locator("#notice" if typed == "wrong" else "#state")
            expect(said).to_have_text("The key is refused." if typed == "wrong" else "Healthy")
        page.goto(f"{host.url}/")
        expect(page.locator("#state")).to_have_text("Healthy")
        expect(page.locator("#key-form")).to_be_hidden()
        assert key not in page.url + page.content()
        other = context.new_page()
        other.goto(f"{host.url}/")
        expect(other.locator("#key-form")).to_be_visible()
    assert key not in host.log
