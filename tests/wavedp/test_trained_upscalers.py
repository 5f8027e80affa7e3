"""Upscalers that are built from what a study trains conform, after a few steps."""

from dataclasses import replace
from tempfile import TemporaryDirectory

import pytest

from wavedp import chain, stages
from wavedp.config import configure
from wavedp.errors import UserError
from wavedp.methods import Trains, upscaler
from wavedp.progress import silent
from wavedp.store import Store
from wavedp.testing.upscalers import UpscalerSuite

FEW = {"train_steps": 3, "train_batch": 4}


class Trained(UpscalerSuite):
    """After a few steps a constant may become a texture; its block means may not move."""

    constant_tolerance = 1
    block_mean_tolerance = 1e-6


class TestWaveletDetail(Trained):
    factors = (1, 2, 4, 8)

    def config(self):
        return configure("upscaler", "wavelet_detail", **FEW, detail_width=8, detail_depth=1)


class TestSampledWaveletDetail(Trained):
    def config(self):
        return configure("upscaler", "wavelet_detail", **FEW, detail="sampled", detail_width=8, detail_depth=1)


class TestUNetWaveletDetail(Trained):
    def config(self):
        drawn = {
            "detail_noise": 2,
            "detail_pixels": "energy",
            "detail_critic": "relativistic",
            "detail_critic_width": 4,
        }
        return configure(
            "upscaler", "wavelet_detail", **FEW, **drawn, detail_width=8, detail_depth=1, detail_halvings=2
        )


class TestDiffusionWaveletDetail(Trained):
    factors = (1, 2, 4, 8)

    def config(self):
        few = {"detail_width": 8, "detail_depth": 2, "detail_halvings": 1, "detail_steps": 3}
        return configure("upscaler", "wavelet_detail", **FEW, **few, detail="diffusion")


class TestPartlyPrivateWaveletDetail(Trained):
    factors = (2, 4)

    def config(self):
        few = {**FEW, "detail": "sampled", "detail_width": 8, "detail_depth": 1}
        return configure("upscaler", "wavelet_detail", **few, epsilon_share=0.3, fit_batch=16, fit_steps=2)


class TestBlurDiffusion(Trained):
    def config(self):
        return configure("upscaler", "blur_diffusion", **FEW, diffusion_steps=3)


class TestSpectral(Trained):
    """Its weights are the generator's."""

    def config(self):
        return configure("upscaler", "spectral")

    def trial(self, channels, factor):
        few = {"pretrain_steps": 3, "pretrain_batch": 4, "width": 16, "depth": 1, "heads": 2}
        generator = configure("generator", "spectral_ar", pretrain_level=0, **few)
        return replace(super().trial(channels, factor), generator=generator)

    def inputs(self, trial):
        with TemporaryDirectory() as folder:
            made = (stages.make(name, trial, Store(folder), "cpu", silent)[0] for name in ("tokenizer", "pretrain"))
            tokenizer, pretrain = (artifact.tensors("weights") for artifact in made)
        return {"tokenizer": tokenizer, "pretrain": pretrain}


def test_who_trains():
    for suite, trains in ((TestWaveletDetail, True), (TestBlurDiffusion, True), (TestSpectral, False)):
        assert isinstance(upscaler(suite().trial(1, 2)), Trains) == trains


def test_an_energy_score_without_noise_is_refused():
    method, trial = upscaler(TestUNetWaveletDetail().trial(1, 2)), TestUNetWaveletDetail().trial(1, 2)
    method.check(trial)
    with pytest.raises(UserError, match=r"detail_pixels=energy scores two samples .* set upscaler\.detail_noise=4"):
        method.check(replace(trial, upscaler=replace(trial.upscaler, detail_noise=0)))


def test_more_steps_of_drawing_are_no_new_training():
    trial = TestDiffusionWaveletDetail().trial(1, 2)
    more = replace(trial, upscaler=replace(trial.upscaler, detail_steps=8))
    before, after = chain.keys(trial), chain.keys(more)
    assert before["upscaler"] == after["upscaler"]
    assert before["upscale"] != after["upscale"]


def test_they_refuse_a_trial_without_public_images():
    for suite in (TestWaveletDetail, TestBlurDiffusion, TestSpectral):
        trial = replace(suite().trial(1, 2), public=None)
        with pytest.raises(UserError, match="public"):
            upscaler(trial).check(trial)
