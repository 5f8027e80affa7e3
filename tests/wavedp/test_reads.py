"""Keys hold what is read: the configuration fields that each stage reads while it runs, held against its key.

A field that is read and not in the key would let two different results share an artifact. A field that is in the key
and not read would make, and pay for, the same release twice.
"""

import contextlib
import dataclasses
import json
import math
from functools import cache
from tempfile import TemporaryDirectory

import pytest
from test_user_upscalers import compact, random_ldm, random_sd, saved

from wavedp import chain, stages
from wavedp.config import (
    DataConfig,
    DiffusionConfig,
    MetricsConfig,
    PrivacyConfig,
    SamplingConfig,
    TrialConfig,
    configure,
)
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.methods import canonical
from wavedp.store import Store
from wavedp.testing.checkpoints import GPT, LENGTH, VQ, WIDTH, random_diffusers, random_llamagen
from wavedp.testing.declarations import another

SMALL = {
    "tokenizer": {
        "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "train_steps": 2, "train_batch": 4,
        "coarsest": 4,
    },
    "generator": {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8},
    "upscaler": {"train_steps": 2, "train_batch": 4, "detail_width": 8, "detail_depth": 1, "diffusion_steps": 3},
}  # fmt: skip
IMAGES = DataConfig(name="procedural", size=16, n_records=64)
BASE = TrialConfig(
    data=IMAGES,
    public=dataclasses.replace(IMAGES, split="public", n_records=32),
    diffusion=DiffusionConfig(timesteps=20, multiplicity=1),
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2),
    sampling=SamplingConfig(n=6, diffusion_steps=2),
    metrics=MetricsConfig(fid_samples=4, downstream_steps=0),
)


def trial(generator="spectral_ar", tokenizer="scalar", upscaler="nearest", **changes):
    """A small trial. Methods by name, or by a dict with fields; sections by dicts; other fields as they are."""
    chosen = {"generator": generator, "tokenizer": tokenizer, "upscaler": upscaler}
    found = {}
    for kind, given in chosen.items():
        asked = given if isinstance(given, dict) else {"name": given}
        values = fitting(kind, {**SMALL[kind], **asked})
        found[kind] = configure(kind, values.pop("name"), **values)
    for name, value in changes.items():
        found[name] = dataclasses.replace(getattr(BASE, name), **value) if isinstance(value, dict) else value
    return dataclasses.replace(BASE, **found)


ALL_OPTIONS = {
    "trained": "lora", "lora_rank": 2, "views": 2, "optimizer": "adam_bc", "noise_source": "seeded",
}  # fmt: skip
FEW_LATENTS = {
    "latent_channels": 2, "autoencoder_channels": 16, "autoencoder_steps": 2, "autoencoder_batch": 4,
}  # fmt: skip
UNREAD_FIT = {"batch_size": 128, "steps": 320}  # defaults, for generators of one release, which read neither
TRIALS = {
    "scalar tokens": trial(),
    "spectral tokens": trial(tokenizer="spectral", upscaler="bicubic"),
    "raster tokens": trial(tokenizer="raster", upscaler="lanczos"),
    "all options of tokens": trial(
        {"name": "spectral_ar", "condition_dropout": 0.2, "pretrain_level": 0},
        upscaler="spectral",
        privacy={**ALL_OPTIONS, "mean_share": 0.2, "scale_decay": 0.5, "clipping": "normalize"},
        sampling={"guidance": 2.0, "top_k": 8, "top_p": 0.9, "seed": 3},
    ),
    "captions": trial({"name": "spectral_ar", "conditioning": "text"}, upscaler="bilinear"),
    "tokens of captions": trial({"name": "spectral_ar", "conditioning": "tokens", "text_tokens": 4}),
    "tokens at ε = 0": trial(privacy={"epsilon": 0.0}),
    "tokens at ε = ∞": trial(privacy={"epsilon": math.inf}, upscaler="wavelet_detail"),
    "detail with a share of ε": trial(
        upscaler={"name": "wavelet_detail", "detail": "sampled", "epsilon_share": 0.3, "fit_batch": 8, "fit_steps": 2},
        privacy={"optimizer": "adam_bc", "views": 2},
    ),
    "detail with a share of ∞": trial(
        "public",
        upscaler={"name": "wavelet_detail", "epsilon_share": 0.3, "fit_batch": 8, "fit_steps": 2},
        privacy={"epsilon": math.inf},
    ),
    "blur diffusion": trial("blur_diffusion", blur="quartic", upscaler={"name": "blur_diffusion", "blur": "heat"}),
    "blur diffusion by heat, all options": trial(
        {"name": "blur_diffusion", "condition_dropout": 0.2},
        blur="heat",
        privacy=ALL_OPTIONS,
        sampling={"guidance": 2.0, "algorithm": "ancestral"},
    ),
    "blur diffusion at ε = ∞": trial("blur_diffusion", privacy={"epsilon": math.inf}),
    "blur diffusion at ε = 0": trial("blur_diffusion", privacy={"epsilon": 0.0}),
    # More samples than members, so that some are variations.
    "private evolution": trial({"name": "private_evolution", "population": 1, "iterations": 2}, sampling={"n": 24}),
    "private evolution at ε = 0": trial(
        {"name": "private_evolution", "population": 1}, privacy={"epsilon": 0.0}, sampling={"n": 24}
    ),
    "latents": trial({"name": "dp_ldm", **FEW_LATENTS}),
    "latents, low rank, all options": trial(
        {"name": "dp_lora", "rank": 2, "condition_dropout": 0.2, **FEW_LATENTS},
        privacy={name: value for name, value in ALL_OPTIONS.items() if name not in ("trained", "lora_rank")},
        sampling={"guidance": 2.0, "algorithm": "ancestral"},
    ),
    "latents at ε = 0": trial({"name": "dp_ldm", **FEW_LATENTS}, privacy={"epsilon": 0.0}),
    "raster tokens in Llama": trial("dp_llamagen", tokenizer="raster"),
    "raster tokens in Llama, all options": trial(
        {"name": "dp_llamagen", "condition_dropout": 0.2},
        tokenizer="raster",
        privacy=ALL_OPTIONS,
        sampling={"guidance": 2.0, "top_k": 8, "top_p": 0.9},
    ),
    "EDM": trial(
        {"name": "dpdm", "channels": 16, "layers": 1, "multiplicity": 1},
        privacy={"views": 2, "optimizer": "adam_bc"},
        sampling={"guidance": 2.0},
    ),
    "EDM after class means": trial(
        {"name": "dp_feta", "channels": 16, "layers": 1, "multiplicity": 1, "warm_up_steps": 1, "warm_up_batch": 2}
    ),
    "EDM after a vote": trial(
        {
            "name": "priv_image",
            "channels": 16,
            "layers": 1,
            "multiplicity": 1,
            "embedding": "pixels",
            "semantics": 20,
            "chosen": 1,
        }
    ),
    "EDM after class means and mean embeddings": trial(
        {
            "name": "feta_pro",
            "channels": 16,
            "layers": 1,
            "multiplicity": 1,
            "warm_up_steps": 1,
            "warm_up_batch": 2,
            "embedding_features": 8,
            "embedding_channels": 8,
            "embedding_train_steps": 2,
            "embedding_train_batch": 20,
            "embedding_images": 10,
            "embedding_warm_up_steps": 1,
            "embedding_warm_up_batch": 2,
        }
    ),
    "EDM, pretrained": trial(
        {"name": "pdp_diffusion", "channels": 16, "layers": 1, "multiplicity": 1, "churn": 0.0}, privacy=ALL_OPTIONS
    ),
    "EDM at ε = 0": trial({"name": "pdp_diffusion", "channels": 16, "layers": 1}, privacy={"epsilon": 0.0}),
    "public": trial("public", tokenizer="spectral"),
    "normal distributions": trial("dp_gaussian", privacy=UNREAD_FIT),
    "normal distributions at ε = ∞": trial("dp_gaussian", privacy={**UNREAD_FIT, "epsilon": math.inf}),
    "mean embeddings": trial(
        {"name": "dp_merf", "features": 8, "channels": 8, "train_steps": 2, "train_batch": 20}, privacy=UNREAD_FIT
    ),
    "mean gradients": trial(
        {"name": "dp_ntk", "hidden": 4, "channels": 8, "train_steps": 2, "train_batch": 20}, privacy=UNREAD_FIT
    ),
    "network embeddings": trial(
        {
            "name": "dp_mepf",
            "side": 32,
            "second_moment_share": 0.3,
            "channels": 8,
            "train_steps": 2,
            "train_batch": 20,
        },
        privacy=UNREAD_FIT,
    ),
    "batch embeddings": trial(
        {
            "name": "dp_kernel",
            "batch": 16,
            "steps": 2,
            "features": 20,
            "channels": 8,
            "train_batch": 20,
            "train_learning_rate": 1e-3,
        },
        privacy=UNREAD_FIT,
    ),
    "real": trial("real", upscaler={"name": "bicubic", "low_pass_consistency": True}),
    "real, through tokens": trial({"name": "real", "tokens": True}, tokenizer="spectral", upscaler="bicubic"),
    "whole images": trial("real", upscaler="identity", level=0),
    **{
        name: trial("real", upscaler=name)
        for name in ("animevideov3_x2", "animevideov3_x3", "animevideov3_x4", "realesrgan_x4plus", "realsr_df2k_x4")
    },
    "outside": trial("class_means_generator:ClassMeans", privacy=UNREAD_FIT),
}
STAGES = [name for name in chain.NAMES if name not in ("reference", "evaluate")]  # those are the metrics' own

UNDECLARED = {
    "privacy.mean_share": "accounting.mechanisms asks of every fit by DP-SGD whether class means come first",
}
"""Fields that a stage reads although no method of the trial says so: they are always at their defaults there."""

UNKEYED = {
    **{
        ("private_fit", f"upscaler.fit_{field}"): "of the fit beside it, of which only what it spends matters here"
        for field in ("max_grad_norm", "learning_rate")
    },
    ("upscaler_fit", "level"): "at level 0 a trial has no such stage, and at all others it is the same",
    ("tokenizer", "level"): "it decides at which level to train, and that is in the key",
    ("pretrain", "level"): "`build` makes the private tokenizer too, which public training does not use",
    ("pretrain", "privacy.epsilon"): "`needs` asks for the fit kind, and public images are the same for all",
}
"""(stage, field) that are read and not in the stage's key, with the reason why its result does not change."""

OF_SCALAR = (
    "wavelet", "bins", "digits", "detail_bins", "detail_digits", "detail_range", "companding", "coarsest",
)  # fmt: skip

UNREAD = {
    ("pretrain", "diffusion.multiplicity"): "of the private fit; published keys of pretrain hold the whole section",
    (
        "tokenizer",
        "generator.tokens",
    ): "it decides whether the trial's tokenizer is read; if not, the key has the default",
    ("private_fit", "privacy.clipping"): "nothing is clipped at ε = ∞, and a sweep over ε sets it for all",
    **{
        ("tokenizer", f"tokenizer.{field}"): "the stage makes no weights; later ones read the field, and hold this key"
        for field in OF_SCALAR
    },
}
"""(stage, field) that are in the stage's key although it does not read them, with the reason."""


class Recorder:
    """Copies of a trial whose sections note which fields are read."""

    def __init__(self):
        self.reads = {}

    def copy(self, config, stage):
        changes = {
            item.name: self._section(getattr(config, item.name), item.name, stage)
            for item in dataclasses.fields(config)
            if dataclasses.is_dataclass(getattr(config, item.name)) and item.name not in ("data", "public")
        }
        return self._section(dataclasses.replace(config, **changes), "", stage)

    def _section(self, config, name, stage):
        seen = self.reads.setdefault(stage, set())
        names = {
            item.name for item in dataclasses.fields(config)
            if item.metadata.get("class") in ("privacy", "result") and item.name != "name"
        }  # fmt: skip

        class Watched(type(config)):
            def __getattribute__(self, field):
                if field in names:
                    seen.add(f"{name}.{field}" if name else field)
                return super().__getattribute__(field)

        copied = object.__new__(Watched)
        copied.__dict__.update(vars(config))
        return copied


@contextlib.contextmanager
def recording():
    """Stages get copies that are canonical already: `canonical` itself reads every field."""
    recorder, makes = Recorder(), dict(stages.MAKE)

    def watched(name):
        def make(work):
            work.trial = recorder.copy(work.trial, name)
            makes[name](work)

        return make

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            chain, "canonical", lambda trial: trial if type(trial).__name__ == "Watched" else canonical(trial)
        )
        for name in makes:
            patch.setitem(stages.MAKE, name, watched(name))
        yield recorder.reads


@cache
def reads(name):
    """{stage: fields read} of a trial, in a store of its own, so that all its stages run."""
    with TemporaryDirectory() as folder, recording() as seen:
        stages.make("upscale", TRIALS[name], Store(folder), "cpu")
    return seen


@cache
def exceptions(name):
    """Of one trial: undeclared fields, and (stage, field) that are not in the key, or not read."""
    config, seen = TRIALS[name], reads(name)
    keys, before = chain.keys(config), contents(config)
    inputs = {stage.name: stage.inputs for stage in chain.chain_of(config)}
    undeclared, unkeyed, unread = set(), set(), set()
    for field, changed in fields_of_trial(config):
        readers = {stage for stage in seen if field in seen[stage]}
        if canonical(changed) == canonical(config):
            undeclared |= {field} if readers else set()
            continue
        moved, after = chain.keys(changed), contents(changed)
        unkeyed |= {(stage, field) for stage in readers if moved.get(stage) == keys[stage]}
        unread |= {
            (stage, field) for stage in before.keys() & set(STAGES)
            if before[stage] != after.get(stage) and not readers & {stage, *inputs[stage]}
        }  # fmt: skip
    return undeclared, unkeyed, unread


def fields_of_trial(config):
    """(name, trial with another value of it) of each PRIVACY and RESULT field, `data` and `public` excepted."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name in ("data", "public", "metrics"):
            continue
        if not dataclasses.is_dataclass(value):
            if item.metadata["class"] != "performance":
                yield item.name, dataclasses.replace(config, **{item.name: another(config, item.name)})
            continue
        for each in dataclasses.fields(value):
            # Infinity has no half, and beside ε = 0 there is another kind of fit.
            wanted = 2.0 if each.name == "epsilon" else another(value, each.name)
            if each.metadata["class"] != "performance" and each.name != "name" and wanted != getattr(value, each.name):
                changed = dataclasses.replace(value, **{each.name: wanted})
                yield f"{item.name}.{each.name}", dataclasses.replace(config, **{item.name: changed})


def contents(config):
    """What each stage's own fields put into its key."""
    config = canonical(config)
    return {stage.name: json.dumps(stage.fields(config), sort_keys=True) for stage in chain.chain_of(config)}


@pytest.mark.parametrize("name", TRIALS)
def test_a_field_that_a_stage_reads_is_in_its_key(name):
    undeclared, unkeyed, _ = exceptions(name)
    assert unkeyed <= UNKEYED.keys()
    assert undeclared <= UNDECLARED.keys(), "a method's `needs` does not name what it reads"


@pytest.mark.parametrize("name", TRIALS)
def test_a_field_in_a_stage_s_own_part_of_the_key_is_read(name):
    """By the stage or by one of its inputs' stages."""
    assert exceptions(name)[2] <= UNREAD.keys()


def test_every_exception_is_one():
    for found, known in zip(zip(*map(exceptions, TRIALS), strict=True), (UNDECLARED, UNKEYED, UNREAD), strict=True):
        assert set().union(*found) == known.keys()


@pytest.mark.parametrize("name", TRIALS)
def test_every_stage_of_a_trial_ran(name):
    assert reads(name).keys() == {stage.name for stage in chain.chain_of(TRIALS[name])} & set(STAGES)


def test_the_recording_notices_a_read():
    recorder = Recorder()
    copied = recorder.copy(canonical(TRIALS["scalar tokens"]), "pretrain")
    assert (copied.level, copied.privacy.views, copied.generator.width) == (1, 1, 16)
    json.dumps(stages.methods.generator(copied).content(copied.generator))  # identity() is no read
    assert recorder.reads["pretrain"] == {"level", "privacy.views", "generator.width"}


BUILDING = ("pretrain", "private_fit", "coarse_samples")  # stages that build the generator


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        (
            "Keyless",
            (set(), {(stage, "generator.power") for stage in BUILDING}, set()),
        ),
        ("Sneaky", ({"sampling.temperature"}, set(), set())),
        ("Idle", (set(), set(), {("private_fit", "privacy.batch_size")})),
    ],
)
def test_a_generator_that_misstates_what_it_reads_is_found(generator, expected, monkeypatch):
    monkeypatch.setitem(TRIALS, generator, trial(f"broken_generators:{generator}"))
    undeclared, unkeyed, unread = exceptions(generator)
    assert (undeclared, unkeyed - UNKEYED.keys(), unread - UNREAD.keys()) == expected


def test_upscalers_of_the_users_own_files_read_what_their_keys_hold(tmp_path, monkeypatch):
    network = saved(compact(), tmp_path / "network.safetensors").path
    random_ldm(tmp_path / "ldm")
    random_sd(tmp_path / "sd")
    for name, options in {
        "spandrel": {"path": network},
        "ldm_sr": {"path": str(tmp_path / "ldm"), "diffusion_steps": 2},
        "sd_x4": {"path": str(tmp_path / "sd"), "diffusion_steps": 2, "prompt": "a thing"},
    }.items():
        monkeypatch.setitem(TRIALS, name, trial("real", upscaler={"name": name, **options}, sampling={"n": 2}))
        undeclared, unkeyed, unread = exceptions(name)
        assert undeclared <= UNDECLARED.keys(), name
        assert unkeyed <= UNKEYED.keys(), name
        assert unread <= UNREAD.keys(), name


def test_generators_of_published_checkpoints_read_what_their_keys_hold(tmp_path, monkeypatch):
    folder = random_diffusers(tmp_path / "sd", "sd", 8)
    files = random_llamagen(tmp_path / "t2i")
    words = {"caption_tokens": LENGTH, "caption_width": WIDTH, "text_encoder": str(files / "t5")}
    fit = {name: value for name, value in ALL_OPTIONS.items() if name not in ("trained", "lora_rank")}
    for name, options in {
        "dp_ldm_checkpoint": {},
        "dp_lora_checkpoint": {"rank": 2, "conditioning": "class", "multiplicity": 2, "condition_dropout": 0.2},
    }.items():
        asked = {"name": name, "checkpoint": str(folder), **options}
        changes = {"privacy": fit, "sampling": {"guidance": 2.0}} if options else {}
        monkeypatch.setitem(TRIALS, name, trial(asked, **changes))
    monkeypatch.setitem(
        TRIALS,
        "dp_llamagen_checkpoint",
        trial(
            {"name": "dp_llamagen_checkpoint", "checkpoint": str(files / "gpt.pt"), **GPT, **words},
            tokenizer={"name": "llamagen", "checkpoint": str(files / "vq.pt"), **VQ},
            sampling={"guidance": 2.0, "top_k": 8, "top_p": 0.9},
        ),
    )
    for name in ("dp_ldm_checkpoint", "dp_lora_checkpoint", "dp_llamagen_checkpoint"):
        undeclared, unkeyed, unread = exceptions(name)
        assert undeclared <= UNDECLARED.keys(), name
        assert unkeyed <= UNKEYED.keys(), name
        # The stage `tokenizer` has nothing to make of a file's codes; those after it read the sizes, under its key.
        assert {item for item in unread if item[0] != "tokenizer"} <= UNREAD.keys(), name


OTHERS = (
    {"name": "prdc", "k": 2}, "spectrum", "diversity", {"name": "memorised", "train_samples": 8}, "fid_infinity",
)  # fmt: skip
MEASURED = {
    "few": {"kid": False, "floor": False, "downstream_steps": 0},
    "usual": {"downstream_steps": 2, "reference_samples": 8},
    "bfloat16, another resize": {"mode": "pytorch", "precision": "bfloat16", "downstream_steps": 0},
    "a protocol": {"downstream": "light"},
    "another network": {"second_network": "effnetlite0", "downstream_steps": 0},
    "all others": {"downstream_steps": 0, "also": OTHERS},
}
MEASURING = ("reference", "evaluate")
SHARED = {
    "metrics.kid": "it needs the features that FID has kept in any case",
    "metrics.downstream_steps": "classifiers keep nothing of the reference images",
    "metrics.downstream": "likewise; where they are tested on another split, that is in the key",
}
"""Fields that the stage `reference` reads to know which metrics are asked; it keeps the same for either answer."""


@pytest.mark.parametrize("name", MEASURED)
def test_metrics_read_what_the_keys_of_reference_and_evaluate_hold(name, tmp_path):
    images = dataclasses.replace(IMAGES, n_records=400)  # a hundred held out, as `memorised` wants
    data = {"data": images} if name == "all others" else {}
    config = trial("real", metrics=MEASURED[name], sampling={"n": 24}, **data)
    with recording() as seen:
        stages.make("evaluate", config, Store(str(tmp_path)), "cpu")
    keys, before = chain.keys(config), contents(config)
    for item in dataclasses.fields(config.metrics):
        if item.metadata["class"] == "performance" or "methods" in item.metadata:
            continue
        value = "val" if item.name == "reference_split" else another(config.metrics, item.name)
        changed = dataclasses.replace(config, metrics=dataclasses.replace(config.metrics, **{item.name: value}))
        field, moved, after = f"metrics.{item.name}", None, None
        with contextlib.suppress(UserError):  # procedural images have no val split: their key cannot be made
            moved, after = chain.keys(changed), contents(changed)
        readers = {stage for stage in MEASURING if field in seen[stage]}
        if moved is None or canonical(changed) == canonical(config):
            continue
        for stage in readers:
            if (stage, field) in {("reference", known) for known in SHARED}:
                continue
            assert moved[stage] != keys[stage], f"{stage} reads {field}, which is not in its key"
        for stage in MEASURING:
            if before[stage] != after[stage]:
                assert readers & {stage, "reference"}, f"{field} is in the key of {stage}, which does not read it"
