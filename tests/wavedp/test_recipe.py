"""The proposal: its noise against the table of the paper's settings, its criterion against a search, its command."""

import math

import pytest

from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.privacy.recipe import Recipe, candidates, choose, main, propose, recipe


@pytest.mark.parametrize(
    ("n_records", "delta", "epsilon", "batch_size", "steps", "noise"),
    [
        (24_000, 1e-5, 1, 256, 1000, 1.48),
        (24_000, 1e-5, 10, 256, 1000, 0.556),
        (24_000, 1e-5, 1, 4096, 300, 11.1),
        (82_783, 1e-5, 1, 1024, 1000, 1.67),
        (82_783, 1e-5, 10, 8192, 300, 1.12),
    ],
)
def test_noise_of_the_paper_settings(n_records, delta, epsilon, batch_size, steps, noise):
    # Computed with dp-accounting before wavedp had a calibration: N of MM-CelebA-HQ and COCO-2014.
    found = recipe(n_records, epsilon, delta, batch_size, steps)
    assert found.noise_multiplier == pytest.approx(noise, rel=0.01)
    assert found.noise_per_step == pytest.approx(noise / batch_size, rel=0.01)


def test_candidates_divide_the_same_passes():
    found = candidates(4000, 3.0, 1e-5, 8192)
    assert [(item.batch_size, item.steps) for item in found] == [(64, 128), (128, 64), (256, 32), (512, 16)]
    noises = [item.noise_multiplier for item in found]
    assert noises == sorted(noises)  # a larger batch at equal passes needs more noise
    per_signal = [item.noise_per_signal for item in found]
    assert per_signal == sorted(per_signal, reverse=True)  # and has less of it per unit of signal
    assert candidates(10_000, 3.0, 1e-5, 200)[-1].batch_size == 128  # never more than the passes


def test_learning_rate_is_the_shipped_one_at_the_shipped_steps():
    shipped = PrivacyConfig()
    assert recipe(60_000, 10, None, shipped.batch_size, shipped.steps).learning_rate == shipped.learning_rate
    quarter = recipe(60_000, 10, None, 4 * shipped.batch_size, shipped.steps // 4)
    assert quarter.learning_rate == pytest.approx(2 * shipped.learning_rate)


def make_recipe(batch_size, steps, noise_multiplier):
    return Recipe(batch_size, steps, 3e-3, noise_multiplier, noise_multiplier / batch_size)


def test_choice_is_the_smallest_batch_near_the_least_noise_per_signal():
    # σ / (B √T): 1/2000, 1/4000 x 1.05, 1/4000, and less still in too few steps.
    found = [make_recipe(*row) for row in [(100, 400, 1.0), (200, 400, 1.05), (400, 100, 1.0), (4000, 10, 1.0)]]
    assert [item.noise_per_signal for item in found[:3]] == pytest.approx([5e-4, 2.625e-4, 2.5e-4])
    assert choose(found).batch_size == 200
    assert choose(found, fewest_steps=10).batch_size == 4000
    assert choose(found, fewest_steps=300).batch_size == 200
    with pytest.raises(UserError, match="No batch size leaves 401 steps: use at least 40100 passes"):
        choose(found, fewest_steps=401)


def test_noise_per_signal_is_what_a_simulated_fit_sees():
    """The derivation, by simulation: noise over signal after T steps is C/g σ/(B √T), whatever the learning rate."""
    import torch

    item, signal = recipe(4000, 1.0, 1e-5, 256, 32), 0.7
    noise = torch.randn(item.steps, 20_000, generator=torch.Generator().manual_seed(0)) * item.noise_per_step
    for learning_rate in (1e-3, 1.0):
        moved = learning_rate * (signal + noise).sum(0)
        ratio = float(moved.std()) / (learning_rate * item.steps * signal)
        assert ratio == pytest.approx(item.noise_per_signal / signal, rel=0.03)


def test_without_privacy_the_smallest_batch_does():
    assert propose(4000, math.inf, 1e-5, 16_384).batch_size == 64


def test_command(capsys):
    assert main(["--n-records", "4000", "--epsilon", "3", "--delta", "1e-5", "--passes", "16384"]) == 0
    out = capsys.readouterr().out
    chosen = propose(4000, 3.0, 1e-5, 16_384)
    (marked,) = [line for line in out.splitlines() if "<- proposed" in line]
    assert marked.split()[:2] == [str(chosen.batch_size), str(chosen.steps)]
    assert f"privacy.batch_size={chosen.batch_size} privacy.steps={chosen.steps}" in out
    assert "delta = 1e-05" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-records", "200", "--epsilon", "1"], "200 records"),
        (["--n-records", "4000", "--epsilon", "1", "--passes", "10"], "10 passes"),
        (["--n-records", "4000", "--epsilon", "1", "--passes", "640"], "use at least 6400 passes"),
        (["--n-records", "4000", "--epsilon", "0"], "epsilon=0"),
        (["--n-records", "4000", "--epsilon", "1", "--delta", "2"], "delta=2"),
    ],
)
def test_command_refuses_in_one_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out
