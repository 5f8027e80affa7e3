"""A share of ε for stage two: two releases whose ε add up to the trial's, and everything that counts releases."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from sweeps.plan import PlannedTrial, refusal_of_all, refused_by_budget, releases_of
from sweeps.records import Records
from sweeps.row import _spent
from sweeps.summary import describe
from wavedp import chain, checks, handover, methods, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import InfeasibleError, UserError
from wavedp.finished import FinishedTrial
from wavedp.privacy import accounting, ledger, shares
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.budget import Budget
from wavedp.privacy.clipping import RecordGradients
from wavedp.run import PlannedTrial as Planned
from wavedp.run import spent, units
from wavedp.store import Store
from wavedp.upscalers.wavelet_detail import network, private

IMAGES = DataConfig(name="procedural", size=16, n_records=64)
DETAIL = {
    "train_steps": 2, "train_batch": 4, "detail": "sampled", "detail_width": 8, "detail_depth": 1,
    "epsilon_share": 0.3, "fit_batch": 8, "fit_steps": 3,
}  # fmt: skip
DELTA = accounting.delta(PrivacyConfig(), 64)
AFTER = ["coarse_samples", "upscale", "evaluate"]


def trial(epsilon=4.0, level=1, generator="spectral_ar", detail=None, privacy=None, **changes):
    own = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}
    chosen = DETAIL | (detail or {})
    if not chosen["epsilon_share"]:
        chosen = {name: value for name, value in chosen.items() if not name.startswith("fit_")}
    return TrialConfig(
        level=level,
        data=IMAGES,
        public=dataclasses.replace(IMAGES, split="public", n_records=32),
        generator=configure("generator", generator, **({} if generator == "real" else own)),
        privacy=dataclasses.replace(PrivacyConfig(epsilon=epsilon, batch_size=16, steps=2), **(privacy or {})),
        sampling=SamplingConfig(n=6),
        upscaler=configure("upscaler", "wavelet_detail", **chosen),
        metrics=MetricsConfig(fid_samples=4, downstream_steps=0),
        **changes,
    )


def moved(one, other):
    first, second = chain.keys(one), chain.keys(other)
    return [name for name in chain.NAMES if first.get(name) != second.get(name)]


def planned_trial(name, config):
    return PlannedTrial(name, {}, config, chain.keys(config))


# The table of wavedp.upscalers.wavelet_detail.private


@pytest.mark.parametrize(
    "without",
    [
        trial(detail={"epsilon_share": 0.0}),
        trial(epsilon=0.0),
        trial(level=0),
        dataclasses.replace(trial(), upscaler=configure("upscaler", "bicubic")),
    ],
    ids=["no share", "epsilon = 0", "level = 0", "another upscaler"],
)
def test_without_a_share_to_spend_there_is_no_stage_and_no_key_knows_of_it(without):
    assert "upscaler_fit" not in chain.keys(without)
    assert "upscaler_fit" not in chain.fit_kinds(without)
    if without.upscaler.name == "wavelet_detail":
        public = dataclasses.replace(without, upscaler=methods.variant("upscaler", without.upscaler, epsilon_share=0.0))
        assert moved(without, public) == []
        assert chain.privacy_of(without) == chain.privacy_of(public)


@pytest.mark.parametrize(
    ("generator", "epsilon", "kinds", "use"),
    [
        ("spectral_ar", 4.0, {"private_fit": "dp", "upscaler_fit": "dp"}, "dp"),
        ("spectral_ar", math.inf, {"private_fit": "nonprivate", "upscaler_fit": "nonprivate"}, "nonprivate"),
        ("public", 4.0, {"private_fit": "public", "upscaler_fit": "dp"}, "dp"),
        ("real", 4.0, {"private_fit": "real", "upscaler_fit": "dp"}, "real"),
    ],
)
def test_each_kind_of_trial_leaves_the_lines_that_the_table_says(generator, epsilon, kinds, use, tmp_path):
    asked, store = methods.canonical(trial(epsilon, generator=generator)), Store(str(tmp_path))
    assert chain.fit_kinds(asked) == kinds
    assert chain.use_of(asked) == use
    checks.check(asked)
    stages.make("upscale", asked, store, "cpu")
    found = {stage: store.json(stage, chain.keys(asked)[stage], "ledger") for stage in kinds}
    for stage, kind in kinds.items():
        ran = [(line["kind"], line["noise_multiplier"] or 0) for line in found[stage]]
        planned = [item.noise_multiplier for item in chain.mechanisms(asked, stage).values()]
        expected = {"dp": "dp_sgd", "nonprivate": "nonprivate", "real": "nonprivate", "public": None}[kind]
        assert [said for said, _ in ran] == [expected] * (expected is not None)
        assert planned == ([noise for _, noise in ran] if kind in ("dp", "nonprivate") else [])
    (detail,) = found["upscaler_fit"]
    assert (detail["purpose"], detail["steps"], detail["sample_rate"]) == ("upscaler_fit", 3, 0.125)
    assert detail["max_grad_norm"] == (0.1 if epsilon == 4.0 else None)
    # What the row, `wavedp.run` and the trial's card say of it.
    lines = [line for own in found.values() for line in own]
    row = {"trial": "a", "keys": chain.keys(asked)}
    finished = FinishedTrial(Path(), {}, row, asked, [line | {"trials": ["a"]} for line in lines])
    assert len(finished.releases()) == len(lines)
    listed = Records(tmp_path / "study").find_releases([planned_trial("a", asked)], store)
    assert [line for own, _ in listed for line in own] == lines
    half = dataclasses.replace(finished, lines=[line for line in finished.lines if line["purpose"] != "upscaler_fit"])
    with pytest.raises(UserError, match=r"ledger\.jsonl has no line of the private fit of a"):
        handover.check(half, tmp_path / "export", not_private=True)
    if use == "dp":
        share = 0.3 * 4.0
        assert 0 < detail["epsilon"] <= share
        assert _spent(lines) == spent(lines) == ledger.trial_epsilons(finished.lines)["a"] <= 4.0
        assert (spent(lines) > 3.95) == (generator == "spectral_ar")  # else what is left of ε is not spent
    else:
        assert spent(lines) == math.inf
    # Stage two draws with the fit's weights.
    public = store.open("upscaler", chain.keys(asked)["upscaler"]).tensors("weights")
    fitted = store.open("upscaler_fit", chain.keys(asked)["upscaler_fit"]).tensors("weights")
    assert torch.equal(public["doubling.weight"], fitted["doubling.weight"])
    assert all(not torch.equal(public[name], fitted[name]) for name in public if name != "doubling.weight")
    coarse, drawn = (
        store.open(name, chain.keys(asked)[name]).tensors("samples") for name in ("coarse_samples", "upscale")
    )
    for weights, same in (({"upscaler": fitted}, True), ({"upscaler": public}, False)):
        again = methods.upscaler(asked).build(asked, weights, "cpu").upscale(coarse["images"], 2)
        assert bool(((again - drawn["images"] / 255).abs() < 0.6 / 255).all()) == same


# The split of ε


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_both_fits_together_spend_the_trial_s_epsilon_and_hardly_less(share):
    asked = trial(2.0, detail={"epsilon_share": share})
    both = [item for stage in chain.PRIVATE for item in chain.mechanisms(asked, stage).values()]
    assert 2.0 * (1 - 0.005) - 0.02 <= accounting.compose(both, DELTA) <= 2.0
    assert chain.privacy_of(asked, "upscaler_fit").epsilon == share * 2.0
    left = chain.privacy_of(asked).epsilon
    assert left == float(f"{left:.4g}")  # another machine's rounding finds the same
    assert left > (1 - share) * 2.0  # more than the rest: losses of two fits add up to less than their sum
    generator = chain.mechanisms(asked)["private_fit"]
    assert accounting.compose([generator], DELTA) <= left < 2.0


def test_what_is_left_beside_a_gaussian_is_the_largest_that_fits():
    """Plain Gaussians have closed sums: σ^-2 add up, so that what is left can be computed another way."""
    delta, beside = 1e-5, Mechanism(1, 4.0, 1)
    left = shares.epsilon_beside(beside, 2.0, delta, lambda e: [Mechanism(1, accounting.calibrate(e, delta, 1, 1), 1)])
    whole = accounting.calibrate(2.0, delta, 1, 1)
    best = accounting.compose([Mechanism(1, (whole**-2 - 4.0**-2) ** -0.5, 1)], delta)
    assert best * 0.99 < left <= best * 1.001
    assert shares.epsilon_beside(beside, math.inf, delta, lambda e: []) == math.inf


def test_a_fit_that_takes_all_of_epsilon_leaves_an_infeasible_trial():
    with pytest.raises(InfeasibleError, match=r"leaves nothing to the generator's: lower upscaler\.epsilon_share"):
        shares.epsilon_beside(Mechanism(1, 1.0, 1), 1.0, 1e-5, lambda e: [Mechanism(1, 100.0, 1)])


# Keys: what is shared is released once


def test_the_fit_s_key_holds_what_it_reads_and_nothing_else():
    base = trial()
    assert moved(base, trial(detail={"epsilon_share": 0.2})) == ["private_fit", "upscaler_fit", *AFTER]
    assert moved(base, trial(detail={"fit_steps": 4})) == ["private_fit", "upscaler_fit", *AFTER]
    assert moved(base, trial(detail={"fit_learning_rate": 1e-3})) == ["upscaler_fit", "upscale", "evaluate"]
    assert moved(base, trial(detail={"fit_max_grad_norm": 1.0})) == ["upscaler_fit", "upscale", "evaluate"]
    assert moved(base, trial(detail={"detail_depth": 2})) == ["upscaler", "upscaler_fit", "upscale", "evaluate"]
    assert moved(base, trial(level=2)) == ["pretrain", "private_fit", *AFTER]
    assert moved(base, trial(privacy={"steps": 3})) == ["private_fit", *AFTER]
    assert "upscaler_fit" not in moved(base, trial(generator="real"))
    assert "upscaler_fit" in moved(base, trial(seed=1))
    infinite = trial(math.inf), trial(math.inf, detail={"epsilon_share": 0.0})
    assert moved(*infinite) == ["upscaler_fit", "upscale", "evaluate"]  # the generator has no budget to share


# The fit itself


KINDS = {
    "sampled": {"detail": "sampled"},
    "regression": {"detail": "regression"},
    "U-Net with noise": {"detail": "adversarial", "detail_noise": 2, "detail_halvings": 1},
    "diffusion": {"detail": "diffusion", "detail_halvings": 1},
}


def detail_network(kind="sampled", channels=1):
    torch.manual_seed(0)
    config = configure("upscaler", "wavelet_detail", **KINDS[kind], detail_width=4, detail_depth=1)
    weights = {name: torch.randn_like(x) / 4 for name, x in network.build(config, channels).state_dict().items()}
    return private.for_fit(config, weights, channels)


@pytest.mark.parametrize("mode", ["bookkeeping", "hooks"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_clipped_sum_is_that_of_autograd_record_by_record(kind, mode):
    model, size, views = detail_network(kind, channels=3), (8, 8), 2
    images, draws = torch.rand(5, 3, 8, 8), torch.rand(5, private.draws_of(model, size, views))
    loss, bound = private.record_loss(size, views), 0.02
    batch = (images, draws) if draws.shape[1] else (images,)
    parameters, expected, lengths = [p for p in model.parameters() if p.requires_grad], [], []
    for i in range(5):
        alone = torch.autograd.grad(loss(model, *(x[i : i + 1] for x in batch)).sum(), parameters)
        lengths.append(torch.cat([g.flatten() for g in alone]).norm())
        expected.append([g * (bound / lengths[-1]).clamp(max=1) for g in alone])
    assert min(lengths) < bound < max(lengths) or max(lengths) > bound  # clipping is at work
    gradients = RecordGradients(model, bound, mode)
    sums = gradients.clipped_sum(loss, batch)
    gradients.close()
    for total, parts in zip(sums, zip(*expected, strict=True), strict=True):
        assert torch.allclose(total, torch.stack(parts).sum(0), rtol=1e-3, atol=1e-6)
    assert (draws.shape[1] > 0) == (kind != "regression")


@pytest.mark.parametrize("kind", ["sampled", "U-Net with noise", "diffusion"])
def test_a_record_s_loss_takes_all_its_numbers_and_those_of_no_other_record(kind):
    model, size = detail_network(kind), (16, 16)
    count = private.draws_of(model, size, 2)
    images, draws = torch.rand(3, 1, 16, 16), torch.rand(3, count, requires_grad=True)
    losses = private.record_loss(size, 2)(model, images, draws)
    (slope,) = torch.autograd.grad(losses[1], draws)
    assert (slope[1] != 0).all()
    assert not slope[[0, 2]].any()


def test_a_large_image_is_shown_in_crops_that_its_numbers_place(monkeypatch):
    monkeypatch.setattr(private, "CROP", 8)
    images = torch.arange(2 * 12 * 10.0).view(2, 1, 12, 10)
    numbers = torch.tensor([[0.0, 0.0], [0.999, 0.5]])
    found = private._cropped(images, private._Numbers(numbers))
    assert torch.equal(found[0], images[0, :, :8, :8])
    assert torch.equal(found[1], images[1, :, 4:, 1:9])
    model = detail_network("regression")
    assert private.draws_of(model, (12, 10), 2) == 4
    assert private.record_loss((12, 10), 2)(model, torch.rand(2, 1, 12, 10), torch.rand(2, 4)).shape == (2,)


def test_an_interrupted_fit_goes_on_to_the_same_release(tmp_path):
    asked = trial(privacy={"checkpoint_every": 1}, detail={"fit_steps": 4})

    class Stopped(Exception):
        pass

    def stop(done, steps):
        if (done, steps) == (2, 4):
            raise Stopped

    broken, whole = Store(str(tmp_path / "broken")), Store(str(tmp_path / "whole"))
    with pytest.raises(Stopped):
        stages.make("upscaler_fit", asked, broken, "cpu", stop)
    assert not broken.has("upscaler_fit", chain.keys(asked)["upscaler_fit"])
    heard = []
    resumed, made = stages.make("upscaler_fit", asked, broken, "cpu", lambda done, steps: heard.append((done, steps)))
    again, _ = stages.make("upscaler_fit", asked, whole, "cpu")
    assert made
    assert (1, 4) not in heard
    assert (3, 4) in heard
    weights = again.tensors("weights")
    assert all(torch.equal(value, weights[name]) for name, value in resumed.tensors("weights").items())
    (mine,), (theirs,) = resumed.json("ledger"), again.json("ledger")
    assert mine["release"] == theirs["release"]


def test_secure_noise_makes_another_release_each_time(tmp_path):
    asked = trial(generator="public", privacy={"noise_source": "secure"})
    lines = [
        stages.make("upscaler_fit", asked, Store(str(tmp_path / name)), "cpu")[0].json("ledger")[0] for name in "ab"
    ]
    assert lines[0]["release"] != lines[1]["release"]
    assert lines[0]["noise_multiplier"] == lines[1]["noise_multiplier"] > 0


def test_a_set_with_equal_records_is_refused_for_this_fit_too(tmp_path, monkeypatch):
    asked, store = trial(generator="public"), Store(str(tmp_path))

    def refuse(config):
        raise UserError("two records are equal")

    monkeypatch.setattr(stages.duplicates, "check", refuse)
    with pytest.raises(UserError, match="two records are equal"):
        stages.make("upscaler_fit", asked, store, "cpu")
    assert not store.has("upscaler_fit", chain.keys(asked)["upscaler_fit"])


def test_a_fit_that_runs_other_than_planned_releases_nothing(tmp_path, monkeypatch):
    asked, store, honest = trial(), Store(str(tmp_path)), private.fine_tune

    def longer(*arguments):
        done = honest(*arguments)
        (ran,) = done.mechanisms.values()
        return dataclasses.replace(done, mechanisms={"upscaler_fit": dataclasses.replace(ran, steps=ran.steps + 1)})

    monkeypatch.setattr(private, "fine_tune", longer)
    with pytest.raises(UserError, match=r"upscaler=wavelet_detail ran .*steps=4.* was planned, and nothing is"):
        stages.make("upscaler_fit", asked, store, "cpu")
    assert not store.has("upscaler_fit", chain.keys(asked)["upscaler_fit"])


# Who counts releases


def test_the_dry_run_and_the_budget_count_both_releases(tmp_path):
    one, other = planned_trial("one", trial()), planned_trial("two", trial(level=2))
    assert one.keys["upscaler_fit"] == other.keys["upscaler_fit"]
    text = describe([one, other], Store(str(tmp_path)), {})
    assert "private releases: 3 (3 new); non-private uses of the training images: 0" in text
    assert "all 3 composed" in text
    asked = releases_of(one) | releases_of(other)
    assert list(asked) == [one.keys["private_fit"], one.keys["upscaler_fit"], other.keys["private_fit"]]
    alone = accounting.compose([item for release in releases_of(one).values() for item in release.mechanisms], DELTA)
    assert alone <= 4.0
    assert refused_by_budget([one, other], {}, Budget(epsilon=4.0), {}).keys() == {"two"}
    # A trial of which one release would fit and both would not is refused whole.
    generator_alone = accounting.compose(releases_of(one)[one.keys["private_fit"]].mechanisms, DELTA)
    assert generator_alone < alone
    tight = Budget(epsilon=(generator_alone + alone) / 2)
    assert refusal_of_all(tight, {}, releases_of(one))
    assert refused_by_budget([one], {}, tight, {}).keys() == {"one"}


def test_trials_that_share_a_private_fit_go_to_one_shard():
    keys = [{"private_fit": f"{n:064x}", "upscaler_fit": f"{100 + n // 3:064x}", "evaluate": str(n)} for n in range(9)]
    planned = [Planned(str(n), TrialConfig(), own) for n, own in enumerate(keys)]
    parts = [units(planned, chain.PRIVATE, (k, 2)) for k in (1, 2)]
    made = [[(unit.stage, unit.key) for unit in part] for part in parts]
    assert not set(made[0]) & set(made[1])
    assert sorted(made[0] + made[1]) == sorted({(stage, own[stage]) for own in keys for stage in chain.PRIVATE})
    assert all(made)


def test_both_fits_of_a_trial_are_one_run_of_a_random_search():
    lines = [
        ledger.line_for_fit(
            Mechanism(0.25, noise, 3), PrivacyConfig(delta=1e-5), dataset="d", n_records=64,
            stage_key=purpose + name, trials=[name], purpose=purpose,
        )
        for name in "ab" for purpose, noise in (("private_fit", 2.0), ("upscaler_fit", 4.0))
    ]  # fmt: skip
    axes = {"search": {"random_k": {"distribution": "geometric", "mean": 4}}}
    assert ledger.best_of_k(lines, axes).startswith("Best of K ~ geometric(mean 4) trials: epsilon = ")
    assert "refused. The runs are of 2 mechanisms" in ledger.best_of_k(lines[:3], axes)


# What is refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (trial(detail={"fit_batch": 65}), r"upscaler\.fit_batch=65 cannot be drawn from 64 records: use at most 64\."),
        (trial(privacy={"grad_sample_mode": "ghost"}), r"upscaler\.epsilon_share=0\.3 makes several: use bookkeeping"),
        (dataclasses.replace(trial(), public=None), "is trained on public images: set public"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_any_work(asked, words):
    with pytest.raises(UserError, match=words):
        methods.upscaler(asked).check(asked)


def test_the_share_is_below_one_and_the_fit_s_settings_need_one():
    with pytest.raises(UserError, match=r"epsilon_share=1\.0 must be at least 0 and below 1"):
        trial(detail={"epsilon_share": 1.0})
    config = configure("upscaler", "wavelet_detail", fit_steps=5)
    assert methods.canonical(TrialConfig(upscaler=config)).upscaler.fit_steps == 60
    sentence = methods.unread_sentence(TrialConfig(upscaler=config), "upscaler.fit_steps", 5)
    assert "is read only with upscaler.epsilon_share=0.1 (or any other above 0): set that too" in sentence
