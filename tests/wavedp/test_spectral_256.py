"""The spectral tokenizer at the published shape, 256×256 in 4 or 5 scales of 256 tokens, with small widths."""

import dataclasses
from pathlib import Path

import hydra
import pytest
import torch

from wavedp import tokenizers
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, configure
from wavedp.generators.conditions import TextCondition
from wavedp.generators.spectral_ar.transformer import SpectralTransformer, cut
from wavedp.methods import generator
from wavedp.progress import silent
from wavedp.tokenizers.spectral.model import SpectralTokenizer
from wavedp.tokenizers.spectral.network import spectral_network
from wavedp.tokenizers.training import fit
from wavedp.wavelets import coarse, decompose

CONF = str(Path(__file__).parents[2] / "conf")
FULL = (3, 256, 256)
TINY = {
    "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 2, "codes": 32, "detail_codes": 64, "code_width": 4,
}  # fmt: skip
SIT_4, SIT_5 = {"coarsest": 32, "patch": 2}, {"coarsest": 16, "patch": 1}


def tokenizer(level=0, **changes):
    torch.manual_seed(0)
    network = spectral_network(configure("tokenizer", "spectral", **{**TINY, **SIT_4, **changes}), FULL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the tame initial weights, so that mistakes show
    return SpectralTokenizer(network, level, network.state_dict())


def shipped(name):
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        values = dict(hydra.compose("config", overrides=[f"tokenizer={name}"]).tokenizer)
    return configure("tokenizer", values.pop("name"), **values)


@pytest.mark.parametrize(
    ("shape", "coarsest", "patch", "sides", "values"),
    [
        # Sides of patches, and numbers in one: 3 p² of the approximation, 9 p² of H, V and D.
        (FULL, 32, 2, [2, 2, 4, 8], [12, 36, 144, 576]),
        (FULL, 16, 1, [1, 1, 2, 4, 8], [3, 9, 36, 144, 576]),
        ((3, 128, 128), 16, 1, [1, 1, 2, 4], [3, 9, 36, 144]),
        ((3, 64, 64), 16, 1, [1, 1, 2], [3, 9, 36]),
    ],
)
def test_every_scale_has_256_tokens(shape, coarsest, patch, sides, values):
    config = configure("tokenizer", "spectral", **{**TINY, "coarsest": coarsest, "patch": patch})
    made = tokenizers.outline(config, shape, 0)
    network = made.network
    assert (network.tokens, network.patches) == (256, sides)
    assert [layer.in_features for layer in network.embed] == values
    assert made.length == 256 * len(sides)
    assert [(span.start, span.stop, span.codebook, span.size) for span in made.spans] == [
        (0, 256, 0, 32), (256, 256 * len(sides), 1, 64),
    ]  # fmt: skip
    for scale, (side, rows) in enumerate(zip(sides, [16] * len(sides), strict=True)):
        of_scale = made.positions[made.positions[:, 0] == scale]
        assert of_scale[:, 1:].amax(0).tolist() == [rows - 1, rows - 1]
        assert side * rows == shape[1] >> (len(sides) - max(scale, 1))  # the side of this scale's band


@pytest.mark.parametrize("scales", [SIT_4, SIT_5])
def test_the_first_256_tokens_are_those_of_the_coarse_image_and_decode_to_it(scales):
    made = tokenizer(**scales)
    images, deepest = torch.rand(2, *FULL), made.network.levels
    codes = made.encode(images)
    for level in range(1, deepest + 1):
        known = 256 * (deepest + 1 - level)
        assert torch.equal(made.encode(coarse(images, level)), codes[:, :known])
        vectors = [
            book.look_up(part)
            for book, part in zip(made.network.books, codes.split([256, codes.shape[1] - 256], 1), strict=True)
        ]
        whole = made.network.synthesise(vectors)
        torch.testing.assert_close(made.decode(codes[:, :known]), coarse(whole, level).clamp(0, 1), rtol=0, atol=1e-4)


def test_a_finer_token_never_moves_a_coarser_band():
    made = tokenizer()
    codes = torch.randint(32, (2, 1024))
    other = codes.clone()
    other[:, 768:] = (other[:, 768:] + 1) % 32
    bands = []
    for each in (codes, other):
        vectors = [book.look_up(part) for book, part in zip(made.network.books, each.split([256, 768], 1), strict=True)]
        bands.append(decompose(made.network.synthesise(vectors), 3))
    torch.testing.assert_close(bands[0].approximation, bands[1].approximation, rtol=0, atol=2e-4)
    for a, b in zip(bands[0].details[:-1], bands[1].details[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)
    assert (bands[0].details[-1] - bands[1].details[-1]).abs().max() > 0.01


@pytest.mark.parametrize(("causal", "nested"), [("both", True), ("encoder", True), ("decoder", False), ("none", False)])
def test_codes_of_a_coarse_image_are_a_prefix_as_the_tokenizer_says(causal, nested):
    made = tokenizer(scale_causal=causal)
    images = torch.rand(2, *FULL)
    assert torch.equal(made.encode(coarse(images, 3)), made.encode(images)[:, :256]) == nested
    assert tokenizers.nested(configure("tokenizer", "spectral", **TINY, scale_causal=causal)) == nested


def test_the_private_fit_warns_of_tokens_that_pretraining_does_not_see():
    images = DataConfig(name="procedural", size=32, channels=3, n_records=64)
    trial = TrialConfig(
        data=images,
        public=dataclasses.replace(images, split="public"),
        tokenizer=configure("tokenizer", "spectral", **TINY, scale_causal="decoder"),
        generator=configure("generator", "spectral_ar", pretrain_level=0),
        privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2),
        level=1,
    )
    (warning,) = [each for each in generator(trial).check(trial) if "scale_causal" in each]
    assert "scale_causal=both" in warning
    for better in (
        dataclasses.replace(trial, generator=configure("generator", "spectral_ar")),
        dataclasses.replace(trial, tokenizer=configure("tokenizer", "spectral", **TINY)),
    ):
        assert not [each for each in generator(better).check(better) if "scale_causal" in each]


def test_the_private_model_has_256_tokens_of_one_codebook():
    whole, first = tokenizer(), tokenizer(level=3)
    assert (whole.length, first.length, len(first.spans)) == (1024, 256, 1)
    public, private = (SpectralTransformer(each, TextCondition(16), 16, 1, 2) for each in (whole, first))
    private.load_state_dict(cut(public.state_dict(), whole, first))
    assert [logits.shape for logits in private(torch.zeros(2, 256, dtype=torch.long), torch.zeros(2, 384))] == [
        (2, 256, 32)
    ]


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [("spectral_paper", FULL, 1513.4), ("spectral_mid", FULL, 110.6), ("spectral_small", (3, 64, 64), 0.5)],
)
def test_presets_have_the_size_that_their_files_say(name, shape, millions):
    with torch.device("meta"):
        network = spectral_network(shipped(name), shape)
    assert network.scales == 4
    assert network.patches == ([1, 1, 2, 4] if shape[1] == 64 else [2, 2, 4, 8])
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_passes_of_a_batch_train_what_the_batch_trains():
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for passes in ({}, {"train_microbatch": 3}):
        config = configure("tokenizer", "spectral", **{**TINY, "coarsest": 8}, train_steps=12, train_batch=4, **passes)
        found.append(fit(lambda config=config: spectral_network(config, (1, 16, 16)), images, config, "cpu", silent))
    assert found[0][1]["psnr"] == pytest.approx(found[1][1]["psnr"], abs=0.05)
    assert found[0][1]["codebooks"].keys() == found[1][1]["codebooks"].keys()
    for name, value in found[0][0].items():
        assert (value - found[1][0][name]).abs().mean() < 1e-3 * value.abs().mean() + 1e-5, name
