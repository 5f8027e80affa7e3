"""Overrides: any spelling that means one thing is taken, and what nothing would read is refused in one sentence."""

import pytest

from sweeps.overrides import normalised, refuse_unknown, refuse_unread
from wavedp.config import TrialConfig, from_dict
from wavedp.errors import UserError


def trial(**values):
    return from_dict(TrialConfig, values)


def test_a_new_axis_needs_no_plus_and_an_old_one_may_have_it():
    typed = ["+sweep=eps_grid", "sweep.grid.tokenizer=[scalar]", "+sweep.grid.epsilon=[1]", "privacy.steps=3"]
    found = ["+sweep=eps_grid", "++sweep.grid.tokenizer=[scalar]", "++sweep.grid.epsilon=[1]", "++privacy.steps=3"]
    assert normalised(typed) == found
    others = ["~sweep.grid.upscaler", "dry_run=true", "--cfg", "job", "upscaler=bicubic", "ray.num_cpus=2"]
    assert normalised(others) == others
    assert normalised(["generator=lab.mine:Mine"]) == ["++generator.name=lab.mine:Mine"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "generator.width=128",
            "generator.width=128 is not read by generator=blur_diffusion: spectral_ar, public read it",
        ),
        ("generator.widht=128", "it reads condition_dropout"),
        ("tokenizer.bins=8", "tokenizer=scalar is not read by generator=blur_diffusion .*: use generator=spectral_ar"),
        ("tokenizer=raster", "tokenizer=raster is not read by generator=blur_diffusion"),
        ("privacy.mean_share=0.1", "privacy.mean_share=0.1 is not read by .*: use generator=spectral_ar"),
        ("privacy.adam_floor=0.1", "is read only with privacy.optimizer=adam_bc"),
        ("privacy.lora_rank=4", "is read only with privacy.trained=lora"),
        ("sampling.temperature=0.9", "sampling.temperature=0.9 is not read by"),
        ("upscaler.detail_adversarial=0.1", "is read only with upscaler.detail=adversarial"),
        ("upscaler.engine=torch", "upscaler.engine=torch is not read by upscaler=wavelet_detail: realesrgan_x4plus"),
        ("metrics.downstream_steps=9", "is read only with metrics.downstream=cnn"),
    ],
)
def test_what_no_trial_reads_is_refused_with_what_would(override, words):
    upscaler = {"name": "wavelet_detail", "detail": "regression"}
    chosen = trial(generator="blur_diffusion", upscaler=upscaler, metrics={"downstream": "small"})
    with pytest.raises(UserError, match=words):
        refuse_unread([override], [chosen])


def test_one_trial_that_reads_it_is_enough():
    trials = [trial(generator="blur_diffusion"), trial(), trial(privacy={"optimizer": "adam_bc"})]
    read = ["generator.width=64", "tokenizer=raster", "diffusion.channels=32", "blur=quartic", "privacy.adam_floor=0.1"]
    refuse_unread(["+sweep=eps_grid", *read, "sampling.temperature=0.9", "sampling.diffusion_steps=9"], trials)
    everybody = [
        "privacy.steps=3",
        "++privacy.microbatch_size=8",
        "sampling.n=9",
        "metrics.kid=false",
        "level=1",
        "seed=2",
    ]
    refuse_unread([*everybody, "blur=none", "data.size=28", "study=x"], trials[1:2])


def test_an_unknown_key_is_refused_with_the_nearest():
    refuse_unknown({"privacy": {}, "level": 1}, ["privacy", "level", "blur"])
    with pytest.raises(UserError, match="privcy is not a setting: did you mean privacy"):
        refuse_unknown({"privcy": {}}, ["privacy", "level"])
    with pytest.raises(UserError, match="xyz is not a setting: use one of level, privacy"):
        refuse_unknown({"xyz": 1}, ["privacy", "level"])
