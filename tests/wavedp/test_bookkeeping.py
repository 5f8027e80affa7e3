"""Book-keeping against plain autograd over single records, layer by layer, model by model; and its refusals."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedp.config import DiffusionConfig, PrivacyConfig
from wavedp.errors import UserError
from wavedp.generators.adaptation import LowRank, adapt
from wavedp.generators.blur_diffusion import model as blur_diffusion
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.denoising import draws_of
from wavedp.privacy import bookkeeping, layer_rules
from wavedp.privacy.clipping import RecordGradients, compared_rows, splitting_of, trainable
from wavedp.privacy.training import fit_private

L, CODES, CLASSES = 6, 7, 3


def looped(model, loss_fn, batch):
    """Each record's gradient by one backward pass of its own."""
    parameters = list(trainable(model).values())
    rows = []
    for row in range(len(batch[0])):
        loss = loss_fn(model, *(tensor[row : row + 1] for tensor in batch)).sum()
        rows.append(torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True))
    return rows


def norms_of(rows):
    return torch.tensor([math.sqrt(sum(float(g.double().square().sum()) for g in row)) for row in rows])


def summed(rows, factors):
    return [sum(f * g for f, g in zip(factors, column, strict=True)) for column in zip(*rows, strict=True)]


def clipped_sum(model, loss_fn, batch, max_grad_norm, clipping="flat"):
    gradients = RecordGradients(model, max_grad_norm, "bookkeeping", clipping)
    try:
        return gradients.clipped_sum(loss_fn, batch)
    finally:
        gradients.close()


def assert_exact(model, loss_fn, batch, tolerance=1e-5):
    """Flat with all, some and none of the records clipped, and normalised."""
    rows = looped(model, loss_fn, batch)
    norms = norms_of(rows)
    for max_grad_norm in (0.1 * float(norms.min()), float(norms.median()), 10 * float(norms.max())):
        for clipping in ("flat", "normalize"):
            ours = clipped_sum(model, loss_fn, batch, max_grad_norm, clipping)
            factors = (
                (max_grad_norm / norms).clamp(max=1) if clipping == "flat" else max_grad_norm / (norms + 0.01)
            ).tolist()
            expected = summed(rows, factors)
            size = torch.cat([g.flatten() for g in expected]).abs().max()
            for name, left, right in zip(trainable(model), ours, expected, strict=True):
                assert left.shape == right.shape
                assert left.dtype == torch.float32
                worst = float((left - right).abs().max())
                assert worst <= tolerance * max(float(right.abs().max()), 1e-2 * float(size)), name


@pytest.fixture(params=["direct", "gram"])
def way(request, monkeypatch):
    monkeypatch.setattr(layer_rules, "_gram_pays", lambda *sizes: request.param == "gram")


def squared(model, *inputs):
    return (model(*inputs) - 0.5).square().flatten(1).sum(1)


def three_calls(model, x):
    """Correlated on purpose, so that the cross terms between calls count."""
    return squared(model, x) + squared(model, x * 1.5) + squared(model, x.flip(1) + x)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (3, 7, 5)),
    "linear 4-d": (lambda: nn.Linear(5, 4), (3, 2, 4, 5)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 7, 6)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 8, 7)),
    "dilated": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), (3, 4, 9, 7)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (3, 4, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2, bias=False), (3, 4, 8, 8)),
    "pointwise": (lambda: nn.Conv2d(4, 6, 1), (3, 4, 5, 5)),
    "same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), (3, 4, 7, 6)),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (3, 4, 7, 6)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", stride=2), (3, 4, 7, 6)),
    "convolution 1-d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (3, 4, 11)),
    "convolution 3-d": (lambda: nn.Conv3d(4, 6, 3, stride=(2, 1, 2), padding=1, groups=2), (3, 4, 5, 4, 6)),
    "dilated 3-d": (lambda: nn.Conv3d(4, 6, (2, 3, 2), padding=(1, 2, 0), dilation=(1, 2, 2)), (3, 4, 3, 5, 4)),
    "pointwise 3-d": (lambda: nn.Conv3d(4, 6, 1), (3, 4, 2, 3, 4)),
    "circular 3-d": (lambda: nn.Conv3d(4, 6, 3, padding=1, padding_mode="circular"), (3, 4, 4, 3, 5)),
    "transposed 1-d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2), (3, 4, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (3, 4, 5, 4)),
    "transposed, dilated": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(3, 2), output_padding=(2, 1)),
        (3, 4, 5, 4),
    ),
    "transposed pointwise": (lambda: nn.ConvTranspose2d(4, 6, 1, bias=False), (3, 4, 5, 4)),
    "transposed 3-d": (lambda: nn.ConvTranspose3d(4, 6, 2, stride=(2, 1, 2), padding=(0, 1, 0)), (3, 4, 3, 4, 3)),
    "layer norm": (lambda: nn.LayerNorm(5), (3, 7, 5)),
    "layer norm of records": (lambda: nn.LayerNorm(5), (3, 5)),
    "layer norm of images": (lambda: nn.LayerNorm((4, 5)), (3, 2, 4, 5)),
    "layer norm without bias": (lambda: nn.LayerNorm(5, bias=False), (3, 7, 5)),
    "rms norm": (lambda: nn.RMSNorm(5), (3, 7, 5)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5, 6)),
    "group norm of records": (lambda: nn.GroupNorm(2, 4), (3, 4)),
}


def build(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind][0]()
    for parameter in layer.parameters():  # ones and zeros would hide a forgotten affine map
        nn.init.normal_(parameter)
    return layer, torch.randn(LAYERS[kind][1])


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("loss_fn", [squared, three_calls])
def test_each_layer_alone(kind, loss_fn, way):
    layer, x = build(kind)
    assert_exact(layer, loss_fn, (x,))
    assert_exact(layer, loss_fn, (x[:1],))


@pytest.mark.parametrize(
    "kind",
    [
        "linear 4-d",
        "convolution",
        "grouped",
        "convolution 1-d",
        "convolution 3-d",
        "transposed",
        "layer norm",
        "group norm",
    ],
)
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_half_costs_and_gets_nothing(kind, frozen, way):
    layer, x = build(kind)
    getattr(layer, frozen).requires_grad_(False)
    assert_exact(layer, squared, (x,))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("shape", [(4,), (4, 6), (4, 3, 2)])
@pytest.mark.parametrize("calls", [1, 2])
def test_embedding(padding_idx, shape, calls):
    torch.manual_seed(0)
    layer = nn.Embedding(5, 3, padding_idx=padding_idx)
    ids = torch.randint(5, shape, dtype=torch.int32)
    ids[0] = 2  # a record of padding alone
    weights = torch.linspace(0.5, 2, ids[0].numel() * 3).view(*ids.shape[1:], 3)

    def loss_fn(model, ids):
        total = sum((model((ids + call) % 5) - 0.5).square() * weights for call in range(calls))
        return total.flatten(1).sum(1)

    rows, batch = looped(layer, loss_fn, (ids[1:],)), (ids[1:],)
    assert min(norms_of(rows)) > 0
    assert_exact(layer, loss_fn, batch)
    ours = clipped_sum(layer, loss_fn, (ids,), 1.0)
    norms = norms_of(looped(layer, loss_fn, (ids,)))
    expected = summed(looped(layer, loss_fn, (ids,)), (1 / norms.clamp(min=1)).tolist())
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert padding_idx is None or not ours[0][padding_idx].any()


class Transformer(nn.Module):
    """codes [b, L], labels [b] -> logits [b, L, CODES]; `block` runs twice, so its weights are shared by two places."""

    def __init__(self, width=8):
        super().__init__()
        self.code, self.place = nn.Embedding(CODES, width), nn.Embedding(L, width)
        self.condition = nn.Embedding(CLASSES, width)
        self.blocks = nn.ModuleList([Block(width)])
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, CODES, bias=False)
        self.positions = lambda ids, b: ids.expand(b, -1)

    def forward(self, codes, labels):
        x = self.code(codes) + self.condition(labels)[:, None] + self.place(self.positions(torch.arange(L), len(codes)))
        for block in (*self.blocks, *self.blocks):
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))


def cross_entropy(model, codes, labels):
    return F.cross_entropy(model(codes, labels).transpose(1, 2), codes, reduction="none").sum(1)


def two_views(model, codes, labels):
    return (cross_entropy(model, codes, labels) + cross_entropy(model, codes.flip(1), labels)) / 2


def make_model():
    torch.manual_seed(0)
    return Transformer()


def make_records(n=8):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CODES, (n, L), generator=generator), torch.randint(CLASSES, (n,), generator=generator)


@pytest.mark.parametrize("loss_fn", [cross_entropy, two_views])
@pytest.mark.parametrize("records", [1, 5])
def test_transformer(loss_fn, records, way):
    assert_exact(make_model(), loss_fn, make_records(records))


@pytest.mark.parametrize("trained", ["attention", "lora"])
def test_adapted_transformer(trained, way):
    model = make_model()
    adapt(model, PrivacyConfig(trained=trained, lora_rank=2), seed=0)
    for layer in model.modules():
        if isinstance(layer, LowRank):
            nn.init.normal_(layer.up.weight)
    assert_exact(model, cross_entropy, make_records(4))
    watched = bookkeeping.Bookkeeping(model, trainable(model))
    assert len(watched.layers) == (3 if trained == "attention" else 5)
    watched.close()


@pytest.mark.parametrize("trained", ["all", "attention", "lora"])
def test_unet(trained):
    """Several noises and views of a record, GroupNorm, attention, and images that it leaves channels-last."""
    config = DiffusionConfig(timesteps=20, multiplicity=2)
    shape, records, views = (1, 8, 8), 3, 2
    torch.manual_seed(0)
    model = blur_diffusion.Denoiser(shape, ClassCondition(CLASSES, 4 * config.channels), config).train()
    for parameter in model.parameters():  # its last convolution and biases start near zero
        with torch.no_grad():
            parameter += 0.05 * torch.randn_like(parameter)
    for attention in model.unet.mid_block.attentions:
        attention._forward_hooks.clear()  # what Denoiser does for Opacus
    adapt(model, PrivacyConfig(trained=trained, lora_rank=2), seed=0)
    loss_fn = blur_diffusion.record_loss(blur_diffusion.forward_process(config, "log"), config, 0.0, views, 2)
    batch = (
        torch.rand(records, *shape),
        torch.randint(CLASSES, (records,)),
        torch.rand(records, draws_of(shape, views, 2)),
    )
    assert_exact(model, loss_fn, batch, tolerance=3e-5)  # alone, a record's float32 activations differ by that much


def test_channels_last_images(way):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2))
    batch = (torch.randn(3, 4, 6, 6).to(memory_format=torch.channels_last),)
    assert_exact(model.to(memory_format=torch.channels_last), squared, batch)


def make_config(mode, **changes):
    # A budget so large that any noise multiplier these tests use is within it.
    settings = {"epsilon": 1e6, "delta": 1e-3, "batch_size": 10, "steps": 5, "microbatch_size": 4, "optimizer": "sgd"}
    return PrivacyConfig(**{**settings, "grad_sample_mode": mode, **changes})


@pytest.mark.parametrize("clipping", ["flat", "normalize"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_fit_ends_where_the_hooks_end(clipping, optimizer):
    fits = []
    for mode in ("hooks", "bookkeeping"):
        config = make_config(mode, max_grad_norm=3.0, clipping=clipping, optimizer=optimizer)
        fits.append(fit_private(make_model(), two_views, make_records(40), config, noise_multiplier=0.7, seed=3))
    assert fits[0].history == fits[1].history
    for name, tensor in fits[0].ema.items():
        torch.testing.assert_close(fits[1].ema[name], tensor, rtol=1e-5, atol=1e-5)


def test_killed_and_resumed_in_the_other_mode(tmp_path):
    """Modes are twins: the release is the same, so a checkpoint of one is a checkpoint of the other."""
    options = {"noise_multiplier": 0.7, "seed": 3, "checkpoint": tmp_path / "state.safetensors"}
    config = make_config("bookkeeping", checkpoint_every=1)

    class Killed(Exception):
        pass

    def kill(done, steps):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        fit_private(make_model(), cross_entropy, make_records(40), config, **options, report=kill)
    heard = []
    other = replace(config, grad_sample_mode="hooks")
    report = lambda *step: heard.append(step)  # noqa: E731
    fit_private(make_model(), cross_entropy, make_records(40), other, **options, report=report)
    assert heard == [(4, 5), (5, 5)]


def test_bfloat16_autocast_rounds_the_losses_not_the_sums():
    def loss_fn(model, *batch):
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(model, *batch).float()

    model, batch = make_model(), make_records(6)
    rows = looped(model, loss_fn, batch)
    ours = clipped_sum(model, loss_fn, batch, float(norms_of(rows).median()))
    assert all(total.dtype == torch.float32 for total in ours)
    expected = summed(rows, (norms_of(rows).median() / norms_of(rows)).clamp(max=1).tolist())
    size = torch.cat([total.flatten() for total in expected]).norm()
    for left, right in zip(ours, expected, strict=True):
        assert float((left - right).norm()) < 0.02 * float(size)
    # One short vote: its length is exact although bfloat16 keeps three digits.
    one = clipped_sum(model, loss_fn, [tensor[:1] for tensor in batch], 1e-3)
    assert float(torch.cat([total.flatten() for total in one]).norm()) == pytest.approx(1e-3, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # nor when somebody else left it on
        again = clipped_sum(model, loss_fn, [tensor[:1] for tensor in batch], 1e-3)
    torch.testing.assert_close(again, one)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same():
    torch.compiler.reset()
    model, batch = make_model(), make_records(4)
    plain = clipped_sum(model, cross_entropy, batch, 3.0)
    compiled = torch.compile(make_model(), backend="aot_eager")
    gradients = RecordGradients(compiled, 3.0, "bookkeeping")
    for _ in range(2):
        torch.testing.assert_close(gradients.clipped_sum(cross_entropy, batch), plain, rtol=1e-5, atol=1e-5)
    gradients.close()


@pytest.mark.parametrize("mode", ["bookkeeping", "auto"])
def test_only_the_backward_pass_of_activations_runs(mode):
    """The price this mode is for: one forward pass, and autograd computes no gradient of a parameter."""
    model, batch, calls = make_model(), make_records(4), []

    def counted(*arguments):
        calls.append(arguments)
        return cross_entropy(*arguments)

    gradients = RecordGradients(model, 1.0, mode)
    gradients.clipped_sum(counted, batch)  # with the comparison
    handles = [
        parameter.register_hook(lambda gradient: pytest.fail("a parameter's gradient"))
        for parameter in model.parameters()
    ]
    gradients.clipped_sum(counted, batch)
    assert len(calls) == 1 + 4 + 1  # the comparison runs each of four records alone, once
    for handle in handles:
        handle.remove()
    gradients.close()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gram_matrices_are_for_wide_layers_with_few_positions():
    assert layer_rules._gram_pays(1, 64, 64)
    assert layer_rules._gram_pays(49, 9 * 256, 256)
    assert not layer_rules._gram_pays(98, 96, 384)
    assert not layer_rules._gram_pays(98, 9 * 32, 32)


class Around(nn.Module):
    """A linear layer and something that is done with its input or output."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.inner, self.around = nn.Linear(4, 4), nn.Linear(4, 4), forward

    def forward(self, x):
        return self.around(self, x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.inner(m.first(x)).relu_(),  # the output is changed in place
        lambda m, x: m.inner(input=m.first(x)),
        lambda m, x: m.inner(x) + m.first(x) + 0 * m.inner(x).detach(),
        lambda m, x: [m.inner(m.first(x)), m.first(2 * x)][0],  # an output that no loss uses
        lambda m, x: m.inner(m.first(x)) + torch.no_grad()(m.inner)(x),
    ],
)
def test_what_a_forward_pass_may_do(forward):
    torch.manual_seed(0)
    assert_exact(Around(forward), squared, (torch.randn(5, 4),))


def test_hooks_of_others_stay_and_count():
    torch.manual_seed(0)
    model = Around(lambda m, x: m.inner(m.first(x)))
    model.first.register_forward_hook(lambda layer, inputs, output: 3 * output)
    model.inner.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,))
    assert_exact(model, squared, (torch.randn(5, 4),))
    assert [len(layer._forward_hooks) for layer in (model.first, model.inner)] == [1, 0]


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.place, self.layer = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)


def tied():
    model = make_model()
    model.head.weight = model.code.weight
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.BatchNorm1d(4)), r"no rule for layer '0', BatchNorm1d.*grad_sample_mode=hooks"),
        (lambda: nn.Sequential(nn.PReLU(4)), r"no rule for layer '0', PReLU"),
        (lambda: nn.MultiheadAttention(4, 2), r"no rule for layer '', MultiheadAttention"),
        (lambda: nn.Embedding(4, 4, max_norm=1.0), r"Layer '', Embedding.* renormalises the rows .*use max_norm=None"),
        (lambda: nn.Embedding(4, 4, scale_grad_by_freq=True), r"no rule for layer '', Embedding"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), r"no rule for layer ''"),
        (Own, r"no rule for layer '', Own"),
        (tied, r"layers 'code' and 'head' share a parameter.*grad_sample_mode=hooks"),
        (lambda: make_model().requires_grad_(False), r"no trainable parameter"),
    ],
)
def test_models_that_are_refused(make, words):
    with pytest.raises(UserError, match=words.replace(".*", "(?s:.*)")):
        RecordGradients(make(), 1.0, "bookkeeping")


WITH_RULE = {name: make for name, (make, _) in LAYERS.items()} | {"embedding": lambda: nn.Embedding(4, 4)}
WITHOUT_RULE = {
    "batch norm": lambda: nn.BatchNorm1d(4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "bilinear": lambda: nn.Bilinear(4, 4, 4),
    "prelu": lambda: nn.PReLU(),
    "lstm": lambda: nn.LSTM(4, 4),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "renormalising": lambda: nn.Embedding(4, 4, max_norm=1.0),
    "by frequency": lambda: nn.Embedding(4, 4, scale_grad_by_freq=True),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    "subclass": lambda: type("Mine", (nn.Linear,), {})(4, 4),
    "of its own": Own,
}


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_auto_decides_from_the_trained_layers_without_running_them():
    def refuse(*_):
        pytest.fail("a forward pass")

    for mode, makes in (("bookkeeping", WITH_RULE), ("hooks", WITHOUT_RULE)):
        for name, make in makes.items():
            model = nn.Sequential(nn.Linear(4, 4), make())
            for layer in model.modules():
                layer.register_forward_pre_hook(refuse)
            assert splitting_of(model)[0] == mode, name
            assert (splitting_of(model)[1] == "every trained layer has a rule") == (mode == "bookkeeping")
            model[1].requires_grad_(False)
            assert splitting_of(model)[0] == "bookkeeping", name
    assert splitting_of(tied())[0] == "hooks"


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "wavedp.privacy"]


@pytest.mark.parametrize(("trained", "mode"), [(True, "hooks"), (False, "bookkeeping")])
def test_auto_finds_what_hooks_find_and_says_once_how(trained, mode, caplog):
    caplog.set_level("INFO", "wavedp.privacy")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.InstanceNorm1d(5, affine=True).requires_grad_(trained), nn.Linear(4, 4))
    batch = (torch.randn(3, 5, 4),)
    sums = {}
    for asked in ("hooks", "auto"):
        gradients = RecordGradients(model, 0.1, asked)
        sums[asked] = [gradients.clipped_sum(squared, batch) for _ in range(2)]
        gradients.close()
    torch.testing.assert_close(sums["auto"], sums["hooks"], rtol=1e-5, atol=1e-6)
    (line,) = said(caplog)
    assert f"auto takes {mode}: " in line
    assert ("layer '1', InstanceNorm1d" in line) == trained


def test_auto_falls_back_on_hooks_at_the_first_microbatch_only(caplog):
    """An input that wants a gradient of its own hides every layer from bookkeeping; hooks see them."""
    caplog.set_level("INFO", "wavedp.privacy")

    def wanting(model, x):
        noise = torch.rand(len(x), 1)
        return noise[:, 0] * squared(model, (x + noise).requires_grad_())

    torch.manual_seed(0)
    model, batch, sums = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), (torch.randn(3, 4),), {}
    with pytest.raises(UserError, match=r"'0\.weight' has no gradient"):
        clipped_sum(model, wanting, batch, 0.1)
    for mode in ("hooks", "auto"):
        torch.manual_seed(1)
        gradients = RecordGradients(model, 0.1, mode)
        sums[mode] = [gradients.clipped_sum(wanting, batch) for _ in range(2)]
        gradients.close()
    for ours, theirs in zip(sums["auto"], sums["hooks"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    decided, fallen = said(caplog)
    assert "auto takes bookkeeping" in decided
    assert "goes on with hooks" in fallen
    assert "3" not in fallen  # how many records there were
    gradients = RecordGradients(model, 0.1, "auto")
    gradients.clipped_sum(squared, batch)
    with pytest.raises(UserError, match=r"'0\.weight' has no gradient"):  # sums have left: no other splitter
        gradients.clipped_sum(wanting, batch)
    gradients.close()


def test_auto_refuses_in_the_words_of_bookkeeping_what_hooks_refuse_too():
    model, batch = make_model(), make_records(4)
    model.positions = lambda ids, b: ids
    gradients = RecordGradients(model, 1.0, "auto")
    with pytest.raises(UserError, match=r"place.*position ids"):
        gradients.clipped_sum(cross_entropy, batch)
    assert isinstance(gradients.splitter, bookkeeping.Bookkeeping)
    model.positions = lambda ids, b: ids.expand(b, -1)
    expected = clipped_sum(make_model(), cross_entropy, batch, 1.0)
    torch.testing.assert_close(gradients.clipped_sum(cross_entropy, batch), expected)
    gradients.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_layers_of_any_kind_are_welcome():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(5, 5, 1).requires_grad_(False), nn.Linear(4, 4))
    model[2].weight = nn.Parameter(model[2].weight.detach(), requires_grad=False)
    assert_exact(model, squared, (torch.randn(3, 5, 4),))


@pytest.mark.parametrize(
    ("positions", "records"),
    [
        (lambda ids, b: ids.expand(1, -1), 4),  # broadcast over the records
        (lambda ids, b: ids, 4),
        (lambda ids, b: ids, L),  # as many positions as records: the shapes fit, the gradients do not
    ],
)
def test_a_position_embedding_without_the_record_dimension_is_refused(positions, records):
    model = make_model()
    model.positions = positions
    with pytest.raises(UserError, match=r"place.*position ids"):
        clipped_sum(model, cross_entropy, make_records(records), 1.0)


@pytest.mark.parametrize(
    ("layer", "x", "apply"),
    [
        (nn.Conv2d(3, 3, 1), torch.randn(3, 5, 5), lambda m, x: m(x)),  # one image of three channels, or three images
        (nn.Linear(3, 3), torch.randn(3), lambda m, x: m(x)),
        (nn.LayerNorm((3, 2)), torch.randn(3, 2), lambda m, x: m(x).sum(1)),
        (nn.Linear(4, 4), torch.randn(3, 2, 4), lambda m, x: m(x.flatten(0, 1)).view(3, -1).sum(1)),  # views as records
    ],
)
def test_an_input_that_is_no_batch_of_records_is_refused(layer, x, apply):
    with pytest.raises(UserError, match=r"was given a tensor of shape .* for 3 records"):
        clipped_sum(layer, lambda model, x: apply(model, x).reshape(3, -1).sum(1), (x,), 1.0)


def test_refusals_in_a_microbatch_leave_the_model_usable():
    model, batch = make_model(), make_records(4)
    expected = clipped_sum(model, cross_entropy, batch, 1.0)
    gradients = RecordGradients(model, 1.0, "bookkeeping")

    def fails(model, *batch):
        cross_entropy(model, *batch)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        gradients.clipped_sum(fails, batch)
    with pytest.raises(UserError, match=r"shape \(\) for 4 records"):
        gradients.clipped_sum(lambda *all_: cross_entropy(*all_).mean(), batch)
    torch.testing.assert_close(gradients.clipped_sum(cross_entropy, batch), expected)
    assert not gradients.splitter.calls
    assert not gradients.splitter.splits
    cross_entropy(model, *batch)  # outside a microbatch nothing is kept
    assert not gradients.splitter.calls
    gradients.close()
    assert not any(module._forward_hooks for module in model.modules())
    gradients = RecordGradients(model, 1.0, "hooks")
    torch.testing.assert_close(gradients.clipped_sum(cross_entropy, batch), expected, rtol=1e-5, atol=1e-6)
    gradients.close()


def test_parameters_without_a_gradient_are_refused():
    x = torch.randn(3, 4)
    for forward in (lambda m, x: m.first(x), lambda m, x: m.first(x) + m.inner(x).detach()):
        with pytest.raises(UserError, match=r"has no gradient for each of 3 records"):
            clipped_sum(Around(forward), squared, (x,), 1.0)


def test_a_weight_used_behind_its_layer_is_found_by_the_comparison():
    model = Around(lambda m, x: m.inner(m.first(x)) + F.linear(x, m.inner.weight))
    with pytest.raises(UserError, match=r"'inner.weight' is not what autograd finds"):
        clipped_sum(model, squared, (torch.randn(3, 4),), 1.0)


def test_an_input_changed_in_place_is_refused():
    def forward(m, x):
        h = m.first(x)
        return m.inner(h) + h.add_(1)

    gradients = RecordGradients(Around(forward), 1.0, "bookkeeping")
    gradients.compared = 3  # or autograd itself would notice first
    with pytest.raises((UserError, RuntimeError), match=r"in place after|modified by an inplace"):
        gradients.clipped_sum(squared, (torch.randn(3, 4),))
    gradients.close()
    layer, ids = nn.Embedding(5, 3), torch.randint(5, (3, 2))
    with pytest.raises(UserError, match=r"layer '' was changed in place"):
        clipped_sum(layer, lambda m, ids: m(ids).flatten(1).sum(1) + 0 * ids.fill_(0)[:, 0], (ids[:1],), 1.0)


def test_non_finite_gradients_are_refused_before_a_weight_moves():
    model = make_model()
    with pytest.raises(UserError, match="not finite"):
        fit_private(
            model,
            lambda *batch: cross_entropy(*batch) / 0,
            make_records(40),
            make_config("bookkeeping"),
            noise_multiplier=1.0,
            seed=0,
        )
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make_model().parameters(), strict=True))


def test_norms_are_of_float32_whatever_the_caller_allows():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    batch = (torch.randn(16, 6),)

    def clipped():
        gradients = RecordGradients(model, 0.1, "bookkeeping")
        try:
            return gradients.clipped_sum(lambda model, x: model(x).square().mean(1), batch)
        finally:
            gradients.close()

    exact = clipped()
    with torch.autocast("cpu", torch.bfloat16):
        low = clipped()
    assert all(torch.equal(a, b) for a, b in zip(low, exact, strict=True))


def test_a_large_microbatch_is_compared_evenly_and_a_small_one_whole():
    assert compared_rows(1) == [0]
    assert compared_rows(64) == list(range(64))
    rows = compared_rows(2048)
    assert (len(set(rows)), rows[0], rows[-1]) == (64, 0, 2047)
    assert max(b - a for a, b in itertools.pairwise(rows)) <= 33
