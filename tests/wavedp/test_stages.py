"""The chain itself, in miniature and without Ray: what each kind of trial makes, and what its ledger says."""

import dataclasses
import math

import pytest
import torch

from wavedp import chain, checks, stages
from wavedp.config import DataConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.store import Store
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
    stages.check_models(config)
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
        (1, {"train_steps": 0}, "upscaler.train_steps=0 and train_batch=64 must both be 1 or more"),
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
