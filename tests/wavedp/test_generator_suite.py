"""The suite that ships for generators: every built-in one passes it, an outside one too, and broken ones fail."""

import dataclasses

import pytest

from wavedp.config import configure
from wavedp.fields import fitting
from wavedp.testing.generators import GeneratorSuite

SMALL = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}


def small(name, **changes):
    values = fitting("generator", {"name": name, **SMALL, **changes})
    return configure("generator", values.pop("name"), **values)


class TestSpectralAR(GeneratorSuite):
    def config(self):
        return small("spectral_ar")


class TestSpectralARWithEverything(GeneratorSuite):
    """Class means before the fit, low-rank updates, views, dropout and guidance; pretrained on finer tokens."""

    def config(self):
        return small("spectral_ar", condition_dropout=0.2, pretrain_level=0)

    def trial(self, base):
        privacy = dataclasses.replace(
            base.privacy, mean_share=0.2, trained="lora", lora_rank=2, views=2, optimizer="adam_bc", scale_decay=0.5
        )
        return dataclasses.replace(
            base,
            privacy=privacy,
            sampling=dataclasses.replace(base.sampling, guidance=2.0, top_k=8, top_p=0.9),
            tokenizer=configure("tokenizer", "scalar", coarsest=4),
        )


class TestSpectralARWithDigits(GeneratorSuite):
    """Detail tokens of three digits: class means before the fit, guidance; pretrained on finer tokens."""

    def config(self):
        return small("spectral_ar", condition_dropout=0.2, pretrain_level=0)

    def trial(self, base):
        digits = configure(
            "tokenizer", "scalar", detail_bins=9, detail_range=0.5, companding=8.0, detail_digits="apart", coarsest=4
        )
        return dataclasses.replace(
            base,
            privacy=dataclasses.replace(base.privacy, mean_share=0.2),
            sampling=dataclasses.replace(base.sampling, guidance=2.0, top_k=8, top_p=0.9),
            tokenizer=digits,
        )


class TestBlurDiffusion(GeneratorSuite):
    def config(self):
        return small("blur_diffusion")

    def trial(self, base):
        return dataclasses.replace(base, blur="quartic")


class TestPublicOnly(GeneratorSuite):
    def config(self):
        return small("public")


class TestReal(GeneratorSuite):
    def config(self):
        return configure("generator", "real")


class TestRealThroughTokens(GeneratorSuite):
    def config(self):
        return configure("generator", "real", tokens=True)


class TestClassMeans(GeneratorSuite):
    """One file of somebody else's (tests/plugins/class_means_generator.py)."""

    def config(self):
        return configure("generator", "class_means_generator:ClassMeans")


class TestText(GeneratorSuite):
    def config(self):
        return small("spectral_ar", conditioning="text")

    def trial(self, base):
        return dataclasses.replace(base, privacy=dataclasses.replace(base.privacy, views=2))


def suite_of(name, **values):
    class Suite(GeneratorSuite):
        def config(self):
            return configure("generator", f"broken_generators:{name}", **values)

    return Suite()


def names_of(suite):
    return [name for name in dir(suite) if name.startswith("test_")]


def failed(suite):
    """The tests that fail, with their sentences."""
    found = {}
    for name in names_of(suite):
        try:
            getattr(suite, name)()
        except AssertionError as error:
            found[name.removeprefix("test_")] = str(error)
        except pytest.skip.Exception:
            pass
    suite.teardown_class()
    return found


RELEASE = "the_same_fit_is_the_same_release"


@pytest.mark.parametrize(
    ("name", "noticed", "words"),
    [
        ("Unplanned", "the_fit_runs_what_was_planned", "the fit may run that and nothing else"),
        ("Louder", "the_fit_runs_what_was_planned", "the fit may run that and nothing else"),
        ("Exact", "noise_hides_the_records_at_a_tiny_budget", "reaches them without the planned noise"),
        ("Exact", RELEASE, "no noise was drawn from fit.seed"),
        ("Overspent", "the_plan_stays_within_the_budget", "calibrate them together"),
        ("BatchDraws", "the_seed_decides_samples_and_the_batch_size_does_not", "draw all noise before the first batch"),
        ("Forgetful", RELEASE, "the same fit again has other release ids"),
        ("Curious", "a_fit_looks_only_at_the_images_it_is_given", "only the records that it is given"),
        ("Unclassed", "its_config_is_frozen_and_every_field_has_a_class_and_a_default", "forgotten is in no class"),
        ("Keyless", "its_content_is_json_and_moves_with_every_field_that_changes_results", "power changes results"),
        ("Confused", "it_needs_only_what_a_trial_has", "names ['privacy.sigma'], which no trial has"),
        ("Heavy", "planning_imports_no_torch", "imported torch, and a plan of hundreds of trials must not"),
    ],
)
def test_a_fault_is_noticed_and_named(name, noticed, words):
    suite = suite_of(name)
    with pytest.raises(AssertionError) as caught:
        getattr(suite, f"test_{noticed}")()
    suite.teardown_class()
    assert words in str(caught.value)


def test_hidden_steps_without_noise_are_noticed():
    """By no other test: its report is what was planned, and its noise is drawn."""
    values = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}
    found = failed(suite_of("Peeking", **values))
    assert list(found) == ["noise_hides_the_records_at_a_tiny_budget"]
    assert "reaches them without the planned noise" in found["noise_hides_the_records_at_a_tiny_budget"]
