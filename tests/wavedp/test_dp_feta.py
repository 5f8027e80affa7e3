"""`dp_feta`: two mechanisms, what a record can change in the first, and a warm-up that sees no record."""

import dataclasses
import math

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation

from wavedp import chain, checks
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.denoising import DenoisingModel
from wavedp.generators.dp_feta import model as room
from wavedp.generators.dp_feta.model import DPFETAModel
from wavedp.privacy import statistics
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.testing.generators import GeneratorSuite
from wavedp.wavelets import coarse

SHAPE, DELTA = (1, 8, 8), 1e-4
SMALL = {
    "channels": 16, "layers": 1, "halvings": 0, "attention_side": 0, "multiplicity": 1,
    "warm_up_steps": 2, "warm_up_batch": 4, "warm_up_learning_rate": 2e-3,
}  # fmt: skip


class TestDPFETA(GeneratorSuite):
    def config(self):
        return configure("generator", "dp_feta", **SMALL, mean_share=0.3)

    def trial(self, base):
        return dataclasses.replace(base, privacy=dataclasses.replace(base.privacy, batch_size=8, steps=2))


def model(shape=SHAPE, **changes):
    return DPFETAModel(configure("generator", "dp_feta", **{**SMALL, **changes}), shape, 2, "cpu")


def trial(privacy=None, **changes):
    images = DataConfig(name="procedural", size=16, n_records=64)
    return TrialConfig(
        data=images, public=None, level=1, upscaler="nearest", metrics=MetricsConfig(downstream_steps=0),
        privacy=privacy or PrivacyConfig(epsilon=2.0, delta=DELTA, batch_size=16, steps=4),
        generator=configure("generator", "dp_feta", **{**SMALL, **changes}),
    )  # fmt: skip


def records(count=30):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(count, *SHAPE, generator=generator), torch.arange(count) % 2


def most_changed(images, labels, halved=1):
    """The most that leaving out one record changes the exact totals of its halved images, in L2 norm."""
    small = coarse(images, halved)
    whole = statistics.class_totals(small, labels, 2)
    kept = [torch.arange(len(labels)) != left for left in range(len(labels))]
    return max(float((whole - statistics.class_totals(small[rows], labels[rows], 2)).norm()) for rows in kept)


def test_a_record_changes_the_totals_by_no_more_than_the_sensitivity():
    images, labels = records(20)
    images[3], images[4] = 0.0, 1.0  # the worst ones
    bound = statistics.sensitivity(math.prod(SHAPE) // 4)
    assert most_changed(images, labels) == pytest.approx(bound)
    assert most_changed(images, labels, 0) > 1.5 * bound  # so images that were not halved would be seen
    with pytest.raises(UserError, match=r"out of \[0, 1\]"):
        statistics.class_totals(3 * images, labels, 2)


def noise_of_means(monkeypatch, share=0.5, count=8):
    """The deviation of the noise in the totals behind the means, in sensitivities, over fits of different seeds."""
    images, labels = torch.full((400, *SHAPE), 0.5), torch.arange(400) % 2
    planned = chain.mechanisms(trial(mean_share=share))["class_means"]
    made, found = model(), []
    monkeypatch.setattr(DPFETAModel, "warmed_up", lambda self, network, means, seed: found.append(means) or stop())
    for seed in range(count):
        fit = FitSettings(trial().privacy, {"class_means": planned}, seed, None)
        with pytest.raises(StopIteration):
            made.fit_private({}, images, labels, fit, silent)
    # Around mid-grey a pixel of the mean is 1/2 + noise / count, whose own noise hardly matters there.
    deviation = float((torch.stack(found) - 0.5).std()) * 200
    return deviation / statistics.sensitivity(16), planned.noise_multiplier


def stop():
    raise StopIteration


def test_the_means_get_the_planned_noise_and_half_of_it_is_noticed(monkeypatch):
    found, planned = noise_of_means(monkeypatch)
    assert found == pytest.approx(planned, rel=0.15)
    exact = statistics.noisy_mean
    monkeypatch.setattr(statistics, "noisy_mean", lambda sums, sigma, *rest: exact(sums, sigma / 2, *rest))
    found, planned = noise_of_means(monkeypatch)
    assert found != pytest.approx(planned, rel=0.15)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_means_and_fit_together_stay_within_the_budget_by_dp_accounting(share):
    planned = chain.mechanisms(trial(mean_share=share))
    assert list(planned) == ["class_means", "private_fit"]
    means, fit = planned.values()
    assert (means.sample_rate, means.steps, fit.sample_rate, fit.steps) == (1, 1, 0.25, 4)
    gaussian = dp_event.GaussianDpEvent(means.noise_multiplier)
    step = dp_event.PoissonSampledDpEvent(fit.sample_rate, dp_event.GaussianDpEvent(fit.noise_multiplier))

    def spent(*events):
        accountant = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
        for event in events:
            accountant.compose(event)
        return accountant.get_epsilon(DELTA)

    assert spent(gaussian) == pytest.approx(share * 2.0, rel=0.02)
    assert 0.98 * 2.0 < spent(gaussian, dp_event.SelfComposedDpEvent(step, fit.steps)) <= 2.0 * (1 + 1e-3)


def test_a_fit_that_forgets_the_means_is_refused(tmp_path, monkeypatch):
    """DP-SGD is told of the share, so that the noise of a fit without means is too little for it."""
    images, labels = records(64)
    both = chain.mechanisms(trial(mean_share=0.5))
    alone = chain.mechanisms(dataclasses.replace(trial(), generator=configure(
        "generator", "dpdm", **{name: SMALL[name] for name in ("channels", "layers", "halvings", "multiplicity")}
    )))["private_fit"]  # fmt: skip
    assert alone.noise_multiplier < both["private_fit"].noise_multiplier
    fit = FitSettings(trial().privacy, {**both, "private_fit": alone}, 1, tmp_path / "c")
    with pytest.raises(UserError, match=r"more than privacy\.epsilon=2"):
        model(mean_share=0.5).fit_private({}, images, labels, fit, silent)


def test_the_warm_up_sees_the_means_and_no_record(tmp_path, monkeypatch):
    """Other records with the same released means warm up to the same weights."""
    starts = []
    means = torch.rand(2, 1, 4, 4)
    monkeypatch.setattr(room, "class_means", lambda *released, **options: means)
    monkeypatch.setattr(
        DenoisingModel, "fit_records", lambda self, network, *rest: starts.append(network.state_dict()) or stop()
    )
    for images in (torch.zeros(8, *SHAPE), torch.ones(8, *SHAPE)):
        fit = FitSettings(trial().privacy, {"class_means": Mechanism(1, 1.0, 1)}, 1, tmp_path / "c")
        with pytest.raises(StopIteration):
            model().fit_private({}, images, torch.arange(8) % 2, fit, silent)
    for name, value in starts[0].items():
        assert torch.equal(value, starts[1][name])
    cold = model().first_network().state_dict()
    assert any(not torch.equal(value, cold[name]) for name, value in starts[0].items())


def test_the_warm_up_learns_the_means():
    made = model(warm_up_steps=60, warm_up_batch=16, condition_dropout=0.0)
    means = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.9)])
    images, labels = means.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.arange(2)
    weights = made.warmed_up(made.first_network(), means, 0)
    cold = made.first_network().state_dict()
    own, _ = made.log_likelihoods(weights, images, labels)
    before, _ = made.log_likelihoods(cold, images, labels)
    swapped, _ = made.log_likelihoods(weights, images, 1 - labels)
    assert (own > before).all()
    assert own.mean() > swapped.mean()


@pytest.mark.parametrize(
    ("shape", "wanted", "found"), [((1, 28, 28), 1, 1), ((1, 7, 7), 1, 0), ((3, 8, 12), 5, 2), ((1, 4, 4), 0, 0)]
)
def test_means_are_of_images_halved_as_often_as_can_be(shape, wanted, found):
    assert room.halvings(shape, wanted) == found


@pytest.mark.parametrize(
    ("privacy", "own", "message"),
    [
        (PrivacyConfig(noise_source="secure"), {}, r"class means of generator=dp_feta would be drawn again"),
        (None, {"conditioning": "text"}, r"generator\.conditioning=text has no classes"),
        (None, {"mean_share": 0.0}, r"mean_share=0\.0 must be above 0"),
        (PrivacyConfig(mean_share=0.2), {}, r"privacy\.mean_share=0\.2 is not read"),
        (PrivacyConfig(epsilon=0.0), {}, r"learns nothing from public images"),
    ],
)
def test_what_it_cannot_do_is_refused(privacy, own, message):
    with pytest.raises(UserError, match=message):
        checks.check(trial(privacy, **own))
