"""The waterfall: steps found by the configuration of rows, whatever study or name they come under."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest
import study_folder
import yaml
from study_folder import DELTA, number

from analysis.figures import render
from analysis.load import load
from analysis.recorded import configuration, labels, method_of
from analysis.waterfall import ORDER, main, waterfall_data, waterfall_metrics
from analysis.waterfall_figure import COLOURS, waterfall_figure
from analysis.waterfall_table import COLUMNS, markdown
from wavedp.config import DataConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure, settings_of
from wavedp.errors import UserError

FID, ACC = "fid_clean_1k_test2k", "acc_cnn400_1k_test"
FINE = configure("tokenizer", "scalar", detail_bins=15)


def row(fid: float, acc: float | None = None, axes: dict | None = None, **changes) -> dict:
    """A line of trials.jsonl of the trial with these changes to the default. fid, acc: its scores."""
    config = TrialConfig(**changes)
    place = json.dumps(settings_of(config), sort_keys=True)
    fit = "public" if config.generator.name == "real" else "fit"
    return {
        "trial": f"t{abs(hash((place, fid)))}",
        "status": "done",
        "seed": config.seed,
        "epsilon": number(config.privacy.epsilon),
        "delta": DELTA,
        "generator": config.generator.name,
        "level": config.level,
        "upscaler": config.upscaler.name,
        "axes": axes or {"case": place},
        "settings": settings_of(config),
        "metrics": {**({ACC: acc} if acc is not None else {}), FID: fid},
        "keys": {"evaluate": f"{place} {fid}", "private_fit": f"{fit} {place}"},
    }


def real(fid: float, acc: float | None = None, tokens: bool = False, **changes) -> dict:
    return row(fid, acc, generator=configure("generator", "real", tokens=tokens), **changes)


def at(epsilon: float, fid: float, acc: float | None = None, **changes) -> dict:
    return row(fid, acc, privacy=PrivacyConfig(epsilon=epsilon), **changes)


CEILINGS = [
    real(23.0, 0.85, level=0, upscaler="identity"),
    real(92.5, 0.80),
    real(141.3, 0.77, tokens=True),
    real(60.0, 0.80, tokens=True, level=0, upscaler="identity"),
]
FITS = [at(math.inf, 157.1, 0.72), at(1.0, 170.0, 0.53), at(10.0, 160.0, 0.64)]


def study(folder: Path, rows: list[dict], **meta):
    study_folder.write(folder, rows, [])
    path = folder / "study.yaml"
    said = yaml.safe_load(path.read_text()) | {"study": folder.name} | meta
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    return load(folder)


def shown(chain) -> list[tuple[str, float]]:
    return [(step.label, step.value.mean) for step in chain.steps]


def test_steps_come_from_two_studies_in_the_order_of_the_chain(tmp_path):
    data = waterfall_data([study(tmp_path / "a", CEILINGS), study(tmp_path / "b", FITS)])
    whole, coarse = data.chains
    assert (whole.level, whole.side, whole.parts) == (0, 28, "scalar")
    assert shown(whole) == [("floor", 23.0), ("+ tokens", 60.0)]
    assert (coarse.level, coarse.side, coarse.parts) == (1, 14, "scalar → realsr_df2k_x4")
    assert shown(coarse) == [
        ("floor", 23.0), ("+ detail", 92.5), ("+ tokens", 141.3), ("+ generator", 157.1), ("ε = 10", 160.0),
        ("ε = 1", 170.0),
    ]  # fmt: skip
    changes = [step.change for step in coarse.steps]
    assert changes[0] is None
    assert changes[1:] == pytest.approx([69.5, 48.8, 15.8, 2.9, 10.0])
    assert 23.0 + sum(changes[1:]) == pytest.approx(170.0)
    assert data.lower_is_better
    assert [each["study"] for each in data.provenance["studies"]] == ["a", "b"]


def test_accuracy_falls_and_has_an_axis_of_its_own(tmp_path):
    studies = [study(tmp_path / "a", CEILINGS + FITS)]
    assert waterfall_metrics(studies) == [FID, ACC]
    data = waterfall_data(studies, ACC)
    assert not data.lower_is_better
    assert all(step.change < 0 for step in data.chains[1].steps[1:])


def test_what_is_configured_differently_is_no_step_of_a_chain(tmp_path):
    """Another data set, level, upscaler option, tokenizer, or way of measuring."""
    other_metric = real(99.0, tokens=True)
    other_metric["metrics"] = {"fid_pytorch_1k_train2k": 99.0}
    others = [
        real(99.0, tokens=True, data=DataConfig(name="fashion_mnist", limit=100)),
        real(99.0, tokens=True, level=2),
        real(99.0, tokens=True, upscaler={"name": "realsr_df2k_x4", "low_pass_consistency": True}),
        real(99.0, tokens=True, tokenizer="raster"),
        other_metric,
    ]
    (chain,) = waterfall_data([study(tmp_path / "a", [CEILINGS[1], *FITS, *others])], FID).chains[:1]
    assert chain.missing == ("floor", "tokens")
    assert 99.0 not in [mean for _, mean in shown(chain)]


def test_names_of_cases_and_settings_that_nobody_reads_do_not_matter(tmp_path):
    """A ceiling reads no temperature and no ε; a generator's rows may come under any axis."""
    odd = real(92.5, privacy=PrivacyConfig(epsilon=3.0, steps=7), sampling=SamplingConfig(temperature=0.1))
    named = [{**each, "axes": {"case": f"case {index}"}} for index, each in enumerate([odd, CEILINGS[2], *FITS])]
    (chain,) = waterfall_data([study(tmp_path / "a", named)]).chains
    assert [step.kind for step in chain.steps] == ["detail", "tokens", "generator", "privacy", "privacy"]
    network = {"name": "wavelet_detail", "detail": "regression"}  # which reads no weight of an adversary
    pair = [real(85.0, upscaler=network), at(1.0, 120.0, upscaler={**network, "detail_adversarial": 0.1})]
    (chain,) = waterfall_data([study(tmp_path / "b", pair)]).chains
    assert [mean for _, mean in shown(chain)] == [85.0, 120.0]


def test_two_sets_of_parts_and_two_generators_are_told_apart(tmp_path):
    new = [real(70.0, tokens=True, tokenizer=FINE), at(1.0, 90.0, tokenizer=FINE)]
    longer = row(165.0, privacy=PrivacyConfig(epsilon=1.0, steps=640))
    data = waterfall_data([study(tmp_path / "a", [*CEILINGS, *FITS, *new, longer])], FID)
    parts = {chain.parts: shown(chain) for chain in data.chains if chain.level}
    today, trained, fine = parts
    assert today == "scalar → realsr_df2k_x4, spectral_ar"
    assert fine == "scalar (detail_bins 15) → realsr_df2k_x4, spectral_ar"
    assert trained == "scalar → realsr_df2k_x4, spectral_ar (steps 640)"
    assert [mean for _, mean in parts[fine]] == [23.0, 92.5, 70.0, 90.0]
    assert [mean for _, mean in parts[trained]] == [23.0, 92.5, 141.3, 165.0]


def test_parts_learnt_from_other_public_images_are_other_parts(tmp_path):
    photographs = DataConfig(name="photographs")
    rows = [
        real(80.0, upscaler="wavelet_detail", public=photographs),
        at(1.0, 120.0, upscaler="wavelet_detail"),
        real(85.0, upscaler="wavelet_detail"),
    ]
    (chain,) = waterfall_data([study(tmp_path / "a", rows)]).chains
    assert [mean for _, mean in shown(chain)] == [85.0, 120.0]
    assert chain.upscaler == "wavelet_detail"
    (other,) = waterfall_data(
        [study(tmp_path / "b", [*rows, at(1.0, 110.0, upscaler="wavelet_detail", public=photographs)])]
    ).chains[1:]
    assert other.upscaler == "wavelet_detail (public photographs)"


def test_a_label_says_a_few_settings_and_more_where_others_are_alike():
    def tokens(**changes):
        return method_of(TrialConfig(tokenizer=configure("tokenizer", "scalar", **changes)), "tokenizer")

    fine = tokens(bins=64, detail_bins=15, detail_range=0.5, coarsest=14)
    assert list(labels([tokens(), fine], "tokenizer").values()) == [
        "scalar", "scalar (bins 64, coarsest 14, detail_bins 15, …)",
    ]  # fmt: skip
    other = tokens(bins=64, detail_bins=15, detail_range=0.4, coarsest=14)
    _, one, two = labels([tokens(), fine, other, fine], "tokenizer").values()
    assert one == "scalar (bins 64, coarsest 14, detail_bins 15, detail_range 0.5)"
    assert two == "scalar (bins 64, coarsest 14, detail_bins 15, detail_range 0.4)"


def test_replicates_give_intervals_and_one_result_counts_once(tmp_path):
    again = [dict(CEILINGS[2], trial="the same result")]
    seeds = [dataclasses.asdict(SamplingConfig())] and [
        at(1.0, value, seed=seed) for seed, value in ((1, 172.0), (2, 174.0))
    ]
    sets = [real(value, sampling=SamplingConfig(seed=seed)) for seed, value in ((1, 93.5), (2, 94.5))]
    data = waterfall_data([study(tmp_path / "a", [*CEILINGS, *FITS, *again, *seeds, *sets])], FID)
    steps = {step.label: step.value for step in data.chains[1].steps}
    assert (steps["ε = 1"].mean, steps["ε = 1"].n, steps["ε = 1"].of) == (172.0, 3, "seeds")
    assert steps["ε = 1"].half_width == pytest.approx(4.303 * 2 / math.sqrt(3), rel=1e-3)
    assert (steps["+ detail"].mean, steps["+ detail"].of) == (93.5, "sample sets")
    assert (steps["+ tokens"].n, steps["+ tokens"].half_width) == (1, None)
    assert "Steps are means over 1 to 3 seeds, whiskers their 95%" in data.caption


def test_the_floor_is_real_images_or_else_the_measured_one(tmp_path):
    rows = [dict(each, metrics={**each["metrics"], "floor_fid_clean_1k_test2k": 20.7}) for each in CEILINGS[1:] + FITS]
    without = waterfall_data([study(tmp_path / "a", rows)], FID)
    assert [chain.steps[0].value.mean for chain in without.chains] == [20.7, 20.7]
    assert "one part of the split against the others" in without.caption
    both = waterfall_data([study(tmp_path / "b", [CEILINGS[0], *rows])], FID)
    assert both.chains[1].steps[0].value.mean == 23.0
    assert "Floor: real images of the train split" in both.caption


def test_the_caption_says_what_is_missing_and_what_it_cost(tmp_path):
    a = study(tmp_path / "a", [CEILINGS[0], CEILINGS[1], *FITS[:2]])
    study_folder.write(
        tmp_path / "b", FITS, [study_folder._release(1.0, "f", ["x"]), study_folder._look("fid", "r", [])]
    )
    caption = waterfall_data([a, load(tmp_path / "b")]).caption
    assert ORDER in caption
    assert "No row for tokens: all chains. Where a step is missing, the next one holds its loss." in caption
    assert "δ = 1.5e-6; accountant pld" in caption
    assert "All 1 private release of these rows compose to ε = " in caption
    assert "Non-private looks that no ε here covers: fid." in caption
    assert "1k generated against 2k of the real test images" in caption


def test_no_row_for_privacy_is_no_gap(tmp_path):
    caption = waterfall_data([study(tmp_path / "a", CEILINGS)]).caption
    assert "No row for generator, privacy: all chains." in caption
    assert "the next one holds" not in caption


def test_older_rows_are_the_study_s_configuration_at_their_axes(tmp_path):
    base = dataclasses.asdict(TrialConfig(level=2, privacy=PrivacyConfig(steps=160)))
    rows = [
        dict(at(3.0, 1.0), axes={"epsilon": "inf", "level": 1, "upscaler": "bicubic", "seed": 4}),
        dict(at(3.0, 2.0), axes={"privacy.max_grad_norm": 0.5, "data.size": 32}),
        dict(at(3.0, 3.0), axes={"case": "two views"}),
        dict(at(3.0, 4.0), axes={"upscaler": "my_option"}),
        dict(at(3.0, 5.0), axes={"metrics": "standard"}),
    ]
    for each in rows:
        del each["settings"]
    made = study(tmp_path / "a", rows, config=json.loads(json.dumps(base).replace("Infinity", '"inf"')))
    first, second, *unknown = [configuration(made, trial) for trial in made.trials]
    assert (first.privacy.epsilon, first.privacy.steps, first.level, first.seed) == (math.inf, 160, 1, 4)
    assert first.upscaler.name == "bicubic"
    assert (second.privacy.max_grad_norm, second.data.size, second.level) == (0.5, 32, 2)
    assert unknown == [None, None, None]
    with pytest.raises(UserError, match="no chain of a can be taken apart: a waterfall needs finished trials"):
        waterfall_data([made])


@pytest.mark.parametrize(
    "broken",
    [{"generator": {"name": "not_installed:Mine"}}, {"generator": {"name": "real", "tokns": True}}, {"level": "1"}],
)
def test_a_row_that_cannot_be_read_is_left_out_with_a_note(tmp_path, broken):
    rows = [*CEILINGS, dict(CEILINGS[2], trial="x", settings={**CEILINGS[2]["settings"], **broken}, keys={})]
    data = waterfall_data([study(tmp_path / "a", rows)])
    assert shown(data.chains[1])[2] == ("+ tokens", 141.3)
    assert "1 trials whose rows do not say their configuration are left out." in data.caption


def test_a_metric_that_no_chain_has_is_refused(tmp_path):
    with pytest.raises(UserError, match="no chain of a can be taken apart by kid_clean: a waterfall needs"):
        waterfall_data([study(tmp_path / "a", CEILINGS)], "kid_clean")


def test_bars_stand_on_each_other_in_a_panel_for_parts_and_level(tmp_path):
    lower = [at(3.0, 150.0)]  # less than at ε = 10: a step the other way
    data = waterfall_data([study(tmp_path / "a", [*CEILINGS, *FITS, *lower])], FID)
    figure = waterfall_figure(data)
    whole, coarse = sorted((trace for trace in figure.data if trace.type == "bar"), key=lambda bar: len(bar.x))
    assert whole.xaxis != coarse.xaxis
    ends = [base + height for base, height in zip(coarse.base, coarse.y, strict=True)]
    assert ends == pytest.approx([step.value.mean for step in data.chains[1].steps])
    assert list(coarse.base) == pytest.approx([0.0, *ends[:-1]])
    assert min(coarse.y) == pytest.approx(-10.0)
    assert list(coarse.marker.color)[:3] == [COLOURS[kind] for kind in ("floor", "detail", "tokens")]
    assert list(whole.x) == [0, 2]  # no detail to lose at level 0
    assert whole.width == coarse.width
    assert 0 < whole.width < 1
    ranges = {tuple(figure.layout[name].range) for name in ("yaxis", "yaxis2")}
    assert len(ranges) == 1
    assert figure.layout.xaxis.ticktext[4:] == ("ε = 10", "ε = 3", "ε = 1")
    assert any(note.text == "<b>scalar → realsr_df2k_x4</b>" for note in figure.layout.annotations)


def test_whole_images_stand_in_the_row_of_every_upscaler(tmp_path):
    more = [real(50.0, tokens=True, upscaler="bicubic")]
    figure = waterfall_figure(waterfall_data([study(tmp_path / "a", [*CEILINGS, *FITS, *more])], FID))
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 4
    assert sum(list(bar.y) == [23.0, 37.0] for bar in bars) == 2


def test_the_command_writes_figures_and_tables_of_every_metric(tmp_path, capsys):
    study(tmp_path / "a", CEILINGS)
    study(tmp_path / "b", FITS)
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path / "both")]) == 0
    written = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert {"waterfall.html", "waterfall.json", f"waterfall_{ACC}.html", "waterfall.md", "waterfall.csv"} <= written
    with (tmp_path / "both/figures/waterfall.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    (one,) = [line for line in lines if line["step"] == "tokens" and line["level"] == "1" and line["metric"] == FID]
    assert (float(one["mean"]), float(one["change"]), one["n"], one["half_width"]) == (141.3, 141.3 - 92.5, "1", "")
    assert {line["epsilon"] for line in lines} == {"", "inf", "10", "1"}
    text = (tmp_path / "both/figures/waterfall.md").read_text()
    assert "| scalar → realsr_df2k_x4 | 1 | 23.0 | 92.5 (+69.5) | 141.3 (+48.8) |" in text
    assert "| 0.850 | 0.800 (-0.050) |" in text


def test_a_study_draws_it_when_it_has_the_steps(tmp_path, capsys):
    for name, rows, drawn in (("with", CEILINGS, True), ("without", FITS, False)):
        study(tmp_path / name, rows)
        render(tmp_path / name)
        assert (tmp_path / name / "figures/waterfall.html").exists() == drawn
    assert "waterfall" not in capsys.readouterr().err
    render(tmp_path / "without", ["waterfall"])
    assert "waterfall not drawn: no chain of without can be taken apart" in capsys.readouterr().err


def test_markup_in_a_name_is_text(tmp_path):
    data = waterfall_data([study(tmp_path / "a", CEILINGS)])
    odd = dataclasses.replace(data, chains=[dataclasses.replace(data.chains[1], tokenizer="<b>x</b>")])
    notes = [note.text for note in waterfall_figure(odd).layout.annotations]
    assert any("&lt;b&gt;x&lt;/b&gt;" in text for text in notes)
    assert markdown([data]).count("\n| scalar") == 2
