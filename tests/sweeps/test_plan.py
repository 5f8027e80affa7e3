"""From axes to trials: the product, what shares a stage, and what changes a key."""

import dataclasses
import gc
import math

import numpy as np
import pytest
from scipy import stats

from sweeps.plan import NO_MODEL, alike, named, owners, plan, points, refused_by_budget, release_of, save_plan
from sweeps.search import random_search
from sweeps.summary import describe
from wavedp import chain, checks, fields, methods, registry
from wavedp.config import DataConfig, TrialConfig, configure, fields_of, from_dict, to_dict, trial_of
from wavedp.errors import InfeasibleError, UserError
from wavedp.methods import canonical
from wavedp.model_checks import check_models
from wavedp.privacy import selection
from wavedp.privacy.budget import Budget
from wavedp.privacy.selection import RandomK, drawn
from wavedp.run import read_plan
from wavedp.store import Store

PROCEDURAL = DataConfig(name="procedural", n_records=256)
PUBLIC = dataclasses.replace(PROCEDURAL, split="public")
BASE = to_dict(dataclasses.replace(TrialConfig(), data=PROCEDURAL, public=PUBLIC))
OPTIONS = {"upscaler": {name: {"name": name} for name in ("bicubic", "lanczos", "nearest")}}


def load_option(group, option):
    return OPTIONS[group][option]


def test_points_are_the_product_of_grid_zip_and_seeds():
    sweep = {"grid": {"epsilon": [1, 10], "level": [0, 1]}, "zip": {"blur": ["a", "b"], "x": [3, 4]}, "seeds": [5, 6]}
    found = points(sweep)
    assert len(found) == 2 * 2 * 2 * 2
    assert found[0] == {"epsilon": 1, "level": 0, "blur": "a", "x": 3, "seed": 5}
    assert {(point["blur"], point["x"]) for point in found} == {("a", 3), ("b", 4)}
    assert len({tuple(point.items()) for point in found}) == len(found)


def test_sample_sets_share_their_private_fit_and_the_first_is_the_one_without_the_axis():
    """So three sample sets of a checkpoint cost no release, and asking for them keeps what is there."""
    sweep = {"grid": {"level": [1]}, "seeds": [0, 4]}
    alone = plan(BASE, sweep, load_option)
    again = plan(BASE, {**sweep, "sampling_seeds": [0, 1, 2]}, load_option)
    assert [(t.axes["seed"], t.axes["sampling.seed"]) for t in again] == [(s, n) for s in (0, 4) for n in (0, 1, 2)]
    assert len({t.keys["private_fit"] for t in again}) == 2
    assert len({t.keys["coarse_samples"] for t in again}) == 6
    assert [t.keys for t in again[::3]] == [t.keys for t in alone]
    assert again[1].id.startswith("level=1-seed=0-sampling.seed=1-")
    assert [t.id for t in plan(BASE, {**sweep, "sampling_seeds": [0]}, load_option)] == [t.id for t in alone]


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"grid": {"epsilon": []}}, "epsilon=.* one or more"),
        ({"grid": {"epsilon": 3}}, "must be a list"),
        ({"zip": {"a": [1], "b": [1, 2]}}, "unequal lengths"),
        ({"grid": {"a": [1]}, "zip": {"a": [1]}}, "grid.a and zip.a vary one field"),
    ],
)
def test_malformed_axes_are_refused(sweep, words):
    with pytest.raises(UserError, match=words):
        points(sweep)


@pytest.mark.parametrize("axis", ["privacy.sigma", "nothing.here", "privcy.epsilon"])
def test_an_axis_that_names_no_field_is_refused(axis):
    with pytest.raises(UserError, match=f"{axis} names no field"):
        plan(BASE, {"grid": {axis: [1]}}, load_option)


def test_the_big_grid_shares_its_releases():
    """5 ε × 3 levels × 4 upscalers × 3 seeds: 180 trials on 45 private fits, 9 of them the ε = ∞ references."""
    upscalers = OPTIONS["upscaler"] | {"bilinear": {"name": "bilinear"}}
    sweep = {
        "grid": {"epsilon": [1, 3, 5, 10, math.inf], "level": [0, 1, 2], "upscaler": list(upscalers)},
        "seeds": [0, 1, 2],
    }
    trials = plan(BASE, sweep, lambda group, option: upscalers[option])
    assert len(trials) == len({trial.id for trial in trials}) == 180
    unique = {
        stage.name: len({trial.keys[stage.name] for trial in trials}) for stage in chain.chain_of(trials[0].config)
    }
    assert unique == {
        "reference": 1,
        "tokenizer": 1,
        "pretrain": 3,
        "private_fit": 45,
        "coarse_samples": 45,
        "upscale": 180,
        "evaluate": 180,
    }
    fits = {trial.keys["private_fit"]: trial for trial in trials}.values()
    assert sum(chain.fit_kind(trial.config) == "dp" for trial in fits) == 36
    belongs = owners(trials)
    assert {belongs[trial.keys["reference"]] for trial in trials} == {trials[0].id}
    same_fit = [trial.id for trial in trials if trial.keys["private_fit"] == trials[-1].keys["private_fit"]]
    assert len(same_fit) == 4
    assert belongs[trials[-1].keys["private_fit"]] == same_fit[0]


def test_cases_are_named_sets_of_changes():
    cases = {"as it is": {}, "two": {"privacy.steps": 7, "upscaler": "nearest"}, "ε": {"epsilon": 2}}
    trials = plan(BASE, {"grid": {"level": [1]}, "cases": cases, "seeds": [3]}, load_option)
    assert [t.axes for t in trials] == [{"level": 1, "case": name, "seed": 3} for name in cases]
    plain, two, other = (t.config for t in trials)
    assert (two.privacy.steps, two.upscaler.name) == (7, "nearest")
    assert dataclasses.replace(two, privacy=plain.privacy, upscaler=plain.upscaler) == plain
    assert other.privacy.epsilon == 2
    assert "case=two" in trials[1].id
    with pytest.raises(UserError, match=r"privacy\.sigma"):
        plan(BASE, {"cases": {"x": {"privacy.sigma": 1}}}, load_option)


def test_equal_points_make_one_trial():
    assert len(plan(BASE, {"grid": {"level": [1, 1]}}, load_option)) == 1


SEARCH = {
    "random_k": {"distribution": "geometric", "mean": 12, "seed": 3},
    "space": {
        "privacy.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "sampling.temperature": {"low": 0.5, "high": 1.5},
        "upscaler": ["bicubic", "nearest"],
    },
}


def with_law(**random_k):
    return SEARCH | {"random_k": SEARCH["random_k"] | random_k}


def test_trials_are_picked_by_their_ids():
    trials = plan(BASE, {"grid": {"epsilon": [1, 10], "level": [0, 1]}, "seeds": [0, 1]}, load_option)

    def picked(only):
        return [(trial.axes["epsilon"], trial.axes["level"], trial.axes["seed"]) for trial in named(trials, only)]

    assert named(trials, None) == trials
    assert picked(["epsilon=1-*seed=0"]) == [(1, 0, 0), (1, 1, 0)]  # and not ε = 10
    assert picked(["level=0-seed=1", trials[0].id]) == [(1, 0, 0), (1, 0, 1), (10, 0, 1)]  # in the plan's order
    with pytest.raises(UserError, match=r"only=level=2 names none of the 8 planned trials: .* epsilon=1-level=0"):
        named(trials, ["seed=0", "level=2"])


def test_a_random_search_draws_k_once_and_its_trials_apart():
    trials = random_search(BASE, SEARCH, load_option)
    assert len(trials) == drawn(RandomK("geometric", 12), 3) > 1
    assert [trial.id for trial in trials] == [trial.id for trial in random_search(BASE, SEARCH, load_option)]
    assert len({trial.keys["private_fit"] for trial in trials}) == len(trials)  # K runs, not K looks at fewer
    assert len({trial.config.privacy.learning_rate for trial in trials}) == len(trials)
    assert [trial.config.seed for trial in trials] == list(range(len(trials)))
    # A larger K of the same seed continues the same list: the number alone is what is random in it.
    longer = random_search(BASE, with_law(mean=40), load_option)
    assert [trial.id for trial in longer[: len(trials)]] == [trial.id for trial in trials]


def test_a_random_search_is_uniform_on_its_space(monkeypatch):
    monkeypatch.setattr(selection, "drawn", lambda law, seed: 300)
    configs = [trial.config for trial in random_search(BASE, SEARCH, load_option)]
    rates = np.log10([config.privacy.learning_rate for config in configs])
    assert stats.kstest(rates, "uniform", (-3, 2)).pvalue > 1e-3
    assert stats.kstest([config.sampling.temperature for config in configs], "uniform", (0.5, 1)).pvalue > 1e-3
    assert 110 < sum(config.upscaler.name == "bicubic" for config in configs) < 190
    assert abs(np.corrcoef(rates[1:], rates[:-1])[0, 1]) < 0.2  # nothing is learnt from the trial before


def test_a_random_number_may_be_none():
    seed = next(seed for seed in range(99) if drawn(RandomK("poisson", 1), seed) == 0)
    assert random_search(BASE, with_law(distribution="poisson", mean=1, seed=seed), load_option) == []


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (SEARCH | {"trials": 12}, r"search\.trials does not go with random_k"),
        (SEARCH | {"random_k": {"distribution": "geometric", "mean": 12}}, r"random_k\.seed is not set"),
        (with_law(distribution="fixed"), "needs a random K"),
        (with_law(number=12), "is not a law of K"),
        (SEARCH | {"space": {"epsilon": {"low": 1, "high": 2}}}, "epsilon=1 changes what a run spends"),
        (SEARCH | {"space": {"privacy.steps": [320, 20]}}, "privacy.steps=20 changes what a run spends"),
        (SEARCH | {"space": {"epsilon": [10, math.inf]}}, "epsilon=inf changes what a run spends"),
        (SEARCH | {"space": {"privacy.learning_rate": 0.1}}, "neither a list of choices nor"),
        (SEARCH | {"space": {"upscaler": []}}, "neither a list of choices nor"),
    ],
)
def test_a_random_search_without_a_price_is_refused(search, words):
    with pytest.raises(UserError, match=words):
        random_search(BASE, search, load_option)


def trial(**changes):
    values = to_dict(from_dict(TrialConfig, BASE))
    for path, value in changes.items():
        section, _, field = path.partition("__")
        if field:
            values[section][field] = value
        else:
            values[section] = value
    return trial_of(values)


CHANGED = {
    "epsilon": 3.0, "delta": 1e-4, "batch_size": 32, "steps": 7, "max_grad_norm": 0.5, "optimizer": "sgd",
    "learning_rate": 0.1, "ema_decay": 0.5, "microbatch_size": 8, "grad_sample_mode": "ghost", "checkpoint_every": 9,
    "views": 2, "trained": "lora", "lora_rank": 3, "scale_decay": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGED)
def test_privacy_and_result_fields_change_the_release_performance_fields_nothing(field):
    read = {"privacy__trained": "lora"} if field == "lora_rank" else {}
    before, after = chain.keys(trial(**read)), chain.keys(trial(**read, **{f"privacy__{field}": CHANGED[field]}))
    performance = field in fields_of(trial().privacy, "performance")
    assert (before == after) == performance
    assert all(before[name] == after[name] for name in ("reference", "tokenizer", "pretrain"))


def test_what_each_change_leaves_shared():
    before = chain.keys(trial())

    def changed(**changes):
        after = chain.keys(trial(**changes))
        return [name for name in before if before[name] != after[name]]

    assert changed(upscaler__name="nearest") == ["upscale", "evaluate"]
    assert changed(metrics__kid=False) == ["evaluate"]
    assert changed(metrics__fid_samples=10) == ["reference", "evaluate"]  # the floor looks at as many real images
    assert changed(sampling__seed=1) == ["coarse_samples", "upscale", "evaluate"]
    assert changed(metrics__reference_samples=10) == ["reference", "evaluate"]
    assert changed(sampling__n=10) == ["coarse_samples", "upscale", "evaluate"]
    assert changed(seed=1) == ["private_fit", "coarse_samples", "upscale", "evaluate"]
    assert changed(upscaler__low_pass_consistency=True) == ["upscale", "evaluate"]
    assert changed(upscaler__temperature=0.5) == []  # of another upscaler
    assert changed(sampling__prompts="/x") == []  # read only for conditioning=text, and then by content
    assert changed(level=2) == ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]
    assert changed(public__n_records=100) == ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]
    assert changed(data__n_records=100) == ["reference", "private_fit", "coarse_samples", "upscale", "evaluate"]
    assert changed(device="cuda", sampling__batch_size=3, metrics__batch_size=2) == []


def test_the_spectral_tokenizer_and_its_pretraining_serve_every_level_and_no_private_input_reaches_them():
    learned = {"tokenizer__name": "spectral", "generator__pretrain_level": 0}
    a, b = (chain.keys(trial(level=level, **learned)) for level in (1, 2))
    assert [name for name in a if a[name] != b[name]] == ["private_fit", "coarse_samples", "upscale", "evaluate"]
    other = chain.keys(trial(level=1, **learned, data__n_records=100, seed=3, privacy__epsilon=2.0))
    assert all(a[name] == other[name] for name in ("tokenizer", "pretrain"))
    raster = [chain.keys(trial(level=level, tokenizer__name="raster"))["tokenizer"] for level in (1, 2)]
    assert raster[0] != raster[1]


DIFFUSING = {"generator__name": "blur_diffusion"}


def test_a_sampler_of_diffusion_costs_no_release_and_a_schedule_does():
    before = chain.keys(trial(**DIFFUSING))

    def changed(**changes):
        after = chain.keys(trial(**DIFFUSING, **changes))
        return [name for name in before if before[name] != after[name]]

    after_sampling = ["coarse_samples", "upscale", "evaluate"]
    assert changed(sampling__diffusion_steps=7, sampling__algorithm="ddim") == after_sampling
    assert changed(blur="quartic") == ["pretrain", "private_fit", *after_sampling]
    assert changed(diffusion__multiplicity=3) == ["pretrain", "private_fit", *after_sampling]
    assert changed(sampling__guidance=2.0) == after_sampling
    assert changed(sampling__temperature=0.5, sampling__top_k=3, sampling__top_p=0.5) == []
    # Nobody else reads them:
    assert chain.keys(trial(diffusion__multiplicity=3, sampling__diffusion_steps=7)) == chain.keys(trial())


def test_what_a_method_does_not_read_makes_no_second_release():
    """Three tokenizers for a U-Net that reads no tokens made three releases, ε = 1.26, where there is one of ε = 1."""
    options = {name: {"name": name} for name in ("scalar", "spectral", "raster")}
    base = {**BASE, "generator": {"name": "blur_diffusion"}}
    trials = plan(base, {"grid": {"tokenizer": list(options)}}, lambda group, option: options[option])
    assert len({t.id for t in trials}) == 3
    assert len({t.keys["private_fit"] for t in trials}) == len({t.keys["evaluate"] for t in trials}) == 1
    for axis, values, generator in [
        ("generator.width", [64, 128], "blur_diffusion"),
        ("tokenizer.codes", [64, 128], "spectral_ar"),  # under scalar tokens
        ("privacy.adam_floor", [0.3, 0.5], "spectral_ar"),  # under adam
        ("privacy.lora_rank", [8, 4], "spectral_ar"),  # under trained=all
        ("privacy.mean_share", [0.0, 0.1], "blur_diffusion"),
        ("sampling.temperature", [0.8, 0.9], "blur_diffusion"),
        ("diffusion.channels", [16, 32], "spectral_ar"),
        ("blur", ["none", "quartic"], "spectral_ar"),
        ("privacy.epsilon", [1.0, 2.0], "real"),
    ]:
        base = {**BASE, "generator": {"name": generator}}
        same = plan(base, {"grid": {axis: values}}, load_option)
        assert len({t.keys["evaluate"] for t in same}) == 1, axis
    read = plan(BASE, {"grid": {"privacy.optimizer": ["adam_bc"], "privacy.adam_floor": [0.3, 0.5]}}, load_option)
    assert len({t.keys["private_fit"] for t in read}) == 2


def test_no_budget_at_all_is_the_public_model_of_any_generator():
    for name in ("spectral_ar", "blur_diffusion"):
        floor = trial(generator__name=name, privacy__epsilon=0.0)
        assert chain.fit_kind(floor) == "public"
        assert chain.mechanisms(floor) == {}
        assert release_of(floor) is None
        assert checks.check(floor) == []
        private = trial(generator__name=name)
        assert chain.keys(floor)["pretrain"] == chain.keys(private)["pretrain"]  # one public training for both
        other = trial(generator__name=name, privacy__epsilon=0.0, privacy__steps=9, seed=0)
        assert chain.keys(floor)["private_fit"] == chain.keys(other)["private_fit"]


def test_anchors_do_not_depend_on_the_budget():
    for name in ("public", "real"):
        a, b = (chain.keys(trial(generator__name=name, privacy__epsilon=e)) for e in (1.0, 5.0))
        assert a == b


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"level": 3}, "level=3 needs images divisible by 8, got 28×28: use a level from 0 to 2"),
        ({"privacy__epsilon": -1.0}, "epsilon=-1.0 must be at least 0"),
        ({"privacy__epsilon": math.nan}, "epsilon=nan must be a number"),
        ({"privacy__delta": 1.0}, "delta=1.0 must be above 0 and below 1"),
        ({"privacy__batch_size": 512}, "batch_size=512 cannot be drawn from 256 records"),
        ({"blur": "quartic"}, "blur=quartic is not read by generator=spectral_ar and .*: use generator=blur_diffusion"),
        ({**DIFFUSING, "blur": "octic"}, "blur_schedule='octic' is not offered"),
        ({**DIFFUSING, "diffusion__blur_f_max": -1.0}, "blur_f_max=-1.0 must be at least 0"),
        ({**DIFFUSING, "diffusion__channels": 24}, "channels=24 has no groups of equal size"),
        ({**DIFFUSING, "diffusion__multiplicity": 0}, "multiplicity=0 must be at least 1"),
        ({**DIFFUSING, "diffusion__snr_gamma": -1.0}, "snr_gamma=-1.0 must be at least 0"),
        ({**DIFFUSING, "sampling__diffusion_steps": 1001}, "diffusion_steps=1001 does not fit 1000 timesteps"),
        ({**DIFFUSING, "privacy__mean_share": 0.1}, "mean_share=0.1 is not read by generator=blur_diffusion"),
        ({**DIFFUSING, "privacy__grad_sample_mode": "ghost"}, "multiplicity makes several: use hooks or bookkeeping"),
        ({**DIFFUSING, "upscaler__name": "spectral"}, "upscaler=spectral completes images with the public generator"),
        ({"generator__heads": 5}, "generator.width=64 can't be shared by 5 heads"),
        ({"generator__name": "gan"}, "generator='gan' is not known"),
        ({"upscaler__name": "magic"}, "upscaler='magic' is not known"),
        ({"upscaler__name": "identity"}, "identity"),
        ({"metrics__fid_samples": 10**6}, "fid_samples=1000000"),
        ({"public__size": 32}, "public images are"),
        ({"metrics__inception": "/nowhere.pt"}, "/nowhere.pt"),
        ({"tokenizer__name": "wav"}, "tokenizer='wav' is not known"),
        (
            {"tokenizer__name": "spectral", "tokenizer__coarsest": 16, "level": 2},
            "level=2 is coarser than the tokenizer",
        ),
        ({"generator__pretrain_level": 2}, "pretrain_level=2 is coarser than level=1"),
        (
            {"tokenizer__name": "raster", "generator__pretrain_level": 0},
            "tokenizer=raster has other codes at every level",
        ),
        ({"tokenizer__name": "spectral", "public": None}, "tokenizer=spectral is learned on public images"),
        ({"upscaler__name": "spectral"}, "upscaler=spectral completes images with the public generator"),
        ({"privacy__views": 11}, "views=11"),
        ({"privacy__views": 2, "privacy__grad_sample_mode": "ghost"}, "grad_sample_mode=ghost sees one forward pass"),
        ({"privacy__trained": "lora", "privacy__lora_rank": 64}, "lora_rank=64 is not a low rank of layers 64 wide"),
        ({"tokenizer__name": "spectral", "tokenizer__train_steps": 0}, "train_steps=0 must be at least 1"),
        ({"sampling__guidance": 2.0}, "guidance=2.0 needs a model that has seen images without condition"),
        ({"generator__condition_dropout": 1.0}, "condition_dropout=1.0 must be at least 0 and below 1"),
        ({"generator__conditioning": "text", "metrics__downstream_steps": 10}, "downstream_steps needs class labels"),
        (
            {"generator__conditioning": "text", "metrics__downstream_steps": 0, "sampling__prompts": "/no.txt"},
            "/no.txt",
        ),
    ],
)
def test_check_refuses_before_any_training(changes, words):
    with pytest.raises(UserError, match=words):
        check_all(trial(**{"privacy__batch_size": 64, **changes}))


@pytest.mark.parametrize("mode", ["hooks", "bookkeeping"])
@pytest.mark.parametrize("changes", [{"privacy__views": 2}, {**DIFFUSING, "diffusion__multiplicity": 2}])
def test_several_passes_a_record_are_for_every_mode_but_ghost(mode, changes):
    check_all(trial(**{"privacy__batch_size": 64, "privacy__grad_sample_mode": mode, **changes}))


def check_all(config):
    checks.check(config)
    check_models(config)


def test_a_budget_no_noise_meets_is_infeasible():
    with pytest.raises(InfeasibleError, match="epsilon=1e-05"):
        checks.check(trial(privacy__batch_size=256, privacy__epsilon=1e-5, privacy__steps=10**6))


def test_a_large_delta_is_a_warning():
    (warning,) = checks.check(trial(privacy__batch_size=64, privacy__delta=0.01))
    assert "not below 1/N" in warning
    assert checks.check(trial(privacy__batch_size=64)) == []


@pytest.mark.parametrize(
    ("kind", "name", "moved"),
    [
        ("generator", "spectral_ar", ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]),
        ("tokenizer", "spectral", ["tokenizer", "pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]),
        ("upscaler", "bicubic", ["upscale", "evaluate"]),
        ("metric", "kid", ["reference", "evaluate"]),
        ("generator", "blur_diffusion", []),
    ],
)
def test_a_version_belongs_to_its_method(kind, name, moved, monkeypatch):
    """Mending one generator used to mean every generator's fits once more."""
    config = trial(tokenizer__name="spectral", upscaler__name="bicubic")
    before = chain.keys(config)
    monkeypatch.setattr(registry.find(kind, name), "version", 2, raising=False)
    after = chain.keys(config)
    assert [stage for stage in before if before[stage] != after[stage]] == moved


def test_a_plan_leaves_out_what_would_pass_the_budget(tmp_path):
    """Who makes it elsewhere has no coordinator to say no."""
    trials = plan(BASE, {"grid": {"epsilon": [1, 4, 2]}}, load_option)
    refused = refused_by_budget(trials, {}, Budget(epsilon=2.5), {})
    assert [trial.config.privacy.epsilon for trial in trials if trial.id in refused] == [4]
    earlier = {trials[1].keys["private_fit"]: release_of(trials[1].config)}  # what is made is not refused again
    assert set(refused_by_budget(trials, {}, Budget(epsilon=4.0), earlier)) == {trials[0].id, trials[2].id}
    assert refused_by_budget(trials, {}, Budget(), earlier) == {}
    said = save_plan(tmp_path / "plan.json", trials, refused, {"study": "x"})
    assert "2 trials on 2 private fits" in said
    assert [trial.config for trial in read_plan(tmp_path / "plan.json")] == [trials[0].config, trials[2].config]


def test_a_longer_plan_builds_and_reads_no_section_again(monkeypatch):
    """Ten times the seeds are ten times the trials, of the same sections: the work on those must not grow."""
    asked = {"built": 0, "read": 0}

    def counted(name, function):
        def call(*arguments):
            asked[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr("sweeps.plan.trial_of", counted("built", trial_of))
    monkeypatch.setattr(fields, "is_read", counted("read", fields.is_read))
    monkeypatch.setattr(methods, "is_read", fields.is_read)
    grid = {"epsilon": [1, 10], "level": [0, 1], "upscaler": ["bicubic", "nearest"], "privacy.views": [1, 2]}

    def work(n_seeds):
        asked.update(built=0, read=0)
        assert len(plan(BASE, {"grid": grid, "seeds": list(range(n_seeds))}, load_option)) == 16 * n_seeds
        return asked["built"] - n_seeds, asked["read"]

    assert work(20) == work(2)


def test_a_dry_run_lists_each_stage_instead_of_asking_for_each_artifact(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Store, "has", lambda self, stage, key: asked.append(key))
    trials = plan(BASE, {"grid": {"epsilon": [1, 3]}, "seeds": [0, 1, 2]}, load_option)
    assert "6 trials" in describe(trials, Store(str(tmp_path)), {})
    assert asked == []  # an object store answers in 50 ms, and 10,020 trials have 23,000 artifacts


def test_a_canonical_trial_is_its_own_canonical_form():
    for changes in ({}, {"generator": configure("generator", "real")}, {"blur": "quartic"}):
        trial = canonical(dataclasses.replace(TrialConfig(), **changes))
        assert canonical(trial) is trial


def test_planning_leaves_the_garbage_collector_as_it_was():
    plan(BASE, {"seeds": [0]}, load_option)
    assert gc.isenabled()
    gc.disable()
    try:
        plan(BASE, {"seeds": [0]}, load_option)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_models_are_asked_once_for_all_that_they_depend_on():
    trials = plan(BASE, {"grid": {"epsilon": [1, 10], "level": [0, 1]}, "seeds": [0, 1, 2]}, load_option)
    found = [first.config for first, *_ in alike(trials, NO_MODEL)]
    assert [config.level for config in found] == [0, 1]


def test_a_trials_file_name_fits_and_the_rows_stay_apart():
    long = "word " * 60
    trials = plan(BASE, {"cases": {long: {}, long + "more": {}}}, load_option)
    assert len({trial.id for trial in trials}) == 2
    assert all(len(f".{trial.id}.npz.123456.tmp") < 255 for trial in trials)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"grid": {"epsilon": [1], "privacy.epsilon": [2]}}, "grid.epsilon and grid.privacy.epsilon vary one field"),
        ({"grid": {"epsilon": [1]}, "cases": {"a": {"epsilon": 2}}}, "grid.epsilon and cases.epsilon vary one field"),
        ({"grid": {"seed": [1]}}, r"seed has a list of its own: write sweep.seeds="),
        ({"cases": ["a"]}, "must be named sets of changes"),
        ({"grid": {"upscaler": [3]}}, "upscaler=3 chooses no option"),
        ({"grid": {"epsilom": [3]}}, "epsilom names no field of a trial: did you mean epsilon?"),
        ({"grid": {"privacy.stesp": [3]}}, "did you mean privacy.steps?"),
        ({"cases": {"<b>x</b>": {}}}, "case='<b>x</b>' has markup"),
        ({"grid": {"blur": ["a\u2028b"]}}, "has a character that can't be printed"),
    ],
)
def test_an_axis_that_says_what_did_not_run_is_refused(sweep, words):
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        plan(BASE, sweep, load_option)
