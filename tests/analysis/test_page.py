"""The page of a study: its numbers are the records', it needs nothing from outside, and it works in a browser."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from study_folder import FID, build

from analysis.load import Study, load
from analysis.page import page, write_page
from analysis.page_data import command_of, headline, page_data
from analysis.replicates import points
from analysis.report import main

RESULTS = Path(__file__).parents[2] / "results"
METRIC = "fid_clean_1k_test2k"
NASTY = "</script><!-- <b onclick=x>\u2028ε"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(build(tmp_path_factory.mktemp("page") / "eps_grid"))


def embedded(html: str) -> dict:
    """The data as a browser would read them: up to the first end of a script."""
    return json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def test_every_number_is_a_records(study: Study) -> None:
    data = embedded(page([study]))
    rows = {trial.trial: trial for trial in study.trials}
    assert [row["id"] for row in data["trials"]] == list(rows)
    for row in data["trials"]:
        assert row["metrics"] == rows[row["id"]].metrics
        assert (row["status"], row["reason"], row["seed"]) == (
            rows[row["id"]].status, rows[row["id"]].reason, rows[row["id"]].seed,
        )  # fmt: skip
    for mean in data["means"][METRIC]:
        (point,) = [p for p in points(study) if p.series == mean["series"] and str(p.epsilon) in (str(mean["epsilon"]))]
        value = point.interval(METRIC)
        assert value is not None
        assert (mean["mean"], mean["half"], mean["n"]) == (value.mean, value.half_width, value.n)


def test_the_headline_names_the_ends_of_the_grid_and_the_price(study: Study) -> None:
    text = headline(study)
    best = {p.epsilon: p.interval(METRIC).mean for p in points(study) if p.series == "realesrgan_x4plus"}
    assert f"{best[1.0]:.4g} at ε = 1 (the best of 2: realesrgan_x4plus)" in text
    assert f"{best[float('inf')]:.4g} at ε = ∞" in text
    assert re.search(r"Publishing all of it, 9 private releases, costs ε = [\d.]+ together\.", text)
    anchors = load(RESULTS / "ceilings")
    assert headline(anchors).startswith(f"No generated image is judged by {METRIC}; real images get")


@pytest.mark.parametrize("names", [["eps_grid"], ["ceilings", "eps_grid"], ["baselines"]])
def test_nothing_is_loaded_from_anywhere(names: list[str]) -> None:
    html = page([load(RESULTS / name) for name in names])
    frame = re.sub(r'(?s)<script type="application/json".*?</script>', "", html)
    assert set(re.findall(r"https?://[^\"'\s]+", frame)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"<(link|img|iframe|script)[^>]*(src|href)=(?!.data:,)", frame)
    assert "@import" not in frame
    assert "url(" not in frame
    kinds = {picture.split(",")[0] for row in embedded(html)["trials"] if row["pictures"]
             for picture in (row["pictures"]["images"], row["pictures"]["coarse"])}  # fmt: skip
    assert kinds <= {"data:image/png;base64", "data:image/jpeg;base64"}


def test_markup_in_records_stays_text(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", epsilons=(1.0,), seeds=1)
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    lines[0]["axes"]["upscaler"] = lines[0]["notes"] = NASTY
    lines[0]["notes"] = [NASTY]
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "study.yaml").write_text(
        (folder / "study.yaml").read_text().replace("study: eps_grid", f"study: '{NASTY}'")
    )
    html = page([load(folder)])
    row = embedded(html)["trials"][0]
    assert (row["series"], row["notes"]) == (NASTY, [NASTY])
    assert html.count("</script>") == 2
    assert "<b onclick" not in html


def test_180_trials_stay_below_five_megabytes(tmp_path: Path) -> None:
    """Also where their images are large and hard to compress."""
    folder = build(tmp_path / "s", epsilons=(1.0, 3.0, 10.0), seeds=30)
    noise = large_samples(folder)
    written = write_page([load(folder)])
    data = embedded(written.read_text())
    assert len(data["trials"]) == 181
    assert {row["pictures"]["side"] for row in data["trials"] if row["pictures"]} == {noise}
    assert all(row["pictures"] for row in data["trials"] if row["status"] == "done")
    assert written.stat().st_size < 5_000_000


def large_samples(folder: Path) -> int:
    """Ten noisy 96x96 colour images for every trial; returns their side."""
    import numpy as np

    random, side = np.random.default_rng(0), 96
    images = random.integers(0, 256, (10, 3, side, side), np.uint8)
    for path in (folder / "samples").glob("*.npz"):
        np.savez(path, images=images, coarse=images[:, :, ::8, ::8], labels=np.zeros(10, np.int64))
    return side


def test_a_trials_command_is_the_studys_for_it_alone(study: Study) -> None:
    trial = study.trials[0]
    assert shlex.split(command_of(study, trial))[:4] == ["python", "-m", "sweeps.run", "+sweep=eps_grid"]
    grid = load(RESULTS / "eps_grid")
    last = {trial.epsilon: command_of(grid, trial) for trial in grid.trials}
    assert last[10.0] == "python -m sweeps.run +sweep=eps_grid 'only=epsilon=10-seed=0-*'"


def test_what_bounds_the_picture_is_shown_where_it_is_known() -> None:
    both = page_data([load(RESULTS / name) for name in ("ceilings", "eps_grid")])["waterfall"]
    (chain,) = [each for each in both if each["title"].startswith(f"{METRIC}, level 1")]
    assert [step["label"] for step in chain["steps"]][:4] == ["floor", "+ detail", "+ tokens", "+ generator"]
    assert page_data([load(RESULTS / "tricks")])["waterfall"] == []


def test_the_command_writes_one_page_for_several_studies(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(study.folder), str(RESULTS / "eps_grid"), "-o", str(tmp_path / "a" / "both.html")]) == 0
    assert capsys.readouterr().out.endswith(f"page: {tmp_path / 'a' / 'both.html'}\n")
    data = embedded((tmp_path / "a" / "both.html").read_text())
    assert len(data["studies"]) == 2
    assert {row["series"].split(": ")[0] for row in data["trials"]} == {"eps_grid"}
    assert main([str(tmp_path)]) == 2


def test_a_study_without_samples_or_finished_trials_has_a_page(tmp_path: Path) -> None:
    folder = build(tmp_path / "s", epsilons=(1.0,), seeds=1)
    shutil.rmtree(folder / "samples")
    assert all(row["pictures"] is None for row in embedded(page([load(folder)]))["trials"])
    lost = [line for line in (folder / "trials.jsonl").read_text().splitlines() if '"status": "done"' not in line]
    (folder / "trials.jsonl").write_text("\n".join(lost) + "\n")
    assert embedded(page([load(folder)]))["studies"][0]["headline"] == "None of the 2 trials has finished."


@pytest.mark.skipif(not shutil.which("chromium"), reason="opens the page in Chromium, which is not installed")
def test_the_page_works_in_a_browser(study: Study, tmp_path: Path) -> None:
    """Hover, click, keyboard, sorting, filters, and no wider than a phone."""
    path = write_page([study], tmp_path / "page.html")
    found = asyncio.run(in_browser(path.as_uri()))
    assert found["errors"] == []
    assert found["tip"].startswith("bicubic, ε = 1, seed 0: ")
    assert found["clicked"] == study.trials[0].trial
    assert found["typed"] == study.trials[2].trial
    assert found["wide"] <= 390
    by_fid = sorted((t.metrics[METRIC], t.trial) for t in study.done)
    assert found["sorted"][:3] == [name for _, name in by_fid[:3]]
    assert found["counted"] == [f"{n} of {len(study.trials)} trials" for n in (len(study.trials) - 6, 12)]
    assert len(FID) == 2


SCRIPT = """(() => {
  const out = { errors: window.problems || [] }, marks = document.querySelectorAll(".mark");
  marks[0].dispatchEvent(new MouseEvent("mouseenter"));
  out.tip = document.getElementById("tip").textContent;
  marks[0].dispatchEvent(new MouseEvent("mouseleave"));
  marks[0].dispatchEvent(new MouseEvent("click"));
  out.clicked = document.querySelector("#detail h3").textContent;
  marks[2].focus();
  marks[2].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  out.typed = document.querySelector("#detail h3").textContent;
  out.wide = document.documentElement.scrollWidth;
  [...document.querySelectorAll("th button")].find((b) => b.textContent.startsWith("fid_clean")).click();
  out.sorted = [...document.querySelectorAll("tr.trial td:last-child")].map((c) => c.textContent);
  const boxes = [...document.querySelectorAll("#budgets label")];
  boxes.find((l) => l.textContent.trim() === "1").querySelector("input").click();
  out.counted = [document.getElementById("counted").textContent];
  boxes.find((l) => l.textContent.trim() === "1").querySelector("input").click();
  const words = document.getElementById("words");
  words.value = "realesrgan";
  words.dispatchEvent(new Event("input"));
  out.counted.push(document.getElementById("counted").textContent);
  return JSON.stringify(out);
})()"""


async def in_browser(url: str) -> dict:
    """What SCRIPT finds on the page at the width of a phone, and every error on the way."""
    import choreographer

    browser = await choreographer.Browser(headless=True)
    try:
        tab = await browser.create_tab("about:blank")
        watch = "window.problems = []; window.addEventListener('error', (e) => window.problems.push(e.message));"
        await tab.send_command("Page.enable")
        await tab.send_command("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        await tab.send_command("Network.emulateNetworkConditions", offline)
        await tab.send_command("Page.addScriptToEvaluateOnNewDocument", {"source": watch})
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        await tab.send_command("Emulation.setDeviceMetricsOverride", size)
        loaded = tab.subscribe_once("Page.loadEventFired")
        await tab.send_command("Page.navigate", {"url": url})
        await loaded
        answer = await tab.send_command("Runtime.evaluate", {"expression": SCRIPT, "returnByValue": True})
        return json.loads(answer["result"]["result"]["value"])
    finally:
        await browser.close()
