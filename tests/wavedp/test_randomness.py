"""The secure source: as normal and as uniform as it says, unpredictable, and resumable; the seeded one is torch's."""

import pytest
import torch
from scipy import stats

from wavedp.privacy import randomness
from wavedp.privacy.randomness import SecureGenerator, normal, uniform


def test_seeded_numbers_are_torchs_own():
    mine, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    drawn = normal(torch.Size([3, 4]), torch.float32, mine)
    assert torch.equal(drawn, torch.randn(3, 4, generator=theirs))
    assert torch.equal(uniform(5, mine), torch.rand(5, generator=theirs, dtype=torch.float64))


def test_secure_numbers_have_the_stated_distributions():
    generator = SecureGenerator()
    noise, chance = normal(torch.Size([200_000]), torch.float64, generator), uniform(200_000, generator)
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4
    assert stats.kstest(chance.numpy(), "uniform").pvalue > 1e-4
    assert abs(float(torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1])) < 0.01  # five standard errors
    assert 0 <= float(chance.min()) <= float(chance.max()) < 1
    assert normal(torch.Size([2, 3]), torch.float32, generator).dtype == torch.float32


def test_extreme_words_are_finite_numbers(monkeypatch):
    for word in (0, 2**52 - 1):
        monkeypatch.setattr(
            SecureGenerator, "words", lambda self, count, word=word: torch.full((count,), word).double()
        )
        drawn = normal(torch.Size([2]), torch.float64, SecureGenerator())
        assert drawn.isfinite().all()
        assert 16 < float(drawn[0].abs()) < 16.5  # four of 8.1, over two
        assert 0 <= float(uniform(1, SecureGenerator())) < 1


@pytest.mark.parametrize("count", [1, 1000, 2500])
def test_no_number_comes_twice(count, monkeypatch):
    monkeypatch.setattr(randomness, "_BLOCK", 1000)
    generator = SecureGenerator()
    first, second = normal(torch.Size([count]), torch.float64, generator), uniform(count, generator)
    assert first.shape == second.shape == (count,)
    assert len(first.unique()) == len(second.unique()) == count
    assert not torch.equal(first, normal(torch.Size([count]), torch.float64, generator))


def test_state_goes_on_where_it_was_and_two_sources_differ():
    one, other = SecureGenerator(), SecureGenerator()
    assert one.name() != other.name()
    uniform(10, one)
    other.set_state(one.get_state())
    assert other.name() == one.name()
    assert torch.equal(uniform(10, one), uniform(10, other))
    assert one.name().encode() not in bytes(one.get_state().tolist())
