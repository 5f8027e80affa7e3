"""The private step below float32, and with several rows of a record at once: what the clip still bounds."""

import math

import pytest
import torch
from test_bookkeeping import (
    CLASSES,
    LAYERS,
    build,
    cross_entropy,
    looped,
    make_config,
    make_model,
    make_records,
    norms_of,
    squared,
    summed,
)
from torch import nn
from torch.nn import functional as F

from wavedp import chain, registry
from wavedp.config import DataConfig, DiffusionConfig, PrivacyConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators.blur_diffusion import model as blur_diffusion
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.denoising import draws_of
from wavedp.generators.spectral_ar import model as spectral_ar
from wavedp.generators.spectral_ar.transformer import SpectralTransformer
from wavedp.privacy import bookkeeping, layer_rules
from wavedp.privacy.clipping import RecordGradients, SideBySide, filled, trainable
from wavedp.privacy.products import product, weighted_product
from wavedp.privacy.training import fit_private
from wavedp.tokenizers.scalar.model import ScalarTokenizer

LOW = ["tf32", "bfloat16"]
MODES = ["hooks", "bookkeeping"]


def clipped_sum(model, loss_fn, batch, max_grad_norm, mode="bookkeeping", precision="float32", size=None):
    gradients = RecordGradients(model, max_grad_norm, mode, precision=precision)
    try:
        return gradients.clipped_sum(loss_fn, batch, size)
    finally:
        gradients.close()


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.fixture(params=["direct", "gram", "windows"])
def way(request, monkeypatch):
    """How weights are split; windows as on CUDA."""
    monkeypatch.setattr(layer_rules, "_gram_pays", lambda *sizes: request.param == "gram")
    monkeypatch.setattr(layer_rules, "_windows_pay", lambda device: request.param == "windows")


def of_copies(copies):
    """A loss that sees every record `copies` times, changed each time, one after the other or side by side."""

    def changed(x):
        return [x * (1 + 0.5 * k) + 0.1 * k for k in range(copies)]

    def apart(model, x):
        return sum(squared(model, each) for each in changed(x)) / copies

    def together(model, x):
        rows = torch.stack(changed(x), 1).flatten(0, 1)
        return squared(model, rows).view(len(x), copies).mean(1)

    return apart, SideBySide(together, copies)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LAYERS)
def test_rows_side_by_side_are_one_record(kind, mode, way):
    layer, x = build(kind)
    apart, together = of_copies(3)
    rows = looped(layer, apart, (x,))
    norms = norms_of(rows)
    bound = float(norms.median())
    expected = flat(summed(rows, (bound / norms).clamp(max=1).tolist()))
    ours = flat(clipped_sum(layer, together, (x,), bound, mode))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_rows_in_a_wrong_order_are_refused(mode):
    """Copy after copy in place of record after record: rows of two records would be clipped as one."""
    apart = of_copies(3)[0]

    def wrong(model, x):
        rows = torch.cat([x * (1 + 0.5 * k) + 0.1 * k for k in range(3)])
        return squared(model, rows).view(3, len(x)).mean(0)

    layer, x = build("linear 4-d")
    assert len(looped(layer, apart, (x,))) == 3
    with pytest.raises(UserError, match="is not what autograd finds for the record alone"):
        clipped_sum(layer, SideBySide(wrong, 3), (x,), 1.0, mode)


def test_ghost_knows_one_row_of_a_record():
    layer, x = build("linear")
    with pytest.raises(UserError, match="no gradient for each of 3 records"):
        clipped_sum(layer, of_copies(2)[1], (x,), 1.0, "ghost")


def test_a_condition_of_one_row_beside_noises_of_many():
    """As in a diffusion model that embeds a record's class once."""

    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(CLASSES, 4), nn.Linear(4, 4)

        def forward(self, x, labels, copies):
            return self.layer(x + self.table(labels).repeat_interleave(copies, 0))

    def loss(copies):
        def loss_fn(model, x, labels):
            rows = torch.stack([x * (1 + k) for k in range(copies)], 1).flatten(0, 1)
            return model(rows, labels, copies).square().view(len(x), -1).sum(1)

        return SideBySide(loss_fn, copies)

    torch.manual_seed(0)
    model, batch = Conditioned(), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    rows = looped(model, loss(2), batch)
    expected = flat(summed(rows, (1 / norms_of(rows)).clamp(max=1).tolist()))
    torch.testing.assert_close(flat(clipped_sum(model, loss(2), batch, 1.0)), expected, rtol=1e-4, atol=1e-5)


def transformer(**tokens):
    tokenizer = ScalarTokenizer(configure("tokenizer", "scalar", **tokens), (1, 8, 8))
    torch.manual_seed(0)
    model = SpectralTransformer(tokenizer, ClassCondition(CLASSES, 32), 32, 2, 2)
    loss = spectral_ar.record_loss(tokenizer, PrivacyConfig(), 0.0)
    return model, loss, (torch.rand(8, 1, 8, 8), torch.randint(CLASSES, (8,)))


def unet(side_by_side=False, views=1, multiplicity=2):
    config = DiffusionConfig(timesteps=20, multiplicity=multiplicity)
    shape = (1, 8, 8)
    torch.manual_seed(0)
    model = blur_diffusion.Denoiser(shape, ClassCondition(CLASSES, 4 * config.channels), config).train()
    for parameter in model.parameters():  # its last convolution and biases start near zero
        with torch.no_grad():
            parameter += 0.05 * torch.randn_like(parameter)
    process = blur_diffusion.forward_process(config, "log")
    loss = blur_diffusion.record_loss(process, config, 0.0, views, multiplicity, side_by_side)
    draws = draws_of(shape, views, multiplicity)
    return model, loss, (torch.rand(4, *shape), torch.randint(CLASSES, (4,)), torch.rand(4, draws))


def digits():
    """The transformer over codes of three digits."""
    return transformer(detail_bins=9, companding=8.0, detail_digits="apart", coarsest=4)


REAL = {"transformer": transformer, "digits": digits, "unet": unet}


@pytest.mark.parametrize("mode", MODES)
def test_the_unet_is_fitted_with_all_noises_and_views_at_once(mode):
    model, apart, batch = unet(views=2)
    together = unet(side_by_side=True, views=2)[1]
    assert together.copies == 4
    torch.testing.assert_close(together(model, *batch), apart(model, *batch), rtol=1e-5, atol=1e-6)
    expected = flat(clipped_sum(model, apart, batch, 0.05, "bookkeeping"))
    ours = flat(clipped_sum(model, together, batch, 0.05, mode))
    assert float((ours - expected).norm()) < 1e-4 * float(expected.norm())


def test_the_transformer_is_fitted_with_all_views_at_once():
    model, _, batch = transformer()
    tokenizer = ScalarTokenizer(configure("tokenizer", "scalar"), (1, 8, 8))
    losses = [spectral_ar.record_loss(tokenizer, PrivacyConfig(views=3), 0.1, at_once) for at_once in (False, True)]
    batch = (*batch, torch.rand(8, 3))
    apart, together = (flat(clipped_sum(model, loss, batch, 0.5)) for loss in losses)
    assert float((together - apart).norm()) < 1e-4 * float(apart.norm())


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LAYERS)
def test_each_layer_is_near_float32(kind, mode, precision, way):
    layer, x = build(kind)
    exact = flat(clipped_sum(layer, squared, (x,), 1.0, mode))
    ours = flat(clipped_sum(layer, squared, (x,), 1.0, mode, precision))
    assert ours.dtype == torch.float32
    assert float((ours - exact).norm()) < (0.03 if precision == "bfloat16" else 1e-6) * float(exact.norm())
    if precision == "bfloat16" and "norm" not in kind:  # which autocast leaves in float32
        assert not torch.equal(ours, exact)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REAL)
def test_no_record_adds_more_than_the_bound(name, mode, precision):
    """The rounded gradient is clipped, not a rounding of the clipped gradient: bfloat16 would be 4e-3 off."""
    model, loss, batch = REAL[name]()
    bound = 0.01
    for row in range(3):
        one = [tensor[row : row + 1] for tensor in batch]
        length = float(flat(clipped_sum(model, loss, one, bound, mode, precision)).double().norm())
        assert length == pytest.approx(bound, rel=3e-4)  # the guard of 1e-6 shortens it by 1e-4
        assert length <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", REAL)
def test_the_sum_below_float32_is_near_it(name):
    model, loss, batch = REAL[name]()
    exact, ours = (flat(clipped_sum(model, loss, batch, 0.1, precision=kind)) for kind in ("float32", "bfloat16"))
    assert 0 < float((ours - exact).norm()) < 0.05 * float(exact.norm())


@pytest.mark.parametrize("name", REAL)
def test_a_record_is_the_same_to_the_bit_beside_any_others(name):
    """Otherwise one record would change what the others add, by more than its own clip bounds."""
    model, loss, batch = REAL[name]()
    gradients = RecordGradients(model, 1.0, "bookkeeping", precision="bfloat16")
    size = 2 * len(batch[0])

    def norms(rows):
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients._norms(loss, filled([tensor[rows] for tensor in batch], size))
        gradients.splitter.forget()
        return found

    everyone = norms(torch.arange(len(batch[0])))
    for rows in (torch.tensor([2]), torch.tensor([3, 2, 0]), torch.tensor([1, 2])):
        found = norms(rows)
        for place, row in enumerate(rows.tolist()):
            assert torch.equal(found[:, place], everyone[:, row])
    gradients.close()


@pytest.mark.parametrize("precision", ["float32", *LOW])
@pytest.mark.parametrize("mode", MODES)
def test_records_that_fill_a_microbatch_add_nothing(mode, precision):
    model, batch = make_model(), make_records(5)
    alone = clipped_sum(model, cross_entropy, batch, 0.5, mode, precision)
    in_a_large_one = clipped_sum(model, cross_entropy, batch, 0.5, mode, precision, size=16)
    torch.testing.assert_close(in_a_large_one, alone, rtol=1e-5, atol=1e-6)


def test_filled_repeats_the_first_record():
    codes, labels = make_records(3)
    filled_codes, filled_labels = filled((codes, labels), 5)
    assert torch.equal(filled_codes, codes[[0, 1, 2, 0, 0]])
    assert torch.equal(filled_labels, labels[[0, 1, 2, 0, 0]])
    assert filled((codes,), None) == filled((codes,), 2) == [codes]


def test_records_that_mix_are_seen_below_float32_too():
    def mixing(model, codes, labels):
        logits = model(codes, labels)
        return (logits * logits.roll(1, 0)).mean((1, 2))

    for precision in LOW:
        with pytest.raises(UserError, match="let no operation mix records"):
            clipped_sum(make_model(), mixing, make_records(4), 1.0, precision=precision)


def trial_of(**privacy):
    """On images that need no file."""
    data, public = (
        DataConfig(name="procedural", size=16, split=split, n_records=128) for split in ("official", "public")
    )
    return TrialConfig(data=data, public=public, privacy=PrivacyConfig(batch_size=16, **privacy))


@pytest.mark.parametrize("precision", LOW)
def test_ghost_is_refused(precision):
    with pytest.raises(UserError, match="ghost"):
        RecordGradients(make_model(), 1.0, "ghost", precision=precision)
    trial = trial_of(grad_sample_mode="ghost", precision=precision)
    with pytest.raises(UserError, match=f"privacy.precision={precision} would round"):
        registry.find("generator", "spectral_ar").check(trial)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_a_fit_below_float32_ends_near_one_in_float32(noise):
    ends = []
    for precision in ("float32", "bfloat16"):
        epsilon = math.inf if noise == 0 else 1e6
        # Every record joins every batch: another release draws another one.
        config = make_config("bookkeeping", max_grad_norm=3.0, precision=precision, epsilon=epsilon, batch_size=40)
        ends.append(fit_private(make_model(), cross_entropy, make_records(40), config, noise_multiplier=noise, seed=3))
    start = flat(make_model().state_dict().values())
    exact, ours = (flat(fit.ema[name] for name in make_model().state_dict()) for fit in ends)
    assert ends[0].release != ends[1].release  # other weights, other noise
    if noise == 0:
        assert float((ours - exact).norm()) < 0.1 * float((exact - start).norm())


def test_precision_is_a_result_and_its_default_moves_no_key():
    before, after = (chain.keys(trial_of(precision=p)) for p in ("float32", "bfloat16"))
    assert before == chain.keys(trial_of())
    assert {name for name in before if before[name] != after[name]} == {
        "private_fit", "coarse_samples", "upscale", "evaluate",
    }  # fmt: skip


def test_products_of_bfloat16_are_those_of_float32_copies():
    torch.manual_seed(0)
    a, b = (torch.randn(3, 5, 5).bfloat16() for _ in range(2))
    assert product(a, b).dtype == torch.float32
    assert torch.equal(product(a, b), a.float() @ b.float())
    f = torch.rand(3)
    expected = torch.einsum("n,ntp,ntd->pd", f, a.float(), b.float())
    torch.testing.assert_close(weighted_product(f, a, b), expected, rtol=1e-6, atol=1e-6)


def test_norms_and_sums_are_of_the_same_rounded_parts(monkeypatch):
    """Taken out: norms of float32 inputs and sums of rounded ones."""
    layer, x = build("linear 4-d")
    seen = []
    rule = layer_rules.RULES[nn.Linear]

    def watched(layer, inputs, gradients):
        seen.append((inputs[0].dtype, gradients[0].dtype))
        return rule(layer, inputs, gradients)

    monkeypatch.setitem(bookkeeping.RULES, nn.Linear, watched)
    clipped_sum(layer, squared, (x,), 1.0, precision="bfloat16")
    assert seen[-1][1] == torch.bfloat16
    assert F.linear(x, layer.weight).dtype == torch.float32  # autocast is off again
    assert len(trainable(layer)) == 2
