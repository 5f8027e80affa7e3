"""`dp_llamagen`: its network against transformers' Llama and plain formulas. Its mechanism is in
test_dp_sgd_rooms.py."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import yaml
from test_bookkeeping import assert_exact
from test_generators import configured

from wavedp import checks
from wavedp.config import DataConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.dp_llamagen.decoder import (
    NORM_EPS,
    LlamaBlock,
    LlamaDecoder,
    feedforward_width,
    rotated,
    rotations,
)
from wavedp.generators.dp_llamagen.model import LlamaGenModel
from wavedp.generators.token_decoder import Cache, draw
from wavedp.generators.token_model import token_losses
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import RecordGradients
from wavedp.progress import silent
from wavedp.testing.generators import GeneratorSuite
from wavedp.tokenizers import untrained

SMALL = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}
RASTER = {"codes": 12, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "train_steps": 2}


def over_raster(base):
    return dataclasses.replace(base, tokenizer=configure("tokenizer", "raster", coarsest=4, **RASTER))


class TestDPLlamaGen(GeneratorSuite):
    def config(self):
        return configure("generator", "dp_llamagen", **SMALL)

    def trial(self, base):
        return over_raster(base)


class TestDPLlamaGenWithEverything(GeneratorSuite):
    """Whole images, captions, low-rank updates, views, dropout and guidance."""

    def config(self):
        return configure("generator", "dp_llamagen", conditioning="text", condition_dropout=0.2, **SMALL)

    def trial(self, base):
        privacy = dataclasses.replace(base.privacy, trained="lora", lora_rank=2, views=2, optimizer="adam_bc")
        sampling = dataclasses.replace(base.sampling, guidance=2.0, top_k=8, top_p=0.9)
        return dataclasses.replace(over_raster(base), privacy=privacy, sampling=sampling, level=0)


def tokenizer(side=14, channels=1, level=0, coarsest=8):
    return untrained(configure("tokenizer", "raster", coarsest=coarsest, **RASTER), (channels, side, side), level)


def decoder(width=16, depth=2, heads=2, std=0.3, made=None):
    torch.manual_seed(0)
    model = LlamaDecoder(made or tokenizer(), ClassCondition(3, width), width, depth, heads)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)  # far from the tame initial weights, so that mistakes show
    return model.eval()


def test_a_block_is_transformers_llama_layer():
    """The same weights, turned by our angles: a grid's instead of a line's."""
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    width, heads, length = 24, 3, 9
    config = llama.LlamaConfig(
        hidden_size=width, intermediate_size=feedforward_width(width), num_attention_heads=heads,
        num_key_value_heads=heads, rms_norm_eps=NORM_EPS, attention_bias=False, mlp_bias=False, hidden_act="silu",
        num_hidden_layers=1, attn_implementation="eager",
    )  # fmt: skip
    places = torch.cartesian_prod(torch.arange(2), torch.arange(4))
    rotation = rotations(places, width // heads)
    ours, theirs = LlamaBlock(width, heads, rotation), llama.LlamaDecoderLayer(config, 0).eval()
    torch.manual_seed(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    q, k, v = ours.qkv.weight.chunk(3)
    theirs.load_state_dict(
        {
            "self_attn.q_proj.weight": q,
            "self_attn.k_proj.weight": k,
            "self_attn.v_proj.weight": v,
            "self_attn.o_proj.weight": ours.out.weight,
            "mlp.gate_proj.weight": ours.gate.weight,
            "mlp.up_proj.weight": ours.up.weight,
            "mlp.down_proj.weight": ours.down.weight,
            "input_layernorm.weight": ours.norm_attention.weight,
            "post_attention_layernorm.weight": ours.norm_feedforward.weight,
        }
    )
    h = torch.randn(4, length, width)
    mask = torch.full((length, length), -math.inf).triu(1)[None, None]
    turns = tuple(part.repeat(1, 2)[None] for part in rotation)  # cosines and sines, 1 L D/H each
    with torch.no_grad():
        expected = theirs(h, attention_mask=mask, position_embeddings=turns)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(ours(h), expected, rtol=1e-5, atol=1e-5)
        cache = Cache(length)
        steps = torch.cat([ours(h[:, t : t + 1], cache) for t in range(length)], 1)
        torch.testing.assert_close(steps, expected, rtol=1e-5, atol=1e-5)


def test_pairs_turn_as_complex_numbers_by_row_and_by_column():
    places = torch.tensor([[0, 0], [2, 5], [7, 1]])
    cosines, sines = rotations(places, 8)
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    found = rotated(x, torch.stack([cosines, sines]))
    angles = [[0.0] * 4] + [[row, row / 100, column, column / 100] for row, column in places.tolist()]
    for t in range(4):
        turned = torch.complex(x[t, :4], x[t, 4:]) * torch.tensor(
            [complex(math.cos(a), math.sin(a)) for a in angles[t]]
        )
        torch.testing.assert_close(found[t], torch.cat([turned.real, turned.imag]).float())


def test_attention_knows_only_how_far_apart_two_tokens_lie():
    """Queries times keys, of any two places of the grid that are as many rows and columns apart."""
    places = torch.cartesian_prod(torch.arange(6), torch.arange(5))
    q, k = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    turns = rotations(places, 12)[:, 1:]
    scores = rotated(q.expand(30, 12), turns) @ rotated(k.expand(30, 12), turns).T
    apart = places[:, None] - places[None]
    by_distance = {}
    for offset, score in zip(apart.flatten(0, 1).tolist(), scores.flatten().tolist(), strict=True):
        by_distance.setdefault(tuple(offset), []).append(score)
    assert all(max(found) - min(found) < 1e-4 for found in by_distance.values())
    assert len({round(found[0], 3) for found in by_distance.values()}) > 80  # of 99 distances


def test_no_position_sees_its_own_code_or_later_ones():
    model = decoder()
    codes, labels = torch.randint(0, 12, (1, 49)), torch.tensor([1])
    for changed in (0, 20, 47):
        other = codes.clone()
        other[0, changed] = (other[0, changed] + 5) % 12
        with torch.no_grad():
            a, b = (model(each, labels)[0].sum(-1)[0] for each in (codes, other))
        assert torch.equal(a[: changed + 1], b[: changed + 1])
        assert not torch.equal(a[changed + 1], b[changed + 1])


def test_every_weight_and_the_condition_matter():
    model = decoder()
    token_losses(model, torch.randint(0, 12, (4, 49)), torch.tensor([0, 1, 2, 3])).sum().backward()  # 3 is "none"
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not any("bias" in name for name in model.state_dict())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_cached_draws_equal_uncached_ones_and_the_distribution_that_training_sees(guidance):
    model = decoder()
    labels, uniforms = torch.arange(6) % 3, torch.rand(6, 49)
    codes = model.sample(labels, uniforms, guidance=guidance)
    assert torch.equal(codes, model.sample(labels, uniforms, guidance=guidance, cached=False))
    prefix = codes[:, :20]
    assert torch.equal(codes, model.sample(labels, uniforms, guidance=guidance, prefix=prefix))
    with torch.no_grad():
        with_class, without = (model(codes, each)[0] for each in (labels, model.condition.absent(labels)))
    logits = without + guidance * (with_class - without)
    for t in range(0, 49, 7):
        assert torch.equal(draw(logits[:, t], uniforms[:, t], 1.0, None, None)[0], codes[:, t])


def loss_fn(model, codes, labels):
    return token_losses(model, codes, labels).mean(1)


def test_every_record_has_the_gradient_of_its_own_loss():
    """By book-keeping, with its rule for RMSNorm, against a loop over records."""
    model = decoder(depth=1)
    assert {type(layer).__name__ for layer in model.modules()} >= {"RMSNorm", "Linear", "Embedding"}
    assert_exact(model, loss_fn, (torch.randint(0, 12, (5, 49)), torch.arange(5) % 3))


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_opacus_hooks_find_the_same_clipped_sum(mode):
    model, batch = decoder(depth=1).train(), (torch.randint(0, 12, (5, 49)), torch.arange(5) % 3)
    sums = {}
    for each in ("bookkeeping", mode):
        gradients = RecordGradients(model, 0.5, each)
        sums[each] = gradients.clipped_sum(loss_fn, batch)
        gradients.close()
    for ours, theirs in zip(sums["bookkeeping"], sums[mode], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_it_has_as_many_weights_as_llamagen_b():
    """111 million, with 16,384 codes on a grid of 16 × 16 and 1,000 classes (its README); ours has no bias either."""
    published = yaml.safe_load(Path(__file__).parents[2].joinpath("conf/generator/dp_llamagen.yaml").read_text())
    config = configure("generator", published.pop("name"), **published)
    made = tokenizer(16, coarsest=16)
    made.spans = (dataclasses.replace(made.spans[0], size=16384, digits=(16384,)),)
    made.positions = made.positions.to("meta")
    with torch.device("meta"):
        model = LlamaDecoder(made, ClassCondition(1000, config.width), config.width, config.depth, config.heads)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 111
    assert feedforward_width(768) == 2048
    assert feedforward_width(1280) == 3584  # GPT-XL's: 3413 rounded up


def test_it_learns_which_class_is_bright(tmp_path):
    """Two flat classes, seen in the private fit only: samples of one are dark, of the other bright."""
    torch.manual_seed(0)
    images = torch.cat([torch.full((40, 1, 7, 7), 0.1), torch.full((40, 1, 7, 7), 0.9)])
    labels = torch.arange(80) // 40
    made = untrained(configure("tokenizer", "scalar", bins=8), (1, 7, 7), 0)  # pixels: one scale, no training
    config = configured("generator", "dp_llamagen", **{**SMALL, "pretrain_steps": 60, "pretrain_batch": 32})
    model = LlamaGenModel(config, made, made, 2, "cpu")
    weights = model.fit_public(images, labels, 0, silent)
    rows = weights["condition.table.weight"]
    assert torch.equal(rows[0], rows[1])  # public classes are not kept
    privacy = PrivacyConfig(epsilon=math.inf, batch_size=32, steps=60, learning_rate=1e-2, ema_decay=0.5)
    fit = FitSettings(privacy, {"private_fit": Mechanism(32 / 80, 0.0, 60)}, 1, tmp_path / "c")
    fitted = model.fit_private(weights, images, labels, fit, silent).weights
    samples = model.sample(fitted, torch.tensor([0] * 8 + [1] * 8), SamplingConfig(), 0, silent)
    assert samples[:8].mean() < 0.3
    assert samples[8:].mean() > 0.7


def trial(tokenizer, size=16, level=1, channels=1, **changes):
    images = DataConfig(name="procedural", size=size, channels=channels, n_records=64)
    return TrialConfig(
        data=images,
        public=dataclasses.replace(images, split="public"),
        level=level,
        tokenizer=tokenizer,
        generator=configure("generator", "dp_llamagen", **{**SMALL, **changes}),
        privacy=PrivacyConfig(batch_size=16, steps=2),
    )


def test_what_it_cannot_draw_is_refused():
    scalar = configure("tokenizer", "scalar", coarsest=4)
    apart = configure("tokenizer", "scalar", coarsest=4, bins=9, digits=2)
    for asked, words in (
        (trial(scalar), "tokenizer=scalar has 2 scales: use tokenizer=raster"),
        (trial(scalar, level=2, channels=3), "tokenizer=scalar has several at one place: use tokenizer=raster"),
        (trial(apart, level=2), "tokenizer=scalar has codes of several digits: use tokenizer=raster"),
        (trial(scalar, level=2, width=24, heads=4), "use a multiple of 16"),
    ):
        with pytest.raises(UserError, match=words):
            checks.check(asked)
    checks.check(trial(scalar, level=2))  # one scale is one grid
