"""`dp_llamagen_checkpoint` and `tokenizer=llamagen` on random files with LlamaGen's keys: loading, refusals, what a
private fit moves, every grad_sample_mode against a loop over records."""

import dataclasses
import math
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from wavedp import checks, model_checks, tokenizers
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.adaptation import adapt
from wavedp.generators.dp_llamagen_checkpoint.model import LlamaGenCheckpointModel, turned
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.clipping import RecordGradients, trainable
from wavedp.progress import silent
from wavedp.testing.checkpoints import GPT, LENGTH, VQ, WIDTH, random_llamagen
from wavedp.testing.generators import GeneratorSuite
from wavedp.testing.tokenizers import TokenizerSuite

SIDE, CAPTIONS = 16, ["a small bright disk", "a dark ring", "two bars, one short"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("llamagen")
    return {
        "t2i": random_llamagen(root / "t2i", "t2i"),
        "c2i": random_llamagen(root / "c2i", "c2i"),
        "other": random_llamagen(root / "other", "t2i", seed=1),
    }


def tokens(folder):
    return configure("tokenizer", "llamagen", checkpoint=str(folder / "vq.pt"), **VQ)


def generator(folder, **options):
    sizes = {**GPT, "caption_tokens": LENGTH, "caption_width": WIDTH, "checkpoint": str(folder / "gpt.pt")}
    if (folder / "t5").exists():
        sizes["text_encoder"] = str(folder / "t5")
    else:
        sizes["conditioning"] = "class"
    return configure("generator", "dp_llamagen_checkpoint", **{**sizes, **options})


class TestTokens(TokenizerSuite):
    @pytest.fixture(autouse=True)
    def folder(self, folders):
        type(self).path, type(self).other = folders["t2i"], {
            "checkpoint": str(folders["other"] / "vq.pt"), "multipliers": "1-2-2", "channels": 32,
        }  # fmt: skip

    def config(self):
        return tokens(self.path)


class TestLlamaGenWithText(GeneratorSuite):
    @pytest.fixture(autouse=True)
    def folder(self, folders):
        type(self).path, type(self).other = folders["t2i"], {
            "checkpoint": str(folders["other"] / "gpt.pt"), "text_encoder": str(folders["other"] / "t5"),
        }  # fmt: skip

    def config(self):
        return generator(self.path)

    def trial(self, base):
        return dataclasses.replace(
            base, level=0, upscaler="identity", tokenizer=tokens(self.path),
            sampling=dataclasses.replace(base.sampling, guidance=2.0),
            privacy=dataclasses.replace(base.privacy, batch_size=2, steps=2),
        )  # fmt: skip


def made(folder, **options):
    tokenizer = tokenizers.build(tokens(folder), (3, SIDE, SIDE), 0, {})
    return LlamaGenCheckpointModel(generator(folder, **options), tokenizer, tokenizer, 3, "cpu")


def records(model, n=4, views=1):
    images = torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if model.config.conditioning == "class":
        return images, torch.arange(n) % 3
    rows = [CAPTIONS[(i + v) % 3] + "s" * i for i in range(n) for v in range(views)]
    return images, model.encode_captions(rows).unflatten(0, (n, views))


def logits_of_the_file(folder, codes, prefix, hidden):
    """p(next code) from a LlamaGen file, written for one sequence at a time: prefix P D, hidden P bool."""
    w = torch.load(folder / "gpt.pt", weights_only=True)["module"]
    h = torch.cat([prefix, w["tok_embeddings.weight"][codes[:-1]]])
    size, places, heads, d = len(h), len(prefix), GPT["heads"], GPT["width"] // GPT["heads"]
    seen = torch.ones(size, size).tril().bool()
    seen[:, :places] &= ~hidden
    seen |= torch.eye(size).bool()
    turns = torch.zeros(size, d // 2, dtype=torch.complex64)
    for t in range(size - places):
        row, column = divmod(t, 4)
        speeds = [10000 ** (-2 * j / (d // 2)) for j in range(d // 4)]
        angles = torch.tensor([row * s for s in speeds] + [column * s for s in speeds])
        turns[places + t] = torch.polar(torch.ones(d // 2), angles)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    for i in range(GPT["depth"]):
        mine = {name.removeprefix(f"layers.{i}."): x for name, x in w.items() if name.startswith(f"layers.{i}.")}
        q, k, v = (norm(h, mine["attention_norm.weight"]) @ mine["attention.wqkv.weight"].T).chunk(3, -1)
        outs = []
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            a, b = (
                torch.view_as_real(torch.view_as_complex(x[:, part].reshape(size, -1, 2).contiguous()) * turns).flatten(
                    1
                )
                for x in (q, k)
            )
            scores = (a @ b.T / d**0.5).masked_fill(~seen, -math.inf)
            outs.append(scores.softmax(-1) @ v[:, part])
        h = h + torch.cat(outs, -1) @ mine["attention.wo.weight"].T
        x = norm(h, mine["ffn_norm.weight"])
        gate, up = (x @ mine[f"feed_forward.w{n}.weight"].T for n in (1, 3))
        h = h + (F.silu(gate) * up) @ mine["feed_forward.w2.weight"].T
    return norm(h[places - 1 :], w["norm.weight"]) @ w["output.weight"].T


@pytest.mark.parametrize("dropped", [False, True])
def test_the_decoder_is_the_file_s_for_text(folders, dropped):
    """With its captions at the end of their places, empty places hidden, and a dropped caption's states replaced."""
    from transformers import T5EncoderModel

    model, folder = made(folders["t2i"]), folders["t2i"]
    network = model.from_file().eval()
    ids, codes = model.encode_captions(CAPTIONS), torch.randint(24, (3, 16))
    (ours,) = network(codes, network.condition.absent(ids) if dropped else ids)
    encoder = T5EncoderModel.from_pretrained(folder / "t5").eval()
    w = torch.load(folder / "gpt.pt", weights_only=True)["module"]
    for row in range(3):
        count = int((ids[row] != 0).sum())
        states = encoder(ids[row : row + 1, :count]).last_hidden_state[0].detach()
        shown = torch.cat([torch.zeros(LENGTH - count, WIDTH), states])
        shown = w["cls_embedding.uncond_embedding"] if dropped else shown
        prefix = F.gelu(shown @ w["cls_embedding.cap_proj.fc1.weight"].T, approximate="tanh")
        prefix = prefix @ w["cls_embedding.cap_proj.fc2.weight"].T
        theirs = logits_of_the_file(folder, codes[row], prefix, torch.arange(LENGTH) < LENGTH - count)
        torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-4)


def test_the_decoder_is_the_file_s_for_classes_which_begin_at_their_mean(folders):
    model, folder = made(folders["c2i"]), folders["c2i"]
    network, codes = model.from_file().eval(), torch.randint(24, (2, 16))
    (ours,) = network(codes, torch.tensor([1, 3]))  # a class, and none
    table = torch.load(folder / "gpt.pt", weights_only=True)["module"]["cls_embedding.embedding_table.weight"]
    for row, prefix in enumerate((table[:-1].mean(0), table[-1])):
        theirs = logits_of_the_file(folder, codes[row], prefix[None], torch.zeros(1, dtype=torch.bool))
        torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-4)


def test_pairs_of_neighbours_turn():
    x, angle = torch.randn(1, 4), torch.tensor([[0.3, 1.1]])
    found = turned(x, torch.stack([angle.cos(), angle.sin()]))
    z = torch.view_as_complex(x.view(1, 2, 2)) * torch.polar(torch.ones(1, 2), angle)
    torch.testing.assert_close(found, torch.view_as_real(z).flatten(1))


@pytest.mark.parametrize("kind", ["t2i", "c2i"])
def test_samples_with_and_without_a_cache_are_the_same(folders, kind):
    model = made(folders[kind])
    network = model.from_file().eval()
    conditions = torch.tensor([0, 1, 2]) if kind == "c2i" else model.encode_captions(CAPTIONS)
    uniforms = torch.rand(3, 16)
    drawn = [network.sample(conditions, uniforms, guidance=2.0, cached=cached) for cached in (True, False)]
    assert torch.equal(*drawn)
    assert len(drawn[0].unique()) > 3


@pytest.mark.parametrize("mode", ["hooks", "ghost", "bookkeeping", "auto"])
@pytest.mark.parametrize(("kind", "trained"), [("t2i", "all"), ("t2i", "attention"), ("c2i", "lora")])
def test_every_mode_finds_what_a_loop_over_records_finds(folders, kind, trained, mode):
    """RMSNorm, rotary attention with a mask, SwiGLU, a projected prefix; dropped captions; views if the mode can."""
    views = 1 if mode == "ghost" else 2
    model = made(folders[kind], condition_dropout=0.4)
    privacy = PrivacyConfig(trained=trained, lora_rank=2, views=views)
    network = model.from_file()
    adapt(network, privacy, 0)
    torch.manual_seed(2)
    for parameter in trainable(network).values():
        with torch.no_grad():
            parameter += 0.1 * torch.randn_like(parameter)
    loss, batch = model.record_loss(privacy, False), (*records(model, views=views), torch.rand(4, views))
    rows = []
    for row in range(4):
        one = loss(network, *(tensor[row : row + 1] for tensor in batch)).sum()
        rows.append(torch.autograd.grad(one, list(trainable(network).values())))
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in row)) for row in rows]
    bound = sorted(norms)[1]  # some are clipped, and some not
    expected = [sum(min(1.0, bound / n) * g for n, g in zip(norms, c, strict=True)) for c in zip(*rows, strict=True)]
    gradients = RecordGradients(network, bound, mode)
    found = gradients.clipped_sum(loss, batch)
    gradients.close()
    size = max(float(theirs.abs().max()) for theirs in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * size


@pytest.mark.parametrize(("kind", "trained"), [("t2i", "all"), ("t2i", "attention"), ("t2i", "lora"), ("c2i", "all")])
def test_a_fit_moves_what_it_says_and_no_other_tensor(folders, kind, trained, tmp_path):
    model = made(folders[kind])
    weights = model.fit_public(*records(model), 0, silent)
    privacy = PrivacyConfig(epsilon=100.0, delta=1e-3, batch_size=3, steps=2, trained=trained, lora_rank=2)
    fit = FitSettings(privacy, {"private_fit": Mechanism(3 / 6, 1.5, 2)}, 5, tmp_path / "c")
    after = model.fit_private(weights, *records(model, 6), fit, silent).weights
    assert after.keys() == weights.keys()
    moved = {name for name in weights if not torch.equal(weights[name], after[name])}
    condition = {name for name in weights if name.startswith("condition.") and not name.endswith("uncond_embedding")}
    expected = {
        "all": weights.keys() - {"condition.uncond_embedding"},
        "attention": condition | {name for name in weights if name.endswith(("wqkv.weight", "wo.weight"))},
        "lora": condition | {name for name in weights if name.startswith("blocks.") and "norm" not in name},
    }[trained]
    assert moved == expected
    vq = torch.load(folders[kind] / "vq.pt", weights_only=True)["model"]
    mine = model.tokenizer.network.state_dict()
    assert all(torch.equal(x, mine[name]) for name, x in vq.items() if name != "quantize.codebook_used")


def test_codes_are_those_of_the_nearest_unit_vector_and_decode_to_the_published_range(folders):
    tokenizer = tokenizers.build(tokens(folders["t2i"]), (3, SIDE, SIDE), 0, {})
    images = torch.rand(3, 3, SIDE, SIDE)
    codes = tokenizer.encode(images)
    network = tokenizer.network
    with torch.no_grad():
        z = F.normalize(network.quant_conv(network.encoder(images * 2 - 1)), dim=1).permute(0, 2, 3, 1).reshape(-1, 4)
    book = F.normalize(torch.load(folders["t2i"] / "vq.pt", weights_only=True)["model"]["quantize.embedding.weight"])
    assert torch.equal(torch.cdist(z, book).argmin(1).view(3, -1), codes)
    with torch.no_grad():
        shown = network.decoder(network.post_quant_conv(book[codes].view(3, 4, 4, 4).permute(0, 3, 1, 2)))
    torch.testing.assert_close(tokenizer.decode(codes), ((shown + 1) / 2).clamp(0, 1))


def trial(folder, tokenizer=None, **options):
    images = DataConfig(name="procedural", size=SIDE, channels=3, n_records=64)
    return TrialConfig(
        level=0,
        data=images,
        public=dataclasses.replace(images, split="public", n_records=32),
        tokenizer=tokenizer or tokens(folder),
        generator=generator(folder, **options),
        privacy=PrivacyConfig(batch_size=16, steps=2),
        sampling=SamplingConfig(n=4),
        upscaler="identity",
        metrics=MetricsConfig(fid_samples=4, downstream_steps=0),
    )


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def saved(path, weights):
    torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_weights_are_found_wherever_a_file_keeps_them(folders, tmp_path, wrapper):
    """Beside what training scripts leave: an optimizer, options, buffers that follow from the sizes."""
    weights = torch.load(folders["c2i"] / "gpt.pt", weights_only=True)["module"]
    weights |= {"freqs_cis": torch.zeros(3)}
    whole = {wrapper: weights, "steps": 3, "args": Namespace(lr=0.1)} if wrapper else weights
    found = LlamaGenCheckpointModel.from_file(made(folders["c2i"], checkpoint=saved(tmp_path / "gpt.pt", whole)))
    expected = made(folders["c2i"]).from_file().state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in found.state_dict().items())
    save_file(weights, tmp_path / "gpt.safetensors")
    again = made(folders["c2i"], checkpoint=str(tmp_path / "gpt.safetensors")).from_file()
    assert torch.equal(again.code.weight, expected["code.weight"])


def test_files_of_another_model_are_refused_by_their_first_key(folders, tmp_path):
    folder, path = folders["t2i"], tmp_path / "bad.pt"
    gpt = torch.load(folder / "gpt.pt", weights_only=True)["module"]
    vq = torch.load(folder / "vq.pt", weights_only=True)["model"]
    model_checks.check_models(trial(folder))
    wo, conv = "layers.1.attention.wo.weight", "decoder.conv_in.weight"
    for weights, words in (
        ({name: x for name, x in gpt.items() if name != wo}, f"has no weights {wo}"),
        ({**gpt, "layers.2.foreign": torch.ones(1)}, "has weights layers.2.foreign, which this model has not"),
        ({**gpt, wo: torch.ones(3, 3)}, rf"has weights {wo} of shape \(3, 3\), and this model has \(16, 16\)"),
        ({"nothing": 3}, "holds no weights"),
    ):
        with pytest.raises(UserError, match=words):
            model_checks.check_models(trial(folder, checkpoint=saved(path, {"model": weights})))
    for weights, words in (
        ({name: x for name, x in vq.items() if name != conv}, f"has no weights {conv}"),
        ({**vq, "encoder.foreign": torch.ones(1)}, "has weights encoder.foreign, which"),
        ({**vq, conv: torch.ones(3, 3)}, rf"has weights {conv} of shape \(3, 3\)"),
    ):
        other = dataclasses.replace(tokens(folder), checkpoint=saved(path, {"model": weights}))
        with pytest.raises(UserError, match=words):
            model_checks.check_models(trial(folder, tokenizer=other))
    path.write_bytes((folder / "gpt.pt").read_bytes()[:500])
    with pytest.raises(UserError, match=r"bad\.pt cannot be read \(RuntimeError: [^.]*\): give safetensors"):
        model_checks.check_models(trial(folder, checkpoint=str(path)))
    with pytest.raises(UserError, match=r"has no weights cls_embedding\.embedding_table\.weight"):
        model_checks.check_models(trial(folder, conditioning="class"))


def test_a_pickle_of_other_objects_is_refused_and_not_run(folders, tmp_path):
    witness, path = tmp_path / "ran", tmp_path / "bad.pt"
    bad = saved(path, {"model": {"tok_embeddings.weight": torch.ones(2), "x": Malicious(str(witness))}})
    other = dataclasses.replace(tokens(folders["t2i"]), checkpoint=bad)
    for asked in (trial(folders["t2i"], checkpoint=bad), trial(folders["t2i"], tokenizer=other)):
        with pytest.raises(UserError, match=r"bad\.pt cannot be read .*weights_only=True"):
            model_checks.check_models(asked)
    assert not witness.exists()


def test_what_it_cannot_do_is_refused(folders):
    folder = folders["t2i"]
    assert checks.check(trial(folder)) == []
    small = configure("tokenizer", "scalar")
    for asked, words in (
        (lambda: trial(folder, checkpoint="none.pt"), "generator.checkpoint=none.pt is not a file"),
        (lambda: trial(folder, text_encoder=str(folder)), "is no folder of a text encoder: give a copy of"),
        (lambda: trial(folder, heads=3), "generator.width=16 does not give each of 3 heads"),
        (lambda: trial(folder, tokenizer=small), "generator=dp_llamagen_checkpoint draws one grid of codes"),
        (
            lambda: trial(folder, tokenizer=configure("tokenizer", "llamagen")),
            "tokenizer.checkpoint=None is not a file",
        ),
        (
            lambda: trial(folder, tokenizer=dataclasses.replace(tokens(folder), multipliers="1-1-2-2-4-4")),
            r"a code of 32×32 pixels, and coarse images are 16×16",
        ),
        (
            lambda: trial(folder, tokenizer=dataclasses.replace(tokens(folder), multipliers="1,2")),
            "multipliers=1,2 and channels=64 make no network",
        ),
    ):
        with pytest.raises(UserError, match=words):
            checks.check(asked())
    with pytest.raises(UserError, match=r"has states 16 wide, and generator\.caption_width=8"):
        model_checks.check_models(trial(folder, caption_width=8))
    assert Path(folder, "t5").exists()
