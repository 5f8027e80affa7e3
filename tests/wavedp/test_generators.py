"""What every generator must do, and what the transformer promises."""

from pathlib import Path

import pytest
import torch

from wavedp.config import GeneratorConfig, PrivacyConfig, SamplingConfig, TokenizerConfig
from wavedp.errors import UserError
from wavedp.generators import NAMES, FitSettings, build
from wavedp.generators.spectral_ar import token_loss
from wavedp.generators.transformer import SpectralTransformer, _draw, neighbour_table
from wavedp.progress import silent
from wavedp.tokenizers import build as build_tokenizer

SMALL = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}


def tokenizer(side=14, channels=1):
    return build_tokenizer(TokenizerConfig(), (channels, side, side))


def transformer(side=14, channels=1, depth=2):
    torch.manual_seed(0)
    model = SpectralTransformer(tokenizer(side, channels), n_classes=3, width=16, depth=depth, heads=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the tame initial weights, so that mistakes show
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_conformance(name, channels, tmp_path: Path):
    torch.manual_seed(0)
    images, labels = torch.rand(40, channels, 14, 14), torch.arange(40) % 4
    generator = build(GeneratorConfig(name=name, **SMALL), tokenizer(channels=channels), 4, "cpu")
    weights = generator.fit_public(torch.rand(20, channels, 14, 14), torch.arange(20) % 7, 0, silent)
    privacy = PrivacyConfig(epsilon=1.0, batch_size=8, steps=2)
    settings = FitSettings(privacy, 1.3, 5, tmp_path / "checkpoint.safetensors")
    fit = generator.fit_private(weights, images, labels, settings, silent)
    assert all(isinstance(value, torch.Tensor) for value in fit.weights.values())
    if name == "spectral_ar":
        assert sum(m.steps for m in fit.mechanisms) == 2
        assert fit.mechanisms[0].noise_multiplier == 1.3
        assert fit.mechanisms[0].sample_rate == 8 / 40
    wanted = torch.tensor([3, 0, 0, 1, 2])
    told = []
    samples = generator.sample(fit.weights, wanted, SamplingConfig(batch_size=2), 1, lambda *x: told.append(x))
    assert samples.shape == (5, channels, 14, 14)
    assert samples.dtype == torch.float32
    assert samples.min() >= 0
    assert samples.max() <= 1
    again = generator.sample(fit.weights, wanted, SamplingConfig(batch_size=5), 1, silent)
    assert torch.equal(samples, again)  # the seed decides, the batch size does not


def test_public_generator_ignores_sensitive_images(tmp_path):
    generator = build(GeneratorConfig(name="public", **SMALL), tokenizer(), 4, "cpu")
    weights = generator.fit_public(torch.rand(20, 1, 14, 14), torch.arange(20) % 7, 0, silent)
    settings = FitSettings(PrivacyConfig(), 1.0, 0, tmp_path / "c")
    fit = generator.fit_private(weights, torch.rand(4, 1, 14, 14), torch.arange(4), settings, silent)
    assert fit.mechanisms == []
    assert all(torch.equal(fit.weights[name], weights[name]) for name in weights)


def test_real_returns_sensitive_images_of_the_class(tmp_path):
    images, labels = torch.rand(12, 1, 14, 14), torch.arange(12) % 3
    fit = build(GeneratorConfig(name="real", **SMALL), tokenizer(), 3, "cpu").fit_private(
        {}, images, labels, FitSettings(PrivacyConfig(), 1.0, 0, tmp_path / "c"), silent
    )
    drawn = build(GeneratorConfig(name="real"), tokenizer(), 3, "cpu").sample(
        fit.weights, torch.tensor([2, 2]), SamplingConfig(), 0, silent
    )
    assert not torch.equal(drawn[0], drawn[1])
    assert all(any(torch.equal(image, real) for real in images[labels == 2]) for image in drawn)


@pytest.mark.parametrize(("side", "channels"), [(14, 1), (7, 1), (14, 3)])
def test_cached_sampling_equals_uncached(side, channels):
    model = transformer(side, channels)
    labels, uniforms = torch.arange(6) % 3, torch.rand(6, model.length)
    assert torch.equal(model.sample(labels, uniforms), model.sample(labels, uniforms, cached=False))


def test_sampling_uses_the_distribution_that_training_sees():
    """Teacher forcing the samples must give back the very codes their uniforms select."""
    model = transformer()
    labels, uniforms = torch.arange(6) % 3, torch.rand(6, model.length)
    codes = model.sample(labels, uniforms)
    with torch.no_grad():
        logits = model(codes, labels)
    for span, part in zip(model.spans, logits, strict=True):
        for t in range(span.start, span.stop, 7):
            drawn = _draw(part[:, t - span.start], uniforms[:, t], 1.0, None, None)
            assert torch.equal(drawn, codes[:, t])


def test_no_position_sees_itself_or_later_ones():
    model = transformer()
    codes, labels = torch.randint(0, 32, (1, model.length)), torch.tensor([1])
    for changed in (0, 20, 48, 49, 60, 97):
        other = codes.clone()
        other[0, changed] = (other[0, changed] + 5) % 32
        with torch.no_grad():
            a, b = (torch.cat([part.sum(-1) for part in model(c, labels)], 1)[0] for c in (codes, other))
        assert torch.equal(a[: changed + 1], b[: changed + 1])
        if changed + 1 < model.length:
            assert not torch.equal(a[changed + 1 :], b[changed + 1 :])


def test_labels_and_every_parameter_matter():
    model = transformer()
    codes = torch.randint(0, 32, (4, model.length))
    assert not torch.equal(model(codes, torch.zeros(4).long())[0], model(codes, torch.ones(4).long())[0])
    token_loss(model, codes, torch.tensor([0, 1, 2, 0])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_neighbours_come_earlier_and_lie_next_to_the_token():
    positions = tokenizer(28).positions
    table = neighbour_table(positions)
    for t in range(len(positions)):
        present = table[t][table[t] < len(positions)]
        assert (present < t).all()
    scale, row, column = positions[98 + 14 + 3].tolist()  # finest scale, second row, fourth column
    assert (scale, row, column) == (2, 1, 3)
    left, above, right, itself, parent = table[98 + 14 + 3][:5].tolist()
    assert positions[left].tolist() == [2, 1, 2]
    assert positions[above].tolist() == [2, 0, 3]
    assert positions[right].tolist() == [2, 0, 4]
    assert itself == len(positions)
    assert positions[parent].tolist() == [1, 0, 1]


def test_draw_inverts_the_distribution_and_filters():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(1000, 1)
    uniforms = (torch.arange(1000) + 0.5) / 1000
    counts = torch.bincount(_draw(logits, uniforms, 1.0, None, None), minlength=3)
    assert (counts - torch.tensor([500, 300, 200])).abs().max() <= 1
    assert _draw(logits, uniforms, 1.0, 2, None).max() == 1
    assert _draw(logits, uniforms, 1.0, None, 0.4).max() == 0
    assert _draw(logits, uniforms, 1e-3, None, None).max() == 0


def test_unknown_generator_is_refused():
    with pytest.raises(UserError, match=r"generator\.name='gan'"):
        build(GeneratorConfig(name="gan"), tokenizer(), 2, "cpu")
