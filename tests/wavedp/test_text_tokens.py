"""Sentences as the tokens of a frozen encoder, a prefix of an image's: what is encoded, what the decoder sees of it,
and that one record's captions never lengthen its gradient."""

import dataclasses
import shutil
from functools import partial

import pytest
import torch
import transformers
from tokenizers import Tokenizer as WordTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from wavedp import chain, checks, data, model_checks, stages, text
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.data.arrays import from_arrays
from wavedp.errors import UserError
from wavedp.generators.conditions import drop
from wavedp.generators.dp_llamagen.model import LlamaGenModel
from wavedp.generators.spectral_ar.model import SpectralARModel
from wavedp.generators.token_model import record_loss, token_losses
from wavedp.privacy.clipping import RecordGradients, SideBySide, trainable
from wavedp.store import Store
from wavedp.testing.generators import GeneratorSuite
from wavedp.tokenizers import untrained

SMALL = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}
LENGTH = 6


def made(name="spectral_ar", length=LENGTH):
    """The model, and a decoder with weights that are not at their first values, over few tokens."""
    tokens = configure("tokenizer", "raster" if name == "dp_llamagen" else "scalar", **(
        {"codes": 12, "width": 16} if name == "dp_llamagen" else {}))  # fmt: skip
    tokenizer = untrained(tokens, (1, 8, 8), 0)
    config = configure("generator", name, **SMALL, conditioning="tokens", text_tokens=length)
    model = (LlamaGenModel if name == "dp_llamagen" else SpectralARModel)(config, tokenizer, tokenizer, 1, "cpu")
    torch.manual_seed(0)
    decoder = model._model(tokenizer, 1)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model, decoder


def records(n, views, seed=0):
    """Images, and their captions' tokens B V P E+1, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 1, 8, 8, generator=generator)
    states = torch.randn(n, views, LENGTH, text.EMBEDDING_WIDTH + 1, generator=generator)
    empty = torch.arange(LENGTH) < torch.randint(LENGTH, (n, views, 1), generator=generator)
    states[..., :-1] = torch.nn.functional.normalize(states[..., :-1], dim=-1) * ~empty[..., None]
    states[..., -1] = empty.float()
    return images, states.half()


def test_tokens_stand_at_the_right_end_and_the_rest_is_empty():
    sentences = ["a boot", "The woman has long black hair and wears glasses.", "a boot"]
    found = text.encode_tokens(sentences, 8)
    assert (found.shape, found.dtype) == ((3, 8, text.EMBEDDING_WIDTH + 1), torch.float16)
    assert found[..., -1].tolist() == [[1] * 4 + [0] * 4, [0] * 8, [1] * 4 + [0] * 4]  # [CLS] a boot [SEP]; cut to 8
    assert not found[0, :4, :-1].any()
    torch.testing.assert_close(found[..., :-1].float().norm(dim=-1), 1 - found[..., -1].float(), rtol=0, atol=1e-3)
    assert torch.equal(found[0], found[2])
    alone = torch.cat([text.encode_tokens([each], 8) for each in sentences])
    torch.testing.assert_close(found, alone, rtol=0, atol=2e-3)
    # Positions count from the sentence's first token, whatever stands before it: as the encoder itself gives them.
    words_of, network = text._load("cpu")
    with torch.inference_mode():
        states = network(**words_of(["a boot"], return_tensors="pt")).last_hidden_state[0]
    wanted = torch.nn.functional.normalize(states, dim=-1)
    torch.testing.assert_close(found[0, 4:, :-1].float(), wanted, rtol=0, atol=2e-3)


def test_captions_stay_with_their_record_in_whatever_order_records_come():
    captions = ["a boot\na red shoe", "a hat", "a long blue coat\na coat\n\n"]
    rows = text.embed_captions(captions, 3, partial(text.encode_tokens, length=8))[:]
    assert rows.shape == (3, 3, 8, text.EMBEDDING_WIDTH + 1)
    said = [
        "a boot",
        "a red shoe",
        "a boot",
        "a hat",
        "a hat",
        "a hat",
        "a long blue coat",
        "a coat",
        "a long blue coat",
    ]
    torch.testing.assert_close(rows.flatten(0, 1), text.encode_tokens(said, 8), rtol=0, atol=2e-3)
    order = [2, 0, 1]
    again = text.embed_captions([captions[i] for i in order], 3, partial(text.encode_tokens, length=8))[:]
    torch.testing.assert_close(again, rows[order], rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["spectral_ar", "dp_llamagen"])
def test_the_decoder_sees_every_token_of_the_sentence_and_none_that_is_empty(name):
    model, decoder = made(name)
    images, states = records(1, 1)
    codes, states = model.tokenizer.encode(images), states[:, 0].float()
    states[..., -1] = torch.tensor([1.0, 1, 0, 0, 0, 0])
    states[..., :-1] *= 1 - states[..., -1:]
    states[:, 2:, :-1] += torch.randn(1, 4, text.EMBEDDING_WIDTH, generator=torch.Generator().manual_seed(1))
    before = token_losses(decoder, codes, states)
    assert before.shape == codes.shape, "a loss for each token of the image and none for the sentence"
    for place in range(2, LENGTH):
        other = states.clone()
        other[:, place, :-1] += 1
        assert (token_losses(decoder, codes, other) - before).abs().max() > 1e-4, place
    none = decoder.condition.absent(states)
    assert none[..., -1].eq(1).all()
    assert not none[..., :-1].any()
    torch.testing.assert_close(decoder.condition(none)[0, 0], decoder.condition(states)[0, 0])  # an empty position
    chances = torch.tensor([0.05])
    assert torch.equal(drop(decoder.condition, states, 0.1, chances), none)
    assert torch.equal(drop(decoder.condition, states, 0.01, chances), states)


@pytest.mark.parametrize("name", ["spectral_ar", "dp_llamagen"])
@pytest.mark.parametrize("length", [LENGTH, 1])
def test_cached_sampling_equals_uncached_and_what_training_sees(name, length):
    model, decoder = made(name, length)
    states = records(3, 1)[1][:, 0, -length:].float()
    uniforms = torch.rand(3, model.tokenizer.length, generator=torch.Generator().manual_seed(2))
    given = model.tokenizer.encode(records(3, 1, seed=5)[0])[:, :3]
    for options in ({}, {"guidance": 3.0}, {"prefix": given}):
        drawn = decoder.sample(states, uniforms, cached=True, **options)
        assert torch.equal(drawn, decoder.sample(states, uniforms, cached=False, **options))
    assert not torch.equal(decoder.sample(states, uniforms, guidance=3.0), decoder.sample(states, uniforms))
    codes = decoder.sample(states, uniforms, temperature=1e-6)  # the likeliest code of each place
    logits = torch.cat([each.argmax(-1) for each in decoder(codes, states)], 1)
    assert torch.equal(logits, codes)


def per_record(decoder, loss, batch, norm):
    """Each record's gradient by autograd alone, and the sum of the clipped ones, by the table of clipping.py."""
    gradients = []
    for i in range(len(batch[0])):
        decoder.zero_grad()
        loss(decoder, *(part[i : i + 1] for part in batch)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainable(decoder).values()]))
    gradients = torch.stack(gradients)
    decoder.zero_grad()
    return gradients, sum(g * min(1.0, norm / (g.norm() + 1e-6)) for g in gradients)


def clipped(decoder, loss, batch, norm, mode):
    splitter = RecordGradients(decoder, norm, mode)
    try:
        return torch.cat([part.flatten() for part in splitter.clipped_sum(loss, batch)])
    finally:
        splitter.close()


@pytest.mark.parametrize("name", ["spectral_ar", "dp_llamagen"])
@pytest.mark.parametrize(("mode", "views"), [("bookkeeping", 1), ("hooks", 1), ("ghost", 1), ("bookkeeping", 3),
                                             ("hooks", 3), ("bookkeeping side by side", 3)])  # fmt: skip
def test_every_way_of_clipping_equals_a_loop_over_records(name, mode, views):
    model, decoder = made(name)
    batch = (*records(5, views), torch.rand(5, views, generator=torch.Generator().manual_seed(3)))
    loss = record_loss(model.tokenizer, PrivacyConfig(views=views), 0.2, side_by_side="side" in mode)
    alone = record_loss(model.tokenizer, PrivacyConfig(views=views), 0.2)
    assert isinstance(loss, SideBySide) == ("side" in mode)
    lengths, _ = per_record(decoder, alone, batch, 1e4)
    for norm in (1e4, float(lengths.norm(dim=1).median())):  # no record is clipped; about half are
        _, wanted = per_record(decoder, alone, batch, norm)
        off = (clipped(decoder, loss, batch, norm, mode.split()[0]) - wanted).abs().max()
        assert off <= 1e-5 * wanted.abs().max(), (norm, float(off))


def test_ten_captions_turn_a_record_s_gradient_and_never_lengthen_it():
    """Whatever a record's captions say, short, long, empty or of a size that no encoder gives."""
    model, decoder = made()
    with torch.no_grad():
        decoder.condition.project.weight *= 10  # a model that heeds what is said
    loss = record_loss(model.tokenizer, PrivacyConfig(views=10), 0.0)
    images, usual = records(1, 10)
    _, other = records(1, 10, seed=9)
    huge, empty = usual.float() * 1e4, torch.zeros_like(usual)
    empty[..., -1] = 1
    found = {}
    for name, states in {"usual": usual, "other": other, "huge": huge, "empty": empty}.items():
        found[name] = clipped(decoder, loss, (images, states), 0.7, "bookkeeping")
        assert found[name].norm() <= 0.7 * (1 + 1e-5), name
    assert turned(found["usual"], found["other"]) > 5e-3, "other captions, another direction"
    one = clipped(decoder, loss, (images, usual[:, :1].expand(-1, 10, -1, -1)), 0.7, "bookkeeping")
    assert turned(found["usual"], one) > 5e-3, "all ten count"
    again = clipped(decoder, loss, (images, usual), 0.7, "hooks")
    assert turned(found["usual"], again) < 1e-4, "rounding turns less"


def turned(one, other):
    """The sine of the angle between two gradients."""
    one, other = (torch.nn.functional.normalize(each.double(), dim=0) for each in (one, other))
    return float((other - (one @ other) * one).norm())


class TestSuite(GeneratorSuite):
    """Views, dropped captions and guidance; public pretraining of finer tokens."""

    other = {"text_encoder": None}  # noqa: RUF012

    def config(self):
        values = {"conditioning": "tokens", "text_tokens": 5, "condition_dropout": 0.2, "pretrain_level": 0}
        return configure("generator", "spectral_ar", **SMALL, **values)

    def trial(self, base):
        privacy = dataclasses.replace(base.privacy, views=2, trained="attention")
        return dataclasses.replace(base, privacy=privacy, sampling=dataclasses.replace(base.sampling, guidance=2.0))


# --- encoders in a folder

SENTENCES = ["a small dim disk", "a large bright square"]


def encoder_folder(path, kind="t5"):
    """A small random encoder as save_pretrained writes it."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    found = WordTokenizer(WordLevel({word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}, "<unk>"))
    found.pre_tokenizer = Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(path)
    torch.manual_seed(0)
    few = {"vocab_size": 32, "num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 2}
    model = {
        "t5": lambda: transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=32, d_model=20, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
        ),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**few, intermediate_size=16)),
        "gpt2": lambda: transformers.GPT2Model(
            transformers.GPT2Config(vocab_size=32, n_embd=12, n_layer=1, n_head=2, n_positions=16)
        ),
    }[kind]()
    model.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(("kind", "width"), [("t5", 20), ("bert", 12)])
def test_an_encoder_of_a_folder(kind, width, tmp_path):
    folder = encoder_folder(tmp_path / kind, kind)
    assert text.width(folder) == width
    found = text.encode_tokens([*SENTENCES, "a"], 6, folder)
    assert found.shape == (3, 6, width + 1)
    assert (1 - found[..., -1]).sum(1).tolist() == [4, 4, 1]
    _, network = text._load_folder(folder, "cpu")
    ids = text._load_folder(folder, "cpu")[0](SENTENCES[:1], return_tensors="pt").input_ids
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(network(input_ids=ids).last_hidden_state[0], dim=-1)
    torch.testing.assert_close(found[0, 2:, :-1].float(), wanted, rtol=0, atol=2e-3)
    assert not any(parameter.requires_grad for parameter in network.parameters()), "it is frozen"


def trial(folder=None, tokens=5, **changes):
    images = DataConfig(name="procedural", size=16, n_records=64)
    base = TrialConfig(
        level=1,
        data=images,
        public=dataclasses.replace(images, split="public", n_records=32),
        generator=configure(
            "generator", "spectral_ar", **SMALL, conditioning="tokens", text_tokens=tokens, text_encoder=folder
        ),
        privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=2, views=2),
        sampling=SamplingConfig(n=6),
        upscaler="nearest",
        metrics=MetricsConfig(fid_samples=4, downstream_steps=0),
    )
    return dataclasses.replace(base, **changes)


def test_a_trial_with_tokens_of_a_folder_s_encoder_whose_content_is_in_the_keys(tmp_path):
    folder = encoder_folder(tmp_path / "t5")
    config = trial(folder)
    checks.check(config)
    model_checks.check_models(config)
    store = Store(str(tmp_path / "store"))
    samples, _ = stages.make("upscale", config, store, "cpu")
    fitted, _ = stages.make("private_fit", config, store, "cpu")
    weights = fitted.tensors("weights")
    assert weights["condition.project.weight"].shape == (16, 21)
    assert not any("encoder" in name for name in weights), "the frozen encoder is no weight of the model"
    assert len(samples.tensors("samples")["images"]) == 6
    keys = chain.keys(config)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert chain.keys(trial(str(moved))) == keys
    (moved / "tokenizer.json").write_text((moved / "tokenizer.json").read_text().replace("disk", "disc"))
    changed = [name for name, key in chain.keys(trial(str(moved))).items() if key != keys[name]]
    assert changed == ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]
    other = [name for name, key in chain.keys(trial(folder, tokens=6)).items() if key != keys[name]]
    assert other == changed


def refused(config, words):
    """The sentence comes before any stage."""
    with pytest.raises(UserError, match=words):
        looked_at(config)


def looked_at(config):
    """What a study looks at before it starts."""
    checks.check(config)
    chain.keys(config)
    model_checks.check_models(config)


def test_encoders_that_are_absent_damaged_or_of_another_kind_are_refused(tmp_path):
    refused(trial("nowhere"), r"text_encoder=nowhere is not a folder: give one with a T5 encoder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(trial(str(empty)), r"empty holds no text encoder .*config\.json")
    refused(
        trial(encoder_folder(tmp_path / "gpt2", "gpt2")), r"of the kind 'gpt2': give an encoder of the kinds t5, mt5"
    )
    damaged = encoder_folder(tmp_path / "t5")
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"no weights")
    refused(trial(damaged), r"t5 cannot be loaded")


def test_what_has_no_tokens_or_no_captions_is_refused(tmp_path):
    u_net = configure("generator", "blur_diffusion", conditioning="tokens")
    refused(
        trial(generator=u_net), "puts a sentence before the tokens of an image, and generator=blur_diffusion has no"
    )
    config = trial(data=DataConfig(name="fashion_mnist"))
    refused(dataclasses.replace(config, public=None), "conditioning=tokens needs captions and fashion_mnist has none")
    empty = tmp_path / "prompts.txt"
    empty.write_text("\n  \n")
    refused(trial(sampling=SamplingConfig(n=6, prompts=str(empty))), r"prompts\.txt holds no prompt")
    refused(trial(sampling=SamplingConfig(n=6, prompts=str(tmp_path / "no"))), r"no cannot be read")
    pictures = (torch.rand(60, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    missing = from_arrays(pictures, [0] * 60, ["a thing", " \n"] * 30, home=tmp_path / "home")
    bare = trial(data=missing, privacy=PrivacyConfig(epsilon=4.0, batch_size=4, steps=2))
    refused(bare, r"record \d+ of .* \(train\) has no caption")


def test_whose_prompts_they_were_is_said(tmp_path):
    """And those of avatars are of no record, so they need no public captions."""
    file = tmp_path / "prompts.txt"
    file.write_text("a face\n")
    assert "captions of procedural, public test split" in chain.prompts_from(trial())
    assert chain.prompts_from(trial(sampling=SamplingConfig(n=6, prompts=str(file)))).startswith("the file prompts.txt")
    faces = DataConfig(name="avatars", size=16, n_records=64)
    config = trial(data=faces)
    assert chain.prompts_from(config) == "public sentences of avatars that are made of no record"
    assert stages.prompts(config) == data.prompts(faces)
    assert chain.prompts_from(trial(generator=configure("generator", "spectral_ar"))) is None
    reads = {stage.name: stage.reads(config) for stage in chain.CHAIN}
    assert reads["coarse_samples"] == []
