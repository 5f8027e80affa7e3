"""The page in a real browser, where playwright and Chromium are installed."""

import json
import os
import shutil
import time
from threading import Thread

import pytest
from study_folder import build

from analysis.load import load
from analysis.page import write_page
from analysis.serve import Watched, server_of

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = os.environ.get("BROWSER_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM or not os.path.exists(CHROMIUM), reason="there is no Chromium")
TRIALS = 180


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("studies"), epsilons=(1.0, 3.0, 10.0), seeds=TRIALS // 6)
    return write_page([load(folder)])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[{}, {"width": 390}, {"color_scheme": "dark"}], ids=["wide", "phone", "dark"])
def page(request, browser, page_file):
    """The page from file:// without a network; it must log no error and not be wider than its window."""
    options = dict(request.param)
    window = {"width": options.pop("width", 1200), "height": 900}
    context = browser.new_context(offline=True, viewport=window, **options)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    started = time.time()
    page.goto(page_file.as_uri())
    page.seconds = time.time() - started
    yield page
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert errors == []
    context.close()


def shown(page) -> list[str]:
    return page.locator("#table tbody tr").evaluate_all("rows => rows.map(row => row.cells[1].textContent)")


def test_it_is_small_and_quick(page, page_file):
    assert page_file.stat().st_size < 5_000_000
    assert page.seconds < 2 * 10  # two seconds on a machine that does nothing else
    assert len(shown(page)) >= TRIALS


def test_mouse(page):
    mark = page.locator(".mark").last
    mark.hover()
    assert "seed" in page.locator("#tip").inner_text()
    mark.click()
    assert page.locator("#detail h3").inner_text() == mark.get_attribute("data-trial")
    head = page.locator("#table th button", has_text="ε").first
    head.click()
    assert shown(page) == sorted(shown(page), key=float)
    head.click()
    assert shown(page) == sorted(shown(page), key=float, reverse=True)
    page.locator("#budgets label", has_text="10").click()
    assert set(shown(page)) == {"0.01", "1", "3"}
    page.locator("#words").fill("no such trial")
    assert shown(page) == []


def test_keyboard(page):
    page.locator(".mark").first.focus()
    assert "seed" in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#detail h3").inner_text() == page.locator(".mark").first.get_attribute("data-trial")
    reached = set()
    for _ in range(TRIALS + 60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id"))
    assert {"chart", "series", "words", "budgets", "table"} <= reached


@pytest.mark.parametrize("width", [1200, 390])
def test_what_runs_is_read_without_scrolling_sideways(browser, tmp_path, width):
    folder = build(tmp_path / "eps_grid", epsilons=(1.0,), seeds=2)
    name = "epsilon=10-upscaler=my_package.sharpened_Sharpened-seed=0-22aed99e"
    running = [[name, "private_fit", 0.4, 12.0, 30.0, ""], [name, "upscale", 0.0, None, None, "1 CPU (0 free)"]]
    (folder / "status.json").write_text(json.dumps({"time": time.time(), "study": "0 of 6", "running": running}))
    context = browser.new_context(viewport={"width": width, "height": 900})
    with server_of(Watched([folder]), 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = context.new_page()
        page.goto("http://{}:{}".format(*server.server_address[:2]))
        page.wait_for_selector("#running tbody tr")
        edges = page.locator("#running td").evaluate_all(
            "cells => cells.map(cell => cell.getBoundingClientRect().right)"
        )
        assert max(edges) <= width
        assert "0:12, 0:30 to go" in page.locator("#running").inner_text()
        assert "waits for 1 CPU (0 free)" in page.locator("#running").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        context.close()
        server.shutdown()
