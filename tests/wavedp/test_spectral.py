"""The learned tokenizers: exact scale-causality, prefixes, losses, health, and the completing upscaler."""

import pytest
import torch

from wavedp import registry, tokenizers
from wavedp.config import DataConfig, configure
from wavedp.data import load
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.losses import Adversary, Perceptual
from wavedp.progress import silent
from wavedp.tokenizers.codebook import Codebook, health
from wavedp.tokenizers.spectral.model import SpectralTokenizer
from wavedp.tokenizers.spectral.network import spectral_network
from wavedp.tokenizers.training import fit
from wavedp.upscalers.completion import Completion
from wavedp.wavelets import Pyramid, coarse, decompose, reconstruct

SMALL = {
    "width": 16, "heads": 2, "encoder_depth": 2, "decoder_depth": 2, "codes": 8, "detail_codes": 16, "code_width": 4,
    "train_steps": 3, "train_batch": 4,
}  # fmt: skip
SHAPES = [(1, 28, 28), (3, 16, 32)]


def small(name="spectral", **changes):
    values = fitting("tokenizer", {"name": name, **SMALL, **changes})
    return configure("tokenizer", values.pop("name"), **values)


def tokenizer(shape=(1, 28, 28), level=0, **changes) -> SpectralTokenizer:
    torch.manual_seed(0)
    network = spectral_network(small(**changes), shape)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the tame initial weights, so that mistakes show
    return SpectralTokenizer(network, level, network.state_dict())


def perturb_finest(images):
    """Another finest band, the same coarser ones, bit for bit."""
    pyramid = decompose(images, 1)
    changed = reconstruct(
        Pyramid(pyramid.approximation, (pyramid.details[0] + 0.2 * torch.randn_like(pyramid.details[0]),))
    )
    return changed


@pytest.mark.parametrize("shape", SHAPES)
def test_every_scale_has_the_same_number_of_tokens_and_patches_double(shape):
    network = spectral_network(small(), shape)
    assert network.scales == 3 if shape[1] == 28 else 2
    assert network.patches == [1, 1, 2, 4][: network.scales]
    made = tokenizer(shape)
    assert made.length == network.scales * network.tokens
    assert [int((made.positions[:, 0] == s).sum()) for s in range(network.scales)] == [network.tokens] * network.scales
    assert [(s.start, s.stop, s.size) for s in made.spans] == [
        (0, network.tokens, 8),
        (network.tokens, made.length, 16),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_finer_band_leaves_coarser_codes_and_decodings_bit_equal(shape):
    made = tokenizer(shape)
    n, scales = made.network.tokens, made.network.scales
    images = torch.rand(6, *shape)
    finer = perturb_finest(images)
    a, b = made.network.features(images), made.network.features(finer)
    details = (scales - 2) * n  # detail tokens of the scales below the finest
    # The coefficients agree to rounding only (an inverse transform lies between), hence the tolerance here ...
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(a[1][:, :details], b[1][:, :details], rtol=0, atol=1e-4)
    # ... and none where only tokens are exchanged.
    codes = made.encode(images)
    other = codes.clone()
    other[:, -n:] = (other[:, -n:] + 1) % 16
    vectors = [
        book.look_up(part)
        for book, part in zip(made.network.books, codes.split([n, codes.shape[1] - n], 1), strict=True)
    ]
    changed = [
        book.look_up(part)
        for book, part in zip(made.network.books, other.split([n, codes.shape[1] - n], 1), strict=True)
    ]
    x, y = (
        decompose(made.network.synthesise(vectors), scales - 1),
        decompose(made.network.synthesise(changed), scales - 1),
    )
    torch.testing.assert_close(x.approximation, y.approximation, rtol=0, atol=1e-5)
    assert not torch.equal(x.details[-1], y.details[-1])


def test_the_causal_transformer_is_blind_to_finer_tokens_to_the_last_bit():
    network = tokenizer().network
    ends = [49, 98, 147]  # of three scales
    h = torch.randn(5, 147, 16)
    other = h.clone()
    other[:, 98:] += torch.randn(5, 49, 16)
    for part in (network.encoder, network.decoder):
        assert torch.equal(part(h, ends)[:, :98], part(other, ends)[:, :98])
        assert not torch.equal(part(h, ends)[:, 98:], part(other, ends)[:, 98:])
    blind = tokenizer(scale_causal="none").network
    assert not torch.equal(blind.encoder(h, ends)[:, :98], blind.encoder(other, ends)[:, :98])


@pytest.mark.parametrize(("scale_causal", "encoder", "decoder"), [
    ("both", True, True), ("decoder", False, True), ("encoder", True, False), ("none", False, False),
])  # fmt: skip
def test_prefixes_hold_exactly_where_the_mask_says_so(scale_causal, encoder, decoder):
    made = tokenizer(scale_causal=scale_causal)
    images = torch.rand(8, 1, 28, 28)
    codes = made.encode(images)
    for level in (1, 2):
        prefix = made.encode(coarse(images, level))
        assert prefix.shape == (8, (3 - level) * 49)
        assert torch.equal(prefix, codes[:, : prefix.shape[1]]) == encoder
        small = made.decode(codes[:, : (3 - level) * 49])
        assert small.shape == (8, 1, 28 >> level, 28 >> level)
        n = made.network.tokens
        vectors = [
            book.look_up(part) for book, part in zip(made.network.books, codes.split([n, 2 * n], 1), strict=True)
        ]
        whole = coarse(made.network.synthesise(vectors), level).clamp(0, 1)
        assert torch.allclose(small, whole, atol=1e-4) == decoder


def test_level_shortens_the_sequence():
    assert [tokenizer(level=level).length for level in (0, 1, 2)] == [147, 98, 49]
    with pytest.raises(UserError, match="level=3 is coarser"):
        tokenizer(level=3)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_raster_has_one_scale_of_the_same_grid(level):
    made = tokenizers.untrained(small("raster"), (1, 28, 28), level)
    assert made.length == 49
    assert len(made.spans) == 1
    images = torch.rand(3, 1, 28 >> level, 28 >> level)
    codes = made.encode(images)
    assert codes.shape == (3, 49)
    assert made.decode(codes).shape == images.shape
    assert not any("details" in name for name in made.network.state_dict())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tokenizer(shape=(1, 28, 28), patch=3), "patch=3 does not divide the coarsest scale, 7×7"),
        (lambda: tokenizer(width=10, heads=4), "width=10 can't be shared by 4 heads"),
        (lambda: tokenizer().encode(torch.rand(1, 1, 20, 20)), r"images of \(1, 20, 20\) \(C, H, W\) are not a scale"),
        (lambda: tokenizer().decode(torch.zeros(1, 50, dtype=torch.long)), "50 codes an image are not a prefix"),
        (lambda: tokenizer().decode(torch.zeros(1, 196, dtype=torch.long)), "196 codes an image are not a prefix"),
        (lambda: SpectralTokenizer(tokenizer().network, 0, tokenizer(codes=9).network.state_dict()), "train it again"),
        (lambda: tokenizers.untrained(small("raster"), (1, 28, 28), 3), "level=3 has fewer"),
        (lambda: configure("tokenizer", "wav"), "tokenizer='wav' is not known"),
    ],
)
def test_misfits_are_refused_in_a_sentence(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_codebook_takes_the_nearest_code_and_passes_the_gradient():
    torch.manual_seed(0)
    book = Codebook(16, 4).eval()
    z = torch.randn(2, 10, 4, requires_grad=True)
    found = book(z)
    unit = torch.nn.functional.normalize(z, dim=-1)
    codes = torch.nn.functional.normalize(book.codes, dim=-1)
    distance = (unit[:, :, None] - codes).square().sum(-1)
    assert torch.equal(found.codes, distance.argmin(-1))
    torch.testing.assert_close(found.vectors, codes[found.codes])
    torch.testing.assert_close(found.commitment, distance.amin(-1).mean())
    weight = torch.randn(2, 10, 4)
    (through,) = torch.autograd.grad((found.vectors * weight).sum(), z, retain_graph=True)
    (straight,) = torch.autograd.grad((unit * weight).sum(), z)
    torch.testing.assert_close(through, straight)


def test_codes_move_to_the_mean_of_the_vectors_that_choose_them():
    torch.manual_seed(0)
    book = Codebook(2, 3)
    around = torch.tensor([[5.0, 0, 0], [0, 0, 5.0]])
    for _ in range(200):
        z = (around[torch.arange(40) % 2] + 0.1 * torch.randn(40, 3))[None]
        if not book.sums.any():
            book.place(z)
        book.follow([book(z)])
    closest = (book.codes @ torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]).T).max(0).values
    assert (closest > 0.999).all()
    before = book.codes.clone()
    book(torch.randn(1, 40, 3))
    assert torch.equal(book.codes, before)  # looking up moves nothing


def test_dead_codes_restart_on_data_and_health_is_the_entropy():
    torch.manual_seed(0)
    book = Codebook(6, 4)
    before, z = book.codes.detach().clone(), torch.randn(30, 4)
    assert book.restart_dead(torch.tensor([3, 0, 1, 0, 2, 5.0]), z) == 2
    alive = [0, 2, 4, 5]
    assert torch.equal(book.codes[alive], before[alive])
    unit = torch.nn.functional.normalize(z, dim=-1)
    assert all(torch.isclose(unit, code).all(1).any() for code in book.codes[[1, 3]])
    assert health(torch.tensor([4.0, 4, 4, 4])) == {"usage": 1.0, "perplexity": pytest.approx(4)}
    assert health(torch.tensor([4.0, 0, 0, 0])) == {"usage": 0.25, "perplexity": pytest.approx(1)}


@pytest.mark.parametrize("name", ["spectral", "raster"])
def test_public_training_learns_repeats_and_reports(name):
    images = torch.tensor(load(DataConfig(name="procedural", n_records=128), "train").images) / 255
    method = registry.find("tokenizer", name)
    sizes = {"width": 32, "codes": 32, "detail_codes": 64, "train_batch": 16, "train_learning_rate": 2e-3}
    config = small(name, **sizes, train_steps=200)

    def train(config, images):
        return fit(lambda: method.network(config, (1, 28, 28), 0), images, config, "cpu", silent)

    weights, report = train(config, images)
    made = tokenizers.build(config, (1, 28, 28), 0, weights)
    error = (made.decode(made.encode(images)) - images).square().mean()
    assert error < 0.8 * images.var()  # better than the mean image by more than chance
    assert report["psnr"] == pytest.approx(float(-10 * error.log10()), abs=1.5)
    for book in report["codebooks"].values():
        assert 0 < book["usage"] <= 1
        assert 1 <= book["perplexity"] <= book["size"]
    brief = small(name, **sizes, train_steps=3)
    (once, _), (again, _) = train(brief, images), train(brief, images)
    assert all(torch.equal(once[key], again[key]) for key in once)
    with pytest.raises(UserError, match="there are none"):
        train(config, images[:0])


def test_perceptual_and_adversarial_losses_tell_a_blur_from_the_picture():
    torch.manual_seed(0)
    images = torch.tensor(load(DataConfig(name="procedural", n_records=32), "train").images) / 255
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    perceptual = Perceptual("cpu")
    assert perceptual(images, images) == 0
    assert perceptual(blurred, images) > 0.01
    weaker = 0.5 * images + 0.5 * blurred
    assert perceptual(weaker, images) < perceptual(blurred, images)
    adversary = Adversary(1, 2e-3, "cpu", width=8)
    first = adversary.generator_loss(blurred)
    for _ in range(30):
        adversary.step(images, blurred)
    assert adversary.generator_loss(blurred) > first  # it has learned to see through the blur
    assert adversary.generator_loss(blurred) > adversary.generator_loss(images)


def test_a_completion_keeps_the_coarse_image():
    images = torch.rand(4, 1, 14, 14).round(decimals=1)  # black and white among them, where details have no room
    drawn = torch.rand(4, 1, 28, 28)
    full = Completion("spectral", lambda part, factor: drawn).upscale(images, 2)
    assert full.shape == (4, 1, 28, 28)
    assert full.min() >= 0
    assert full.max() <= 1
    torch.testing.assert_close(coarse(full, 1), images, rtol=0, atol=1e-6)
    weak = Completion("spectral", lambda part, factor: 0.5 + 0.01 * drawn).upscale(images * 0.5 + 0.25, 2)
    detail = weak - coarse(weak, 1).repeat_interleave(2, -1).repeat_interleave(2, -2)
    expected = 0.01 * (drawn - coarse(drawn, 1).repeat_interleave(2, -1).repeat_interleave(2, -2))
    torch.testing.assert_close(detail, expected, rtol=0, atol=1e-6)
