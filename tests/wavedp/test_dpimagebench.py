"""DPImageBench's downstream protocol: its networks, its split, and nothing chosen on the test set."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from wavedp import metrics
from wavedp.config import MetricsConfig, TrialConfig
from wavedp.errors import UserError
from wavedp.metrics import Given, dpimagebench, features, network_file, suite
from wavedp.metrics.classifiers import resnet, resnext, wide_resnet
from wavedp.metrics.dpimagebench import PROTOCOLS, Protocol, accuracies


def bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images with a bright left or right half, 12×12, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 120, (count, 1, 12, 12), generator=generator, dtype=torch.uint8)
    images[labels == 0, :, :, :6] += 100
    images[labels == 1, :, :, 6:] += 100
    return images, labels


TINY = dataclasses.replace(PROTOCOLS["light"], epochs=2, step=1, batch=16)


@pytest.mark.parametrize(
    ("network", "published"),
    [
        (resnet(3, 10), 1.7e6),  # He et al., table 6: ResNet-110
        (wide_resnet(3, 10), 8.9e6),  # Zagoruyko & Komodakis, table 4: WRN-40-4
        (resnext(3, 10), 34.4e6),  # Xie et al., table 7: ResNeXt-29, 8×64d
        (wide_resnet(3, 10, depth=28, widen=10), 36.5e6),  # Zagoruyko & Komodakis, table 4: WRN-28-10
        (resnet(3, 10, depth=20), 0.27e6),  # He et al., table 6: ResNet-20
    ],
)
def test_networks_have_the_published_number_of_parameters(network, published):
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(published, rel=0.025)


@pytest.mark.parametrize("build", [resnet, wide_resnet, resnext])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_networks_halve_twice_and_keep_images_apart(build, channels, size):
    network = build(channels, 7).eval().double()  # an unlucky draw of its weights multiplies rounding
    images = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0)).double()
    sides = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, given, made: sides.append(made.shape[-1]))
    with torch.inference_mode():
        logits = network(images)
        torch.testing.assert_close(network(images[1:2])[0], logits[1], atol=1e-7, rtol=1e-7)
    assert logits.shape == (3, 7)
    assert sorted(set(sides)) == [size // 4, size // 2, size]


def test_all_three_learn_what_the_labels_say():
    images, labels = bars(240, seed=0)
    found = accuracies(images, labels, *bars(100, seed=1), TINY, seed=0)
    assert list(found) == ["resnet8", "wrn10-1", "resnext11"]
    assert all(accuracy.test > 0.9 for accuracy in found.values())
    turned = accuracies(images, 1 - labels, *bars(100, seed=1), TINY, seed=0)
    assert all(accuracy.test < 0.1 for accuracy in turned.values())


def test_the_epoch_is_chosen_on_generated_images_and_not_on_real_ones():
    images, labels = bars(240, seed=0)
    test_images, test_labels = bars(100, seed=1)
    found = accuracies(images, labels, test_images, test_labels, TINY, seed=0)
    turned = accuracies(images, labels, test_images, 1 - test_labels, TINY, seed=0)
    for name, accuracy in found.items():
        assert (accuracy.epoch, accuracy.validation) == (turned[name].epoch, turned[name].validation)
        assert turned[name].test == pytest.approx(1 - accuracy.test)


def test_one_in_twelve_is_kept_back_and_never_learned_from(monkeypatch):
    images, labels = bars(240, seed=0)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(240) % 240, 0
    seen: dict[str, set[int]] = {"train": set(), "validation": set()}

    class Watching(nn.Module):
        def __init__(self, channels, classes):
            super().__init__()
            self.layer = nn.Linear(144, classes)

        def forward(self, x):
            numbers = ((x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
            seen["train" if self.training else "validation"].update(numbers)
            return self.layer(x.flatten(1))

    protocol = Protocol({"watching": Watching}, epochs=2, step=1, batch=16)
    test_images, test_labels = bars(4, seed=1)
    test_images[:, 0, 0, 0] = 0
    accuracies(images, labels, test_images, test_labels, protocol, seed=0)
    assert len(seen["train"]) == 220
    assert len(seen["validation"] - {0}) in (19, 20)
    assert not seen["train"] & (seen["validation"] - {0})


def test_accuracy_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    images, labels = bars(48, seed=0)
    labels = labels[torch.randperm(48, generator=torch.Generator().manual_seed(1))]
    state = torch.get_rng_state()
    first, again, other = (accuracies(images, labels, *bars(60, 1), TINY, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first == again
    assert first != other


def test_larger_images_leave_out_resnext_and_epochs_are_reported():
    images, labels = bars(24, seed=0)
    large = images.repeat(1, 3, 3, 3)
    told = []
    found = accuracies(
        large, labels, large, labels, TINY, seed=0, report=lambda done, total: told.append((done, total))
    )
    assert list(found) == ["resnet8", "wrn10-1"]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_published_protocol_is_what_its_code_says():
    published = dpimagebench.PROTOCOLS["dpimagebench"]
    assert (published.epochs, published.step, published.batch) == (50, 20, 256)
    assert (published.learning_rate, published.decay) == (0.01, 0.9999)
    assert list(published.networks) == ["resnet110", "wrn40-4", "resnext29"]


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match=r"^20 images are too few"):
        accuracies(*bars(20, 0), *bars(4, 1), TINY, seed=0)


def test_the_suite_reports_the_mean_and_each_classifier_tested_on_the_test_split(monkeypatch):
    """Beside an FID against the train split; none of the three is picked."""
    monkeypatch.setitem(dpimagebench.PROTOCOLS, "light", TINY)
    monkeypatch.setattr(
        features, "extract", lambda images, *_: torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
    )
    monkeypatch.setattr(network_file, "find_network", lambda path: None)
    config = MetricsConfig(
        fid_samples=20, reference_split="train", reference_samples=None, kid=False, floor=False, downstream="light"
    )
    generated, train, test = bars(60, 0), bars(50, 1), bars(40, 2)
    real, counts = {"train": train, "test": test}.__getitem__, {"train": 50, "test": 40}.__getitem__
    reference = suite.make_reference(real, config)
    assert list(reference) == ["features"]
    assert len(reference["features"]) == 50
    seen: list[tuple[int, int]] = []
    values = suite.evaluate(
        *generated, reference, real, counts, config, 3, report=lambda *progress: seen.append(progress)
    )
    alone = accuracies(*generated, *test, TINY, 3)
    assert values["acc_light_60_test"] == pytest.approx(sum(one.test for one in alone.values()) / 3)
    for name, one in alone.items():
        assert values[f"acc_light-{name}_60_test"] == one.test
    sets = Given(config, counts, 60).sets
    chosen = metrics.chosen(config)
    assert set(values) == {full for metric, own in chosen for full in metric.names(own, sets).values()}
    assert seen[-1] == (20 + 3 * TINY.epochs, 20 + 3 * TINY.epochs)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    trial = TrialConfig(metrics=config)
    assert [split for _, split in metrics.evaluation_data(trial)] == ["train", "test"]
    assert metrics.looks(config) == [
        ("evaluation on the train split (FID and KID statistics, downstream test on the test split)", "train")
    ]
    other_steps = dataclasses.replace(config, downstream_steps=7)
    assert metrics.content(config) == metrics.content(other_steps), "no CNN, no steps of one"
