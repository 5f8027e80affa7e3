"""`feta_pro`: three mechanisms in one budget, what a record can change, and warm-ups that see no record."""

import dataclasses
import math

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation

from wavedp import chain, checks
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, TrialConfig, configure
from wavedp.errors import InfeasibleError, UserError
from wavedp.generators import FitSettings
from wavedp.generators.denoising import DenoisingModel
from wavedp.generators.dp_feta import model as means_room
from wavedp.generators.dp_feta.model import DPFETAModel
from wavedp.generators.feta_pro.model import FETAProModel
from wavedp.privacy import accounting, one_release, statistics
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.testing.generators import GeneratorSuite

SHAPE, DELTA, EPSILON, FEATURES = (1, 8, 8), 1e-4, 2.0, 40
SMALL = {
    "channels": 16, "layers": 1, "halvings": 0, "attention_side": 0, "multiplicity": 1,
    "warm_up_steps": 2, "warm_up_batch": 4, "warm_up_learning_rate": 2e-3,
    "embedding_features": FEATURES, "embedding_channels": 8, "embedding_train_steps": 2, "embedding_train_batch": 20,
    "embedding_images": 25, "embedding_warm_up_steps": 2, "embedding_warm_up_batch": 4,
}  # fmt: skip
MEANS = {name: value for name, value in SMALL.items() if not name.startswith("embedding_")}
STRICT = PrivacyConfig(epsilon=EPSILON, delta=1e-6, batch_size=16, steps=4)
BOUND = math.sqrt(1 + FEATURES**-0.5)
"""The most that one record changes the totals of mean embeddings."""


class TestFETAPro(GeneratorSuite):
    other = {"embedding_features": 20, "embedding_channels": 16}  # noqa: RUF012

    def config(self):
        return configure("generator", "feta_pro", **SMALL, mean_share=0.3, embedding_share=0.3)

    def trial(self, base):
        return dataclasses.replace(base, privacy=dataclasses.replace(base.privacy, batch_size=8, steps=2))


def model(**changes):
    return FETAProModel(configure("generator", "feta_pro", **{**SMALL, **changes}), SHAPE, 2, "cpu")


def trial(privacy=None, name="feta_pro", small=SMALL, **changes):
    images = DataConfig(name="procedural", size=16, n_records=64)
    return TrialConfig(
        data=images, public=None, level=1, upscaler="nearest", metrics=MetricsConfig(downstream_steps=0),
        privacy=privacy or PrivacyConfig(epsilon=EPSILON, delta=DELTA, batch_size=16, steps=4),
        generator=configure("generator", name, **{**small, **changes}),
    )  # fmt: skip


def records(count=30):
    generator = torch.Generator().manual_seed(4)
    return torch.rand(count, *SHAPE, generator=generator), torch.arange(count) % 2


def stop():
    raise StopIteration


def test_a_record_changes_the_totals_by_the_sensitivity_and_no_more():
    """Whatever the record is, and wherever it is left out or added."""
    images, labels = records(12)
    images[3], images[4] = 0.0, 1.0
    merf = model().merf()

    def totals(images, labels):
        return merf.totals(*one_release.checked(images, labels, 2), merf.public())

    whole = totals(images, labels)
    kept = [torch.arange(len(labels)) != left for left in range(len(labels))]
    changed = [float((whole - totals(images[rows], labels[rows])).norm()) for rows in kept]
    for worst in (torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE), (torch.rand(1, *SHAPE) > 0.5).float()):
        added = totals(torch.cat([images, worst]), torch.cat([labels, torch.ones(1, dtype=torch.long)]))
        changed.append(float((added - whole).norm()))
    assert changed == pytest.approx([BOUND] * 15, rel=1e-5)
    with pytest.raises(UserError, match=r"out of \[0, 1\]"):
        totals(3 * images, labels)


def noise_of_embeddings(monkeypatch, share=0.5, count=8):
    """The noise in the released totals, in sensitivities, over fits of different seeds; and the plan's."""
    images, labels = records()
    planned = chain.mechanisms(trial(embedding_share=share))
    made, found = model(), []
    merf = made.merf()
    exact = merf.totals(*one_release.checked(images, labels, 2), merf.public())
    with monkeypatch.context() as patch:
        patch.setattr(DPFETAModel, "warmed_up", lambda self, network, means, seed: network.state_dict())
        patch.setattr(
            FETAProModel, "warmed_up_again", lambda self, network, given, seed: found.append(given["sums"]) or stop()
        )
        for seed in range(count):
            with pytest.raises(StopIteration):
                made.fit_private({}, images, labels, FitSettings(trial().privacy, planned, seed, None), silent)
    return (torch.stack(found) - exact) / BOUND, planned["mean_embedding"].noise_multiplier


def test_the_embedding_gets_the_planned_noise_and_half_of_it_is_noticed(monkeypatch):
    found, planned = noise_of_embeddings(monkeypatch)
    assert float(found.std()) == pytest.approx(planned, rel=0.1)
    exact = one_release.noisy_mean
    monkeypatch.setattr(one_release, "noisy_mean", lambda sums, sigma, *rest: exact(sums, sigma / 2, *rest))
    found, planned = noise_of_embeddings(monkeypatch)
    assert float(found.std()) != pytest.approx(planned, rel=0.1)


def test_the_two_releases_have_noise_of_their_own(monkeypatch):
    drawn = []
    for place in (statistics, one_release):

        def watched(sums, sigma, norm, batch, noise, exact=place.noisy_mean):
            noisy = exact(sums, sigma, norm, batch, noise)
            drawn.append(((noisy[0] - sums[0]) / (sigma * norm)).flatten())
            return noisy

        monkeypatch.setattr(place, "noisy_mean", watched)
    (images, labels), planned = records(), chain.mechanisms(trial())
    monkeypatch.setattr(DenoisingModel, "fit_records", lambda *rest: stop())
    with pytest.raises(StopIteration):
        model().fit_private({}, images, labels, FitSettings(trial().privacy, planned, 1, None), silent)
    means, embedding = drawn
    assert not any(math.isclose(one, other) for one in means.tolist() for other in embedding.tolist())


def spent(*events):
    accountant = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in events:
        accountant.compose(event)
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("shares", [(0.05, 0.1), (0.5, 0.4)])
def test_all_three_together_stay_within_the_budget_by_dp_accounting(shares):
    planned = chain.mechanisms(trial(mean_share=shares[0], embedding_share=shares[1]))
    assert list(planned) == ["class_means", "mean_embedding", "private_fit"]
    means, embedding, fit = planned.values()
    assert [(item.sample_rate, item.steps) for item in planned.values()] == [(1, 1), (1, 1), (0.25, 4)]
    one, other = (dp_event.GaussianDpEvent(item.noise_multiplier) for item in (means, embedding))
    step = dp_event.PoissonSampledDpEvent(fit.sample_rate, dp_event.GaussianDpEvent(fit.noise_multiplier))
    assert [spent(one), spent(other)] == pytest.approx([share * EPSILON for share in shares], rel=0.02)
    everything = spent(one, other, dp_event.SelfComposedDpEvent(step, fit.steps))
    assert 0.98 * EPSILON < everything <= EPSILON * (1 + 1e-3)


def test_a_share_for_the_upscaler_is_within_the_same_budget():
    upscaler = configure("upscaler", "wavelet_detail", epsilon_share=0.3, fit_batch=8, fit_steps=2)
    asked = dataclasses.replace(trial(), public=DataConfig(name="procedural", size=16, n_records=64), upscaler=upscaler)
    planned = [item for stage in ("private_fit", "upscaler_fit") for item in chain.mechanisms(asked, stage).values()]
    assert len(planned) == 4
    assert accounting.compose(planned, DELTA) <= EPSILON


@pytest.mark.parametrize("left_out", ["class_means", "mean_embedding"])
def test_a_fit_that_forgets_a_release_is_refused(tmp_path, left_out):
    """DP-SGD is told of both, so that the noise of a fit without one of them is too little for it."""
    images, labels = records(64)
    shares = {"mean_share": 0.5, "embedding_share": 0.5}
    whole = chain.mechanisms(trial(**shares))
    kept = [item for purpose, item in whole.items() if purpose not in (left_out, "private_fit")]
    less = accounting.calibrate(EPSILON, DELTA, 0.25, 4, tuple(kept))
    assert less < whole["private_fit"].noise_multiplier
    fit = FitSettings(trial().privacy, {**whole, "private_fit": Mechanism(0.25, less, 4)}, 1, tmp_path / "c")
    with pytest.raises(UserError, match=r"more than privacy\.epsilon=2"):
        model(**shares).fit_private({}, images, labels, fit, silent)


def test_what_is_alongside_takes_its_part_and_nothing_moves_without_it():
    config = PrivacyConfig(epsilon=EPSILON, delta=DELTA, batch_size=16, steps=4, mean_share=0.2)
    beside = (Mechanism(1, 5.0, 1),)
    means, fit = accounting.mechanisms(config, 64)
    again, less = accounting.mechanisms(config, 64, beside)
    assert again == means
    assert less.noise_multiplier > fit.noise_multiplier
    assert accounting.compose([means, *beside, less], DELTA) <= EPSILON
    with pytest.raises(InfeasibleError, match="leaves nothing for 4 steps"):
        accounting.mechanisms(config, 64, (Mechanism(1, 0.5, 1),))
    assert accounting.mechanisms(dataclasses.replace(config, epsilon=math.inf), 64, beside)[-1].noise_multiplier == 0


def starts(monkeypatch, images, made):
    """The weights that DP training begins with, of a fit to these images."""
    found = []
    monkeypatch.setattr(
        DenoisingModel, "fit_records", lambda self, network, *rest: found.append(network.state_dict()) or stop()
    )
    planned = dict.fromkeys(["class_means", "mean_embedding"], Mechanism(1, 1.0, 1))
    with pytest.raises(StopIteration):
        made.fit_private(
            {}, images, torch.arange(len(images)) % 2, FitSettings(trial().privacy, planned, 1, None), silent
        )
    return found[0]


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_warm_ups_see_the_releases_and_no_record(monkeypatch):
    """Other records with the same releases warm up to the same weights, and other releases to others."""
    dark, light = torch.zeros(8, *SHAPE), torch.ones(8, *SHAPE)
    monkeypatch.setattr(means_room, "class_means", lambda *released, **options: torch.full((2, 1, 4, 4), 0.5))
    assert not same(starts(monkeypatch, dark, model()), starts(monkeypatch, light, model()))
    sums = torch.rand(2, FEATURES + 1, dtype=torch.float64)
    monkeypatch.setattr(one_release, "release", lambda *totals, **options: (sums, "id"))
    first = starts(monkeypatch, dark, model())
    assert same(first, starts(monkeypatch, light, model()))
    sums = sums.flip(0)
    assert not same(first, starts(monkeypatch, light, model()))


def test_without_steps_the_second_warm_up_leaves_dp_fetas_weights(monkeypatch):
    images, _ = records()
    alone = DPFETAModel(configure("generator", "dp_feta", **MEANS), SHAPE, 2, "cpu")
    first = starts(monkeypatch, images, alone)
    assert same(first, starts(monkeypatch, images, model(embedding_warm_up_steps=0)))
    assert not same(first, starts(monkeypatch, images, model()))


def test_the_second_warm_up_shows_images_of_the_trained_generator_of_all_classes_alike(monkeypatch):
    """Of embeddings of dark images for one class and of bright ones for the other."""
    made = model(embedding_features=2000, embedding_train_steps=150, embedding_train_batch=40, embedding_images=101)
    merf, seen = made.merf(), []
    images = torch.cat([torch.full((50, *SHAPE), 0.1), torch.full((50, *SHAPE), 0.9)])
    sums = merf.totals(*one_release.checked(images, torch.arange(100) // 50, 2), merf.public())
    monkeypatch.setattr(FETAProModel, "warm_up", lambda self, network, *rest: seen.append(rest) or {})
    made.warmed_up_again(made.first_network(), {"sums": sums, **merf.public()}, seed=1)
    shown, labels, steps, batch, _ = seen[0]
    assert (steps, batch) == (2, 4)
    assert torch.bincount(labels).tolist() == [51, 50]
    drawn = shown(torch.arange(101))
    assert drawn.shape == (101, *SHAPE)
    assert float(drawn[labels == 0].mean()) < 0.3 < 0.7 < float(drawn[labels == 1].mean())


def test_a_warm_up_learns_which_image_is_of_which_class():
    made = model(condition_dropout=0.0)
    images, labels = torch.cat([torch.full((4, *SHAPE), 0.1), torch.full((4, *SHAPE), 0.9)]), torch.arange(8) // 4
    weights = made.warm_up(made.first_network(), images.__getitem__, labels, steps=60, batch=16, seed=0)
    before, _ = made.log_likelihoods(made.first_network().state_dict(), images, labels)
    own, _ = made.log_likelihoods(weights, images, labels)
    swapped, _ = made.log_likelihoods(weights, images, 1 - labels)
    assert (own > before).all()
    assert own.mean() > swapped.mean()


@pytest.mark.parametrize(
    ("privacy", "own", "message"),
    [
        (PrivacyConfig(noise_source="secure"), {}, r"class means of generator=feta_pro would be drawn again"),
        (None, {"conditioning": "text"}, r"generator=feta_pro begins with class means"),
        (PrivacyConfig(epsilon=0.0), {}, r"generator=feta_pro learns nothing from public images"),
        (None, {"embedding_share": 0.0}, r"embedding_share=0\.0 must be above 0"),
        (STRICT, {"embedding_share": 1e-6}, r"embedding_share=1e-06 gives the mean embedding epsilon=2e-06.*raise"),
        (STRICT, {"mean_share": 1e-6}, r"mean_share=1e-06 gives the class means epsilon=2e-06.*raise"),
        (None, {"mean_share": 0.9, "embedding_share": 0.9}, r"alongside spends epsilon=.* leaves nothing for 4 steps"),
        (None, {"embedding_features": 41}, r"generator\.embedding_features=41 are cosines and sines in pairs"),
        (None, {"embedding_channels": 12}, r"generator\.embedding_channels=12 has no groups of equal size"),
        (None, {"embedding_train_batch": 7}, r"generator\.embedding_train_batch=7 has less than two images for each"),
        (None, {"channels": 24}, r"generator\.channels=24 has no groups of equal size: use a multiple of 16"),
    ],
)
def test_what_it_cannot_do_is_refused(privacy, own, message):
    with pytest.raises(UserError, match=message):
        checks.check(trial(privacy, **own))


def test_the_seed_of_the_fit_decides_the_second_warm_up():
    made, merf = model(), model().merf()
    released = {"sums": torch.rand(2, FEATURES + 1, dtype=torch.float64), **merf.public()}
    one, again, other = (made.warmed_up_again(made.first_network(), released, seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)
