"""The chain itself, in miniature and without Ray: what each kind of trial makes, and what its ledger says."""

import dataclasses
import math
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import fsspec
import pytest
import torch

from wavedp import chain, checks, stages
from wavedp.config import DataConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.model_checks import check_models
from wavedp.store import Draft, Store, lease
from wavedp.wavelets import coarse

SMALL = {
    "tokenizer": {
        "name": "scalar", "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "train_steps": 4,
        "train_batch": 8,
    },
    "generator": {
        "name": "spectral_ar", "width": 16, "depth": 1, "heads": 2, "pretrain_steps": 3, "pretrain_batch": 8,
    },
    "upscaler": {"name": "bicubic"},
}  # fmt: skip


def method(kind, **changes):
    """The small configuration of a method, with the changes; what only others of its kind read is left out."""
    values = fitting(kind, {**SMALL[kind], **changes})
    return configure(kind, values.pop("name"), **values)


TINY = TrialConfig(
    level=1,
    data=DataConfig(name="procedural", n_records=256),
    public=DataConfig(name="procedural", split="public", n_records=96, limit=96),
    tokenizer=method("tokenizer"),
    generator=method("generator"),
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2),
    sampling=SamplingConfig(n=12),
    upscaler=method("upscaler"),
)
TINY = dataclasses.replace(TINY, metrics=dataclasses.replace(TINY.metrics, fid_samples=8, downstream_steps=0))


def trial(level=1, **sections):
    changed = {
        name: method(name, **fields) if name in SMALL else dataclasses.replace(getattr(TINY, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(TINY, level=level, **changed)


def upscaled(config, tmp_path):
    checks.check(config)
    check_models(config)
    store = Store(str(tmp_path / "store"))
    artifact, made = stages.make("upscale", config, store, "cpu")
    assert made
    found = {name: store.open(name, key) for name, key in chain.keys(config).items() if store.has(name, key)}
    return artifact.tensors("samples"), found


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("name", ["scalar", "spectral", "raster"])
def test_every_tokenizer_at_every_level(name, level, tmp_path):
    upscaler = {"name": "identity" if level == 0 else "nearest"}
    samples, found = upscaled(trial(level, tokenizer={"name": name}, upscaler=upscaler), tmp_path)
    assert samples["images"].shape == (12, 1, 28, 28)
    assert samples["images"].dtype == torch.uint8
    (line,) = found["private_fit"].json("ledger")
    assert (line["kind"], line["purpose"], line["steps"]) == ("dp_sgd", "private_fit", 2)
    assert (name == "scalar") == (found["tokenizer"].tensors("weights") == {})
    if name != "scalar":
        assert {"psnr", "codebooks"} <= set(found["tokenizer"].json("tokenizer"))


@pytest.mark.parametrize("blur", ["none", "quartic", "heat"])
def test_blur_diffusion_at_every_schedule_and_the_whole_image(blur, tmp_path):
    config = trial(
        level=0 if blur == "none" else 1,
        generator={"name": "blur_diffusion"},
        diffusion={"channels": 16, "multiplicity": 1},
        sampling={"diffusion_steps": 3},
        upscaler={"name": "identity" if blur == "none" else "nearest"},
    )
    samples, found = upscaled(dataclasses.replace(config, blur=blur), tmp_path)
    assert samples["images"].shape == (12, 1, 28, 28)
    (line,) = found["private_fit"].json("ledger")
    assert (line["kind"], line["steps"]) == ("dp_sgd", 2)


def test_a_public_model_deblurs_the_samples_of_any_generator(tmp_path):
    upscaler = {"name": "blur_diffusion", "train_steps": 3, "train_batch": 8, "diffusion_steps": 4}
    config = trial(upscaler=upscaler, diffusion={"channels": 16})
    samples, found = upscaled(config, tmp_path)
    small = found["coarse_samples"].tensors("samples")["images"]
    again = coarse(samples["images"].float() / 255, 1)
    assert (again - small).abs().max() <= 0.5 / 255 + 1e-5
    one, other = (chain.keys(trial(level, upscaler=upscaler, privacy={"epsilon": e})) for level, e in ((1, 1), (2, 5)))
    assert one["upscaler"] == other["upscaler"]  # one model for all levels and budgets
    assert "upscaler" not in chain.keys(TINY)


def test_a_public_network_draws_the_missing_bands_of_any_level(tmp_path):
    upscaler = {"name": "wavelet_detail", "train_steps": 3, "train_batch": 8, "detail_width": 8, "detail_depth": 1}
    samples, found = upscaled(trial(upscaler=upscaler), tmp_path)
    again = coarse(samples["images"].float() / 255, 1)
    assert (again - found["coarse_samples"].tensors("samples")["images"]).abs().max() <= 0.5 / 255 + 1e-5
    keys = chain.keys(trial(1, upscaler=upscaler))
    same = chain.keys(trial(2, upscaler=upscaler, diffusion={"channels": 32}))
    assert keys["upscaler"] == same["upscaler"]  # one for all levels; what it does not read is in no key of it
    with pytest.raises(UserError, match=r"upscaler\.blur is not read by upscaler=wavelet_detail: blur_diffusion reads"):
        configure("upscaler", "wavelet_detail", blur="log")
    assert keys["upscale"] != same["upscale"]  # other samples
    for change in ({"detail": "regression"}, {"detail_width": 16}, {"train_steps": 4}, {"name": "blur_diffusion"}):
        assert chain.keys(trial(1, upscaler=upscaler | change))["upscaler"] != keys["upscaler"], change


@pytest.mark.parametrize(
    ("level", "changes", "sentence"),
    [
        (1, {"blur": "none"}, "upscaler.blur=none blurs up to 0.00 pixels, less than the 0.50 of 2×2 block means"),
        (1, {"blur": "fast"}, "blur_schedule='fast' is not offered"),
        (1, {"train_steps": 0}, "upscaler.train_steps=0 must be at least 1"),
        (1, {"diffusion_steps": 2000}, "upscaler.diffusion_steps=2000 does not fit 1000 timesteps"),
    ],
)
def test_a_deblurring_that_cannot_be_is_refused(level, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        checks.check(trial(level, upscaler={"name": "blur_diffusion", **changes}))
    with pytest.raises(UserError, match="trained on public images: set public"):
        checks.check(dataclasses.replace(trial(upscaler={"name": "blur_diffusion"}), public=None))


def test_the_public_generator_completes_the_finer_scales(tmp_path):
    config = trial(
        tokenizer={"name": "spectral"},
        generator={"pretrain_level": 0, "condition_dropout": 0.2},
        sampling={"guidance": 2.0},
        upscaler={"name": "spectral"},
        privacy={"views": 2, "mean_share": 0.2, "trained": "lora", "lora_rank": 2},
    )
    samples, found = upscaled(config, tmp_path)
    small = found["coarse_samples"].tensors("samples")["images"]
    again = coarse(samples["images"].float() / 255, 1)
    assert (again - small).abs().max() <= 0.5 / 255 + 1e-5  # rounding to bytes lies between
    assert [line["purpose"] for line in found["private_fit"].json("ledger")] == ["class_means", "private_fit"]
    kinds = {line["purpose"]: line["kind"] for line in found["private_fit"].json("ledger")}
    assert kinds == {"class_means": "gaussian", "private_fit": "dp_sgd"}
    norms = [line["max_grad_norm"] for line in found["private_fit"].json("ledger")]
    assert norms == [None, config.privacy.max_grad_norm]  # no gradient is clipped for the means


def test_captions_condition_a_trial_from_public_prompts(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a small bright disk\na large dark square\n")
    config = trial(
        generator={"conditioning": "text", "condition_dropout": 0.1}, sampling={"prompts": str(prompts)},
        privacy={"views": 2},
    )  # fmt: skip
    samples, _ = upscaled(config, tmp_path)
    assert len(samples["images"]) == 12
    before = chain.keys(config)
    moved = tmp_path / "moved.txt"
    moved.write_text(prompts.read_text())
    assert chain.keys(dataclasses.replace(config, sampling=SamplingConfig(n=12, prompts=str(moved)))) == before
    moved.write_text("a small grey disk\n")
    after = chain.keys(dataclasses.replace(config, sampling=SamplingConfig(n=12, prompts=str(moved))))
    assert [name for name in before if before[name] != after[name]] == ["coarse_samples", "upscale", "evaluate"]


def test_captions_that_are_not_there_are_refused():
    config = trial(generator={"conditioning": "text"}, data={"name": "fashion_mnist", "n_records": 2048})
    with pytest.raises(UserError, match="needs captions and fashion_mnist has none"):
        checks.check(config)
    with pytest.raises(UserError, match="mean_share releases class means"):
        checks.check(trial(generator={"conditioning": "text"}, privacy={"mean_share": 0.1}))


def test_without_privacy_both_mechanisms_are_nonprivate_looks(tmp_path):
    _, found = upscaled(trial(privacy={"epsilon": math.inf, "mean_share": 0.1}), tmp_path)
    assert [line["kind"] for line in found["private_fit"].json("ledger")] == ["nonprivate", "nonprivate"]


def test_a_stage_alone_makes_no_input_and_nothing_else_than_was_asked_for(tmp_path):
    """What a worker of a cluster runs: a node whose store lacks an input must not make a release of its own."""
    store, keys = Store(str(tmp_path / "store")), chain.keys(TINY)
    with pytest.raises(
        UserError, match=rf"private_fit .* needs tokenizer {keys['tokenizer'][:12]}, which .* store that"
    ):
        stages.make_alone("private_fit", keys["private_fit"], TINY, store, "cpu")
    other = dataclasses.replace(TINY, data=DataConfig(name="procedural", n_records=255))
    with pytest.raises(
        UserError, match=rf"tokenizer {'0' * 12} was asked for and .* would make {keys['tokenizer'][:12]}"
    ):
        stages.make_alone("tokenizer", "0" * 64, TINY, store, "cpu")
    with pytest.raises(UserError, match=r"same commit of wavedp and the same data"):
        stages.make_alone("reference", keys["reference"], dataclasses.replace(other, seed=1, level=0), store, "cpu")
    assert not any(store.has(name, key) for name, key in keys.items())
    _, made = stages.make_alone("tokenizer", keys["tokenizer"], TINY, store, "cpu")
    assert made


def test_checkpoints_are_closed_to_others_and_gone_with_the_release(tmp_path):
    store, keys = Store(str(tmp_path / "store")), chain.keys(TINY)
    seen = {}

    def look(done, total):
        folder = store.path + f"/work/private_fit-{keys['private_fit']}"
        paths = [Path(folder), *Path(folder).iterdir()] if Path(folder).exists() else []
        seen.update({path.name: stat.S_IMODE(path.stat().st_mode) for path in paths})

    config = dataclasses.replace(TINY, privacy=dataclasses.replace(TINY.privacy, checkpoint_every=1))
    before = os.umask(0)
    try:
        stages.make("private_fit", config, store, "cpu", look)
    finally:
        os.umask(before)
    assert seen == {f"private_fit-{keys['private_fit']}": 0o700, "checkpoint.safetensors": 0o600}
    assert [path.name for path in (tmp_path / "store" / "work").iterdir() if path.name.startswith("private")] == []


@pytest.mark.filterwarnings("ignore:.* is damaged")
def test_a_damaged_input_is_made_again(tmp_path):
    store, keys = Store(str(tmp_path / "store")), chain.keys(TINY)
    whole, _ = stages.make("pretrain", TINY, store, "cpu")
    (tmp_path / "store" / "tokenizer" / keys["tokenizer"] / "weights.safetensors").unlink()
    (tmp_path / "store" / "pretrain" / keys["pretrain"] / "weights.safetensors").write_bytes(b"")
    again, made = stages.make("pretrain", TINY, store, "cpu")
    assert (again.files, made) == (whole.files, True)


def test_of_two_machines_that_make_one_stage_the_second_says_that_it_made_nothing(tmp_path, monkeypatch):
    store, key = Store("memory://stages"), chain.keys(TINY)["tokenizer"]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = Draft()
    other.json("tokenizer", {"by": "another machine"})

    def overtaken(work):
        Store("memory://stages").publish("tokenizer", key, other)
        work.draft.json("tokenizer", {"by": "this one"})

    monkeypatch.setitem(stages.MAKE, "tokenizer", overtaken)
    artifact, made = stages.make("tokenizer", TINY, store, "cpu")
    fsspec.filesystem("memory").store.clear()
    assert (artifact.json("tokenizer"), made) == ({"by": "another machine"}, False)


def test_of_two_machines_that_ask_for_one_stage_at_once_one_makes_it(tmp_path, monkeypatch):
    begun, told = threading.Event(), []

    def slow(work):
        begun.set()
        time.sleep(0.5)
        work.draft.json("tokenizer", {})

    def ask():
        told.append(stages.make("tokenizer", TINY, Store("memory://asked"), "cpu")[1])

    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    monkeypatch.setitem(stages.MAKE, "tokenizer", slow)
    machines = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for machine, name in zip(machines, "ab", strict=True):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        machine.start()
        assert begun.wait(30)
    for machine in machines:
        machine.join(30)
    fsspec.filesystem("memory").store.clear()
    assert told == [True, False]


def test_a_stage_that_is_in_the_store_is_not_waited_for(tmp_path):
    store, key = Store(str(tmp_path)), chain.keys(TINY)["tokenizer"]
    stages.make("tokenizer", TINY, store, "cpu")
    with store.lock("tokenizer", key):
        asking = threading.Thread(target=stages.make, args=("tokenizer", TINY, store, "cpu"), daemon=True)
        asking.start()
        asking.join(30)
        assert not asking.is_alive()


@pytest.mark.parametrize("stage", ["upscaler", "upscaler_fit", "upscalr"])
def test_a_stage_that_the_trial_does_not_have_is_named(stage, tmp_path):
    with pytest.raises(UserError, match=f"This trial has no stage {stage}: its stages are reference, tokenizer, "):
        stages.make(stage, TINY, Store(str(tmp_path)), "cpu")
