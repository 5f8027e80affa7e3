"""Every kind of layer in every grad_sample_mode: equal to each record alone, or refused in a sentence that names it."""

import pytest
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from torch import nn
from torch.nn import functional as F

from wavedp.errors import UserError
from wavedp.generators.adaptation import LowRank
from wavedp.generators.dp_llamagen_checkpoint.model import turned
from wavedp.privacy.clipping import RecordGradients, trainable

MODES = ["hooks", "ghost", "bookkeeping", "auto"]


class Via(nn.Module):
    """A layer and the way in which its model calls it."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


class Scale(nn.Module):
    """Two inputs, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, y):
        return x * self.weight + y * self.weight**2


class Tied(nn.Module):
    def __init__(self, padding_idx=None):
        super().__init__()
        self.code, self.head = nn.Embedding(5, 3, padding_idx=padding_idx), nn.Linear(3, 5, bias=False)
        self.head.weight = self.code.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.code(ids)))


class Rotary(nn.Module):
    """Queries and keys whose pairs of neighbours turn by their place, between RMS norms."""

    def __init__(self, width):
        super().__init__()
        self.before, self.after = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.register_buffer("angles", torch.arange(3.0)[:, None] * torch.logspace(0, -1, width // 2))

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).chunk(3, -1)
        turns = torch.stack([self.angles.cos(), self.angles.sin()])
        return self.after(x + self.out(F.scaled_dot_product_attention(turned(q, turns), turned(k, turns), v)))


def attention(**options):
    return Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4, **options)


def low_rank(width):
    """As a private fit adapts a layer, between layers that stay."""
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), LowRank(nn.Linear(width, width), 2), nn.Tanh())
    model[0].requires_grad_(False)
    return model


def frozen(layer, name):
    getattr(layer, name).requires_grad_(False)
    return layer


def steps(cell, x):
    h = x.new_zeros(len(x), 3)
    for t in range(x.shape[1]):
        h = cell(x[:, t], h)
    return h


def real(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def ids(*shape):
    return torch.randint(5, shape, generator=torch.Generator().manual_seed(1))


PADDED = torch.tensor([[0, 1], [2, 1], [2, 2], [3, 2]])  # 2 is padding, and record 0 has none

EXACT = {
    "linear": (lambda: nn.Linear(4, 3), real(5, 4)),
    "linear over positions": (lambda: nn.Linear(4, 3), real(5, 2, 4)),
    "linear, frozen weight": (lambda: frozen(nn.Linear(4, 3), "weight"), real(5, 4)),
    "embedding": (lambda: nn.Embedding(5, 3), ids(6, 4)),
    "embedding of one id": (lambda: nn.Embedding(5, 3), ids(6)),
    "embedding with padding": (lambda: nn.Embedding(5, 3, padding_idx=2), PADDED),
    "sparse embedding": (lambda: nn.Embedding(5, 3, sparse=True), ids(6, 4)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), real(5, 4, 7, 6)),
    "convolution, frozen bias": (lambda: frozen(nn.Conv2d(4, 6, 3), "bias"), real(5, 4, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), real(5, 4, 7, 6)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), real(5, 4, 8, 7)),
    "dilated": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 1), dilation=(2, 1)), real(5, 4, 9, 7)),
    "same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same"), real(5, 4, 7, 6)),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), real(5, 4, 7, 6)),
    "reflect 1-d": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect"), real(5, 4, 7)),
    "convolution 3-d": (lambda: nn.Conv3d(4, 6, 3, padding=1, stride=2), real(5, 4, 5, 4, 6)),
    "circular 3-d": (lambda: nn.Conv3d(4, 6, 3, padding=1, padding_mode="circular"), real(5, 4, 5, 4, 6)),
    "transposed 1-d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), real(5, 4, 7)),
    "transposed 2-d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), real(5, 4, 5, 5)),
    "transposed 3-d": (lambda: nn.ConvTranspose3d(4, 6, 2), real(5, 4, 3, 3, 3)),
    "layer norm": (lambda: nn.LayerNorm((3, 4)), real(5, 2, 3, 4)),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), real(5, 3, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), real(5, 3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), real(5, 4, 3, 3)),
}
PARTS = {  # of the published U-Nets and transformers
    "cross-attention": (lambda: Via(attention(), lambda layer, x: layer(x, x.flip(1)[:, :2, :6])), real(5, 3, 8)),
    "cross-attention with group norm": (
        lambda: Via(attention(norm_num_groups=2), lambda layer, x: layer(x, x[:, :2, :6])), real(5, 3, 8)
    ),
    "gated feed-forward": (lambda: FeedForward(8, mult=2, activation_fn="geglu"), real(5, 3, 8)),
    "rotary attention": (lambda: Rotary(8), real(5, 3, 8)),
    "low-rank updates": (lambda: low_rank(8), real(5, 3, 8)),
}  # fmt: skip
WITHOUT_RULE = {  # in bookkeeping
    "diffusers' rms norm": (lambda: RMSNorm(4, eps=1e-5), real(5, 3, 4)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), real(5, 4, 3, 3)),
    "prelu": (lambda: nn.PReLU(4), real(5, 4, 3)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), real(5, 4)),
}
SEVERAL_CALLS = {  # ghost knows one call of a parameter
    "two calls": (lambda: Via(nn.Linear(4, 4), lambda layer, x: layer(torch.tanh(layer(x)))), real(5, 4)),
    "tied": (Tied, ids(6, 4)),
    "tied, with padding": (lambda: Tied(2), PADDED),
}
REFUSED = {
    "bag": (lambda: Via(nn.EmbeddingBag(5, 3), lambda layer, x: layer(x)), ids(6, 4), r"layer 'layer', EmbeddingBag\("),
    "bilinear": (
        lambda: Via(nn.Bilinear(4, 4, 3), lambda layer, x: layer(x, x)),
        real(5, 4),
        r"layer 'layer', Bilinear\(",
    ),
    "attention": (
        lambda: Via(nn.MultiheadAttention(4, 2, batch_first=True), lambda layer, x: layer(x, x, x)[0]),
        real(5, 3, 4),
        r"layer 'layer', MultiheadAttention\(",
    ),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0),
        real(5, 3, 4),
        r"layer 'self_attn', MultiheadAttention\(",
    ),
    **{
        kind.__name__: (
            lambda kind=kind: Via(kind(4, 3, batch_first=True), lambda layer, x: layer(x)[0]),
            real(5, 3, 4),
            rf"layer 'layer', {kind.__name__}\(",
        )
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
    },
    "gru cell": (lambda: Via(nn.GRUCell(4, 3), steps), real(5, 3, 4), r"layer 'layer', GRUCell\("),
    "two inputs": (lambda: Via(Scale(), lambda layer, x: layer(x, x + 1)), real(5, 4), r"layer 'layer', Scale\("),
    "by frequency": (lambda: nn.Embedding(5, 3, scale_grad_by_freq=True), PADDED, r"layer '', Embedding\("),
    "renormalised": (lambda: nn.Embedding(5, 3, max_norm=0.5), ids(6, 4), r"Layer '', Embedding\("),
    "running statistics": (lambda: nn.BatchNorm1d(4), real(5, 4, 3), r"BatchNorm1d\("),
}


def squared(model, x):
    return (model(x) - 0.5).square().flatten(1).sum(1)


def clipped_sum(model, batch, max_grad_norm, mode, loss_fn=squared):
    gradients = RecordGradients(model, max_grad_norm, mode)
    try:
        return gradients.clipped_sum(loss_fn, batch)
    finally:
        gradients.close()


def made(make):
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():  # ones and zeros would hide a forgotten affine map
        nn.init.normal_(parameter)
    return model


def alone(model, x):
    """Each record's gradient, by a backward pass of its own."""
    rows = []
    for row in range(len(x)):
        loss = squared(model, x[row : row + 1]).sum()
        found = torch.autograd.grad(loss, list(trainable(model).values()), materialize_grads=True, allow_unused=True)
        rows.append([gradient.to_dense() for gradient in found])
    return rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*EXACT, *PARTS, *WITHOUT_RULE, *SEVERAL_CALLS])
def test_a_layer_is_split_exactly(name, mode):
    make, x = {**EXACT, **PARTS, **WITHOUT_RULE, **SEVERAL_CALLS}[name]
    rows = alone(made(make), x)
    norms = [float(torch.cat([g.flatten() for g in row]).norm().clamp(min=1e-9)) for row in rows]
    bound = sorted(norms)[len(norms) // 2]
    clipped = [[min(1, bound / n) * g for g in row] for n, row in zip(norms, rows, strict=True)]
    expected = [sum(column) for column in zip(*clipped, strict=True)]
    no_rule = mode == "bookkeeping" and (name in WITHOUT_RULE or name.startswith("tied"))
    if no_rule or (mode == "ghost" and name in SEVERAL_CALLS):
        with pytest.raises(UserError, match=r"layers? '.*use grad_sample_mode=hooks"):
            clipped_sum(made(make), (x,), bound, mode)
        return
    for ours, theirs in zip(clipped_sum(made(make), (x,), bound, mode), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * bound)


@pytest.mark.parametrize("mode", MODES)
def test_low_rank_updates_of_peft_are_split_exactly(mode):
    """Their two linear layers have the rule; the frozen layer below them is left alone."""
    peft = pytest.importorskip("peft", reason="peft is not among this package's dependencies")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"], init_lora_weights=False)
    model, x = peft.get_peft_model(model, config), real(5, 3, 8)
    assert all("lora_" in name for name in trainable(model))
    rows = alone(model, x)
    norms = [float(torch.cat([g.flatten() for g in row]).norm()) for row in rows]
    bound = sorted(norms)[len(norms) // 2]
    clipped = [[min(1, bound / n) * g for g in row] for n, row in zip(norms, rows, strict=True)]
    for ours, theirs in zip(clipped_sum(model, (x,), bound, mode), zip(*clipped, strict=True), strict=True):
        torch.testing.assert_close(ours, sum(theirs), rtol=1e-4, atol=1e-5 * bound)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_cannot_be_split_is_named(name, mode):
    make, x, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as refusal:
        clipped_sum(made(make), (x,), 1.0, mode)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"two inputs"}))
def test_and_before_any_record_is_seen(name, mode):
    make, _, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        RecordGradients(made(make), 1.0, mode)


def test_padding_stays_out_when_the_first_microbatch_has_none():
    """So that the comparison cannot notice."""
    gradients = RecordGradients(made(lambda: nn.Embedding(5, 3, padding_idx=2)), 1.0, "hooks")
    gradients.clipped_sum(squared, (torch.tensor([[0, 1], [3, 1], [4, 4], [3, 0]]),))
    (found,) = gradients.clipped_sum(squared, (PADDED,))
    gradients.close()
    assert not found[2].any()
    assert found[1].any()


@pytest.mark.parametrize("mode", ["hooks", "bookkeeping"])
def test_autocast_leaves_whole_digits_to_sums(mode):
    def rounded(model, x):
        with torch.autocast("cpu", torch.bfloat16):
            return squared(model, x).float()

    model, x = made(lambda: nn.Linear(4, 3)), real(5, 4)
    for ours, exact in zip(
        clipped_sum(model, (x,), 0.1, mode, rounded), clipped_sum(model, (x,), 0.1, mode), strict=True
    ):
        assert ours.dtype == torch.float32
        assert float((ours - exact).norm()) < 0.02 * float(exact.norm())


class Moment(nn.Module):
    """One weight, and time first: the fewest chances to notice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Mixing(nn.Module):
    """A linear layer, and something that brings records together."""

    def __init__(self, mix, width=4):
        super().__init__()
        self.first, self.last, self.mix = nn.Linear(width, width), nn.Linear(width, 1), mix

    def forward(self, x):
        return self.last(self.mix(torch.tanh(self.first(x)), self))


def time_first(model, x):
    return Mixing.forward(model, x.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("mode", ["hooks", "bookkeeping"])
def test_a_time_dimension_as_long_as_the_microbatch_is_always_refused(mode):
    """[T, b, d] inside, with T = b: every shape fits, and each "record" is a moment of all records."""

    def loss_fn(model, x):
        return (time_first(model, x) - 0.5).square().flatten(1).sum(1)

    for seed in range(150):
        torch.manual_seed(seed)
        size = 3 + seed % 6
        for model, loss, width in ((Mixing(lambda h, m: h), loss_fn, 4), (Moment(), squared, 1)):
            with pytest.raises(UserError, match=r"is not what autograd finds for the record alone"):
                clipped_sum(model, (torch.randn(size, size, width),), 1.0, mode, loss)


MIXES = {
    "attention over records": lambda h, m: F.scaled_dot_product_attention(h, h, h),
    "the mean": lambda h, m: h - h.mean(0),
    "batch norm": lambda h, m: F.batch_norm(h, None, None, training=True) if len(h) > 1 else h,
    "a neighbour": lambda h, m: h + h.roll(1, 0),
    "in training only": lambda h, m: h + h.mean(0) if m.training else h,
    "a hundredth of the mean, detached": lambda h, m: h + 0.1 * h.mean(0).detach(),
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("mode", ["hooks", "auto"])
def test_operations_that_mix_records_are_refused(name, mode):
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"is not what autograd finds for the record alone"):
        clipped_sum(Mixing(MIXES[name]).train(), (real(6, 4),), 1.0, mode)


def test_a_loss_that_needs_other_records_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False, track_running_stats=False))
    with pytest.raises(UserError, match=r"loss of one record by itself fails \(Expected more than 1 value.*GroupNorm"):
        clipped_sum(model, (real(5, 4),), 1.0, "bookkeeping")


def test_a_larger_microbatch_than_all_before_is_compared_again():
    """Records two apart meet: in none of one or two records, in any of more."""
    calls = []

    def loss_fn(model, x):
        calls.append(len(x))
        return squared(model, x)

    gradients = RecordGradients(Mixing(lambda h, m: h + h.roll(2, 0) if len(h) > 2 else 2 * h), 1.0, "bookkeeping")
    for size in (1, 2, 2):
        gradients.clipped_sum(loss_fn, (real(size, 4),))
    assert calls == [1, 1, 2, 1, 1, 2]  # each size with its records alone, once
    with pytest.raises(UserError, match=r"is not what autograd finds for the record alone"):
        gradients.clipped_sum(loss_fn, (real(5, 4),))
    gradients.close()


@pytest.mark.parametrize("mode", ["hooks", "bookkeeping"])
def test_dropout_is_compared_under_the_same_draws(mode):
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    torch.manual_seed(0)
    dropped = clipped_sum(model, (real(6, 4),), 0.1, mode)
    after = torch.rand(1)
    torch.manual_seed(0)
    squared(model, real(6, 4))
    assert torch.equal(after, torch.rand(1))  # nothing more was drawn than by the loss
    model = nn.Sequential(model, Mixing(lambda h, m: h - h.mean(0), width=1))
    assert all(total.any() for total in dropped)
    with pytest.raises(UserError, match=r"is not what autograd finds for the record alone"):
        clipped_sum(model, (real(6, 4),), 0.1, mode)


def test_the_comparison_leaves_buffers_as_the_loss_left_them():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += len(x)
            return self.layer(x)

    model = Counting()
    clipped_sum(model, (real(5, 4),), 1.0, "bookkeeping")
    assert model.seen == 5
