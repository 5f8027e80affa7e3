"""Memory that does not suffice halves the microbatch and nothing else: each record once, with its own draws."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from test_training import MODES, Killed, assert_close, loss_fn, make_config, make_model, make_records

from wavedp.config import PrivacyConfig, from_dict
from wavedp.errors import UserError
from wavedp.privacy import accounting
from wavedp.privacy.microbatches import Microbatches, first_size, ran_out
from wavedp.privacy.training import fit_private

OPTIONS = {"seed": 3, "draws": 2}
CPU = torch.device("cpu")


class FullBackward(torch.autograd.Function):
    """The identity, whose backward pass needs more memory than there is."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        raise torch.OutOfMemoryError("backward")


def loss_with_room_for(most, seen=None, backward=False):
    """A loss that draws from torch's generator and gets draws, and whose memory holds `most` records."""

    def loss(model, codes, labels, draws):
        full = len(codes) > most
        if full and not backward:
            raise torch.OutOfMemoryError("forward")
        losses = loss_fn(model, codes, labels) * (1 + draws.sum(1)) * (torch.rand(len(codes)) < 0.5)
        if full:
            return FullBackward.apply(losses)
        if seen is not None:
            seen.append(torch.cat([codes, draws], 1))
        return losses

    return loss


def fit(loss, config, noise_multiplier=0.7):
    return fit_private(make_model(), loss, make_records(), config, noise_multiplier=noise_multiplier, **OPTIONS)


@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize("backward", [False, True])
def test_a_microbatch_that_does_not_fit_is_cut_in_two(mode, backward, caplog):
    """Bit-equal to a fit that began with the smaller size, global random numbers included."""
    config = make_config(grad_sample_mode=mode, microbatch_size=8)
    with caplog.at_level(logging.WARNING, "wavedp.privacy"):
        ours = fit(loss_with_room_for(2, backward=backward), config)
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"Out of memory on cpu: microbatches of {size} records from here on." for size in (4, 2)]
    small = fit(loss_with_room_for(2), replace(config, microbatch_size=2))
    assert ours.release == small.release
    assert all(torch.equal(ours.ema[name], tensor) for name, tensor in small.ema.items())


def test_without_privacy_too():
    config = make_config(epsilon=math.inf, microbatch_size=8)
    ours, small = (
        fit(loss_with_room_for(2), replace(config, microbatch_size=size), noise_multiplier=0.0) for size in (8, 2)
    )
    assert all(torch.equal(ours.ema[name], tensor) for name, tensor in small.ema.items())


def test_every_record_is_added_once_with_its_own_draws():
    """Memory falls short in the middle of a step: what was added before stays, and nothing is added twice."""

    def sum_of(batch):
        if len(batch[0]) > 2 and len(added) > 2:
            raise torch.OutOfMemoryError
        added.append(batch)
        return [batch[0].sum(0)]

    records, rows = (torch.eye(30),), torch.arange(1, 30, 2)
    chance, added = torch.rand(len(rows), 3), []
    microbatches = Microbatches(sum_of, [torch.nn.Parameter(torch.zeros(30))], records, 4, CPU)
    (total,) = microbatches.sum(rows, chance, lambda row: row)
    assert total.tolist() == [row % 2 for row in range(30)]
    assert [len(batch[0]) for batch in added] == [4, 4, 4, 2, 1]
    assert torch.equal(torch.cat([batch[1] for batch in added]), chance)
    microbatches.sum(rows, chance, lambda row: row)
    assert max(len(batch[0]) for batch in added[5:]) == 2, "a size that did not fit is not tried again"


def test_memory_that_falls_short_later_moves_the_weights_by_rounding_only():
    def steady(model, codes, labels, draws):
        return loss_fn(model, codes, labels) * (1 + draws.sum(1))

    def shrinking(model, codes, *rest):
        calls.append(len(codes))
        if len(codes) > 1 and len(calls) > 10:
            raise torch.OutOfMemoryError
        return steady(model, codes, *rest)

    calls, config = [], make_config(optimizer="sgd", grad_sample_mode="bookkeeping")
    ours, roomy = fit(shrinking, config), fit(steady, config)
    assert calls[-1] == 1
    assert_close(ours.ema.values(), roomy.ema.values())


def test_memory_that_falls_short_for_the_comparison_counts_too():
    """The comparison with each record alone says UserError for whatever fails; the cause is what counts."""
    calls = []

    def loss(model, codes, labels, draws):
        calls.append(len(codes))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("alone")
        return loss_fn(model, codes, labels)

    for mode in ("bookkeeping", "hooks"):
        calls.clear()
        assert fit(loss, make_config(grad_sample_mode=mode)).ema
        assert calls[:3] == [4, 1, 2]


def test_one_record_that_does_not_fit_is_one_sentence():
    model = make_model()
    with pytest.raises(UserError, match=r"single record does not fit in the memory of cpu: use .*grad_sample_mode"):
        fit_private(model, loss_with_room_for(0), make_records(), make_config(), noise_multiplier=0.7, **OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make_model().parameters(), strict=True))


def test_other_errors_pass():
    def broken(*batch):
        raise Killed

    with pytest.raises(Killed):
        fit(broken, make_config())
    with pytest.raises(UserError, match="one loss per record"):
        fit(lambda *batch: loss_fn(*batch[:3]).mean(), make_config())
    assert not ran_out(UserError())
    assert not ran_out(None)


def test_auto_is_a_whole_batch_on_a_gpu_and_what_it_was_on_the_cpu():
    assert first_size("auto", 4096, torch.device("cuda")) == 4096 + 3 * 64
    assert first_size("auto", 4096, CPU) == first_size(64, 4096, CPU) == PrivacyConfig().microbatch_size == 64
    assert first_size(7, 4096, torch.device("cuda")) == 7
    config = make_config(microbatch_size="auto")
    accounting.check_training(config)
    ours, plain = fit(loss_with_room_for(99), config), fit(loss_with_room_for(99), make_config(microbatch_size=64))
    assert all(torch.equal(ours.ema[name], tensor) for name, tensor in plain.ema.items())


def test_the_setting_is_a_number_or_auto():
    for value in ("auto", 5):
        assert from_dict(PrivacyConfig, {"microbatch_size": value}).microbatch_size == value
    for value, words in [
        ("big", "microbatch_size='big' is not offered: use auto, or give a number"),
        (0, "microbatch_size=0 must be at least 1"),
        (2.5, r"microbatch_size=2\.5 must be int, not float"),
        (None, "microbatch_size=None must be int, not NoneType"),
    ]:
        with pytest.raises(UserError, match=words):
            from_dict(PrivacyConfig, {"microbatch_size": value})
