"""What every generator must do, and what the transformer promises."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wavedp.config import DiffusionConfig, PrivacyConfig, SamplingConfig, configure
from wavedp.errors import UserError
from wavedp.fields import fitting
from wavedp.generators import FitSettings, Pretrains
from wavedp.generators.adaptation import adapt, merge
from wavedp.generators.blur_diffusion.model import BlurDiffusionModel
from wavedp.generators.conditions import ClassCondition, TextCondition, drop
from wavedp.generators.real.model import RealModel
from wavedp.generators.spectral_ar.model import SpectralARModel, scale_weights
from wavedp.generators.spectral_ar.transformer import SpectralTransformer, cut, neighbour_table
from wavedp.generators.token_decoder import draw
from wavedp.generators.token_model import record_loss, token_losses
from wavedp.privacy.accounting import Mechanism, mechanisms
from wavedp.progress import silent
from wavedp.tokenizers import untrained
from wavedp.views import MOST, view

SMALL = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 2, "pretrain_batch": 8}


FIT = {"private_fit": Mechanism(8 / 40, 1.3, 2)}


def configured(kind, name, **values):
    """A method's configuration, with those of the values that it reads."""
    found = fitting(kind, {"name": name, **values})
    return configure(kind, found.pop("name"), **found)


def tokenizer(side=14, channels=1, level=0, name="scalar"):
    config = configured("tokenizer", name, codes=12, detail_codes=20, width=16)
    return untrained(config, (channels, side, side), level)


def over_tokens(private, public=None, n_classes=4, **changes):
    config = configure("generator", "spectral_ar", **{**SMALL, **changes})
    return SpectralARModel(config, private, public or private, n_classes, "cpu")


def generator(name="spectral_ar", channels=1, n_classes=4):
    """The models themselves, without a trial: as a notebook would build them."""
    if name == "real":
        return RealModel()
    if name == "blur_diffusion":
        config, diffusion = configured("generator", name, **SMALL), DiffusionConfig(channels=16, multiplicity=2)
        return BlurDiffusionModel(config, diffusion, "quartic", (channels, 14, 14), n_classes, "cpu")
    return over_tokens(tokenizer(channels=channels), n_classes=n_classes)


def transformer(side=14, channels=1, depth=2, made=None):
    torch.manual_seed(0)
    made = made or tokenizer(side, channels)
    model = SpectralTransformer(made, ClassCondition(3, 16), width=16, depth=depth, heads=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the tame initial weights, so that mistakes show
    return model.eval()


@pytest.mark.parametrize("name", ["spectral_ar", "blur_diffusion", "real"])
@pytest.mark.parametrize("channels", [1, 3])
def test_conformance(name, channels, tmp_path: Path):
    torch.manual_seed(0)
    images, labels = torch.rand(40, channels, 14, 14), torch.arange(40) % 4
    made = generator(name, channels)
    trains = isinstance(made, Pretrains)
    public = torch.rand(20, channels, 14, 14), torch.arange(20) % 7
    weights = made.fit_public(*public, 0, silent) if trains else {}
    privacy = PrivacyConfig(epsilon=1.0, batch_size=8, steps=2)
    settings = FitSettings(privacy, FIT, 5, tmp_path / "checkpoint.safetensors")
    fit = made.fit_private(weights, images, labels, settings, silent)
    assert all(isinstance(value, torch.Tensor) for value in fit.weights.values())
    if trains:
        assert fit.mechanisms == FIT
        again = made.fit_private(weights, images, labels, replace(settings, checkpoint=tmp_path / "b"), silent)
        other = {name: value + 1e-3 for name, value in weights.items()}  # public weights of other rounding
        third = made.fit_private(other, images, labels, replace(settings, checkpoint=tmp_path / "o"), silent)
        assert again.releases == fit.releases != third.releases
    wanted = torch.tensor([3, 0, 0, 1, 2])
    told = []
    samples = made.sample(fit.weights, wanted, SamplingConfig(batch_size=2), 1, lambda *x: told.append(x))
    assert samples.shape == (5, channels, 14, 14)
    assert samples.dtype == torch.float32
    assert samples.min() >= 0
    assert samples.max() <= 1
    again = made.sample(fit.weights, wanted, SamplingConfig(batch_size=5), 1, silent)
    assert torch.allclose(samples, again, atol=1e-4)  # the seed decides, the batch size does not


def test_a_start_is_the_public_model_at_the_private_size():
    """Also the model at ε = 0, which no private fit touches."""
    for made in (generator(), generator("blur_diffusion")):
        weights = made.fit_public(torch.rand(20, 1, 14, 14), torch.arange(20) % 7, 0, silent)
        start = made.start(weights)
        assert start.keys() == weights.keys()
        assert all(torch.equal(start[name], weights[name]) for name in weights)


def test_real_returns_sensitive_images_of_the_class(tmp_path):
    images, labels = torch.rand(12, 1, 14, 14), torch.arange(12) % 3
    fit = generator("real", n_classes=3).fit_private(
        {}, images, labels, FitSettings(PrivacyConfig(), {}, 0, tmp_path / "c"), silent
    )
    drawn = generator("real", n_classes=3).sample(fit.weights, torch.tensor([2, 2]), SamplingConfig(), 0, silent)
    assert not torch.equal(drawn[0], drawn[1])
    assert all(any(torch.equal(image, real) for real in images[labels == 2]) for image in drawn)


@pytest.mark.parametrize("name", ["scalar", "spectral"])
def test_real_images_through_tokens_are_what_their_codes_say(name, tmp_path):
    """Whatever the batch; the private fit keeps the images as they are."""
    images, labels = torch.rand(12, 1, 14, 14), torch.arange(12) % 3
    made = tokenizer(name=name)
    settings = FitSettings(PrivacyConfig(), {}, 0, tmp_path / "c")
    fit = RealModel(made).fit_private({}, images, labels, settings, silent)
    assert {name: value.tolist() for name, value in fit.weights.items()} == {
        name: value.tolist()
        for name, value in RealModel().fit_private({}, images, labels, settings, silent).weights.items()
    }
    wanted, sampling = torch.tensor([2, 0, 2, 1, 1]), SamplingConfig(batch_size=2)
    plain, through = (
        model.sample(fit.weights, wanted, sampling, 0, silent) for model in (RealModel(), RealModel(made))
    )
    assert torch.allclose(through, made.decode(made.encode(plain)), atol=1e-6)
    assert not torch.allclose(through, plain, atol=1e-2)  # these tokens lose something


@pytest.mark.parametrize(("side", "channels"), [(14, 1), (7, 1), (14, 3)])
def test_cached_sampling_equals_uncached(side, channels):
    model = transformer(side, channels)
    labels, uniforms = torch.arange(6) % 3, torch.rand(6, model.length)
    assert torch.equal(model.sample(labels, uniforms), model.sample(labels, uniforms, cached=False))


@pytest.mark.parametrize("name", ["spectral", "raster"])
def test_cached_logits_equal_uncached_ones(name):
    """Of the last token, after a given prefix, with and without guidance."""
    model = transformer(made=tokenizer(28, name=name))
    codes = torch.randint(0, 12, (4, model.length))
    uniforms, labels = torch.rand(4, model.length), torch.arange(4) % 3
    seen = []
    handle = model.heads[-1].register_forward_hook(lambda module, inputs, logits: seen.append(logits))
    for guidance in (1.0, 3.0):
        for prefix in (None, codes[:, :30]):
            for cached in (True, False):
                model.sample(labels, uniforms, guidance=guidance, prefix=prefix, cached=cached)
            half = len(seen) // 2
            assert max(float((a - b).abs().max()) for a, b in zip(seen[:half], seen[half:], strict=True)) <= 1e-4
            seen.clear()
    handle.remove()


def test_a_prefix_is_kept_and_may_not_be_longer_than_the_sequence():
    model = transformer()
    prefix, uniforms = torch.randint(0, 30, (3, 49)), torch.rand(3, model.length)
    codes = model.sample(torch.arange(3), uniforms, prefix=prefix)
    assert torch.equal(codes[:, :49], prefix)
    assert torch.equal(model.sample(torch.arange(3), uniforms, prefix=codes), codes)
    with pytest.raises(UserError, match="a prefix of 99 codes is longer than the sequence of 98"):
        model.sample(torch.arange(3), uniforms, prefix=torch.zeros(3, 99, dtype=torch.long))


def test_guidance_extrapolates_from_the_unconditional_logits():
    model = transformer()
    labels, uniforms = torch.tensor([0, 1]), torch.rand(2, model.length)
    assert torch.equal(model.sample(labels, uniforms, guidance=1.0), model.sample(labels, uniforms))
    none = model.condition.absent(labels)
    assert torch.equal(model.sample(labels, uniforms, guidance=0.0), model.sample(none, uniforms))
    guided = model.sample(labels, uniforms, guidance=4.0)
    with torch.no_grad():
        conditional, unconditional = (
            torch.stack([part[:, 0] for part in model(guided, c)[:1]])[0] for c in (labels, none)
        )
    first, _ = draw(unconditional + 4 * (conditional - unconditional), uniforms[:, 0], 1.0, None, None)
    assert torch.equal(guided[:, 0], first)
    assert not torch.equal(guided, model.sample(labels, uniforms))


@pytest.mark.parametrize("name", ["scalar", "spectral"])
@pytest.mark.parametrize("level", [1, 2])
def test_the_private_model_is_the_public_one_cut_to_the_coarse_tokens(name, level):
    """Equal logits, and no weight of finer scales alone: there is nothing for a gradient or noise to touch."""
    public, private = (tokenizer(28, level=each, name=name) for each in (0, level))
    model = transformer(made=public)
    small = transformer(made=private)
    small.load_state_dict(cut(model.state_dict(), public, private))
    codes = private.encode(torch.rand(3, 1, 28 >> level, 28 >> level))
    labels = torch.arange(3)
    padded = torch.nn.functional.pad(codes, (0, public.length - private.length))
    with torch.no_grad():
        for a, b in zip(small(codes, labels), model(padded, labels), strict=False):
            torch.testing.assert_close(a, b[:, : a.shape[1]], rtol=0, atol=1e-5)
    assert small.position.weight.shape[0] == private.length
    assert len(small.heads) == len(private.spans)
    assert small.code.weight.shape[0] == sum(s.size for s in private.spans) + 1
    with pytest.raises(UserError, match="are no prefix of those the generator was pretrained on"):
        cut(small.state_dict(), private, public)


def test_no_gradient_or_noise_reaches_finer_scales_in_a_private_fit(tmp_path):
    public, private = (tokenizer(28, level=each, name="spectral") for each in (0, 1))
    frozen = {key: value.clone() for key, value in private.network.state_dict().items()}
    made = over_tokens(private, public)
    weights = made.fit_public(torch.rand(20, 1, 28, 28), torch.arange(20) % 7, 0, silent)
    before = {key: value.clone() for key, value in weights.items()}
    settings = FitSettings(PrivacyConfig(epsilon=1.0, batch_size=8, steps=2), FIT, 5, tmp_path / "c")
    fit = made.fit_private(weights, torch.rand(40, 1, 14, 14), torch.arange(40) % 4, settings, silent)
    assert all(torch.equal(weights[key], before[key]) for key in before)  # the public model is not moved either
    assert fit.weights["position.weight"].shape[0] == private.length < weights["position.weight"].shape[0]
    assert all(torch.equal(private.network.state_dict()[key], frozen[key]) for key in frozen)
    full = made.complete(weights, torch.rand(3, 1, 14, 14), 1.0)
    assert full.shape == (3, 1, 28, 28)


@pytest.mark.parametrize("name", ["scalar", "spectral", "raster"])
def test_class_means_warm_the_model_up_and_are_a_mechanism_of_their_own(name, tmp_path):
    made = tokenizer(28, level=1, name=name)
    starting = over_tokens(made, n_classes=2)
    images = torch.zeros(400, 1, 14, 14) + 0.1
    images[200:] += 0.8  # a dark class and a bright one
    labels = torch.arange(400) // 200
    weights = starting.fit_public(torch.rand(20, 1, 14, 14), torch.arange(20) % 7, 0, silent)
    privacy = PrivacyConfig(epsilon=8.0, batch_size=8, steps=1, learning_rate=1e-2, mean_share=0.5, ema_decay=0.0)
    planned = dict(zip(("class_means", "private_fit"), mechanisms(privacy, 400), strict=True))
    fit = starting.fit_private(weights, images, labels, FitSettings(privacy, planned, 5, tmp_path / "c"), silent)
    assert fit.mechanisms == planned
    assert list(fit.releases) == list(fit.mechanisms)
    assert len(set(fit.releases.values())) == 2
    coarsest = made.positions[:, 0] == 0
    bright = made.encode(images[-1:])[:, coarsest]

    def likelihood(weights, label):
        model = starting._model(made, 2, weights)
        return -token_losses(model, made.encode(images[-1:]), torch.tensor([label]))[:, coarsest].mean()

    assert bright.shape[1] == 49
    assert likelihood(fit.weights, 1) > likelihood(weights, 1)


def test_completion_depends_on_its_own_image_alone():
    public, private = (tokenizer(28, level=each, name="scalar") for each in (0, 1))
    made = over_tokens(private, public)
    weights = made.fit_public(torch.rand(20, 1, 28, 28), torch.arange(20) % 7, 0, silent)
    images = torch.rand(4, 1, 14, 14)
    full = made.complete(weights, images, 1.0)
    assert torch.equal(made.complete(weights, images.flip(0), 1.0).flip(0), full)
    assert torch.equal(private.encode(images), public.encode(full)[:, : private.length]) or full.std() > 0


@pytest.mark.parametrize("trained", ["attention", "lora"])
def test_adaptation_moves_what_it_says_and_merges_back(trained, tmp_path):
    made = generator()
    torch.manual_seed(0)
    images, labels = torch.rand(40, 1, 14, 14), torch.arange(40) % 4
    weights = made.fit_public(images, labels, 0, silent)
    privacy = PrivacyConfig(epsilon=1.0, batch_size=8, steps=3, trained=trained, lora_rank=2)
    fit = made.fit_private(weights, images, labels, FitSettings(privacy, FIT, 5, tmp_path / "c"), silent)
    assert fit.weights.keys() == weights.keys()
    moved = {
        name.split(".weight")[0].split(".bias")[0]
        for name in weights
        if not torch.equal(weights[name], fit.weights[name])
    }
    linear = {"attention": ["qkv", "out"], "lora": ["qkv", "out", "up", "down"]}[trained]
    assert moved == {"condition.table", *(f"blocks.0.{name}" for name in linear)}
    if trained == "lora":
        change = fit.weights["blocks.0.up.weight"] - weights["blocks.0.up.weight"]
        assert torch.linalg.matrix_rank(change) == 2
        with pytest.raises(UserError, match="lora_rank=16 is not a low rank"):
            adapt(transformer(), PrivacyConfig(trained="lora", lora_rank=16), 0)


def test_low_rank_layers_compute_what_merge_gives():
    model, plain = transformer(), transformer()
    adapt(model, PrivacyConfig(trained="lora", lora_rank=3), 0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plain.load_state_dict(merge(model.state_dict()))
    codes, labels = torch.randint(0, 30, (3, model.length)), torch.arange(3)
    for a, b in zip(model(codes, labels), plain(codes, labels), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_record_s_loss_averages_its_views_and_weighs_scales():
    made = tokenizer(28, name="spectral")
    model, images, labels = transformer(made=made), torch.rand(5, 1, 28, 28), torch.arange(5) % 3
    one = [token_losses(model, made.encode(view(images, v)), labels).mean(1) for v in range(4)]
    loss = record_loss(made, PrivacyConfig(views=4), 0.0)(model, images, labels)
    torch.testing.assert_close(loss, torch.stack(one).mean(0))
    tokens = token_losses(model, made.encode(images), labels).view(5, 3, 49).mean(-1)
    weighed = record_loss(made, PrivacyConfig(), 0.0, weights=scale_weights(made, 0.5))(model, images, labels)
    torch.testing.assert_close(weighed, (tokens * torch.tensor([4.0, 2, 1]) / 7).sum(1))


def test_a_record_s_codes_do_not_depend_on_who_is_encoded_beside_it(tmp_path, monkeypatch):
    """A learned tokenizer decides between two near codes by rounding, which another number of images changes; a private
    fit compares a record in its microbatch with the record alone, and would take that for records that mix."""
    made = over_tokens(tokenizer())
    encode = made.tokenizer.encode

    def rounded(images):
        codes = encode(images)
        codes[:, :20] = (codes[:, :20] + len(images)) % 30
        return codes

    monkeypatch.setattr(made.tokenizer, "encode", rounded)
    weights = made.fit_public(torch.rand(20, 1, 14, 14), torch.arange(20) % 7, 0, silent)
    settings = FitSettings(PrivacyConfig(epsilon=1.0, batch_size=8, steps=2), FIT, 5, tmp_path / "c")
    images, labels = torch.rand(40, 1, 14, 14), torch.arange(40) % 4
    fit = made.fit_private(weights, images, labels, settings, silent)
    assert fit.mechanisms == FIT


def test_codes_made_once_leave_release_and_weights_as_they_were(tmp_path, monkeypatch):
    """A published key's release is that of its images: its noise, and with exact tokens its weights, to the bit."""

    def fitted(name):
        torch.manual_seed(0)
        made = over_tokens(tokenizer())
        if name == "images":  # as the loss saw them before
            monkeypatch.setattr(made, "_codes", lambda images, views, folder: images)
        drawn = torch.Generator().manual_seed(1)
        weights = made.fit_public(torch.rand(20, 1, 14, 14, generator=drawn), torch.arange(20) % 7, 0, silent)
        privacy = PrivacyConfig(epsilon=1.0, batch_size=8, steps=2, views=2)
        settings = FitSettings(privacy, FIT, 5, tmp_path / name)
        images = torch.rand(40, 1, 14, 14, generator=drawn)
        return made.fit_private(weights, images, torch.arange(40) % 4, settings, silent)

    codes, images = fitted("codes"), fitted("images")
    assert codes.releases == images.releases
    assert all(torch.equal(value, images.weights[name]) for name, value in codes.weights.items())


def test_views_are_distinct_and_the_first_is_the_image():
    images = torch.rand(2, 1, 6, 6)
    assert torch.equal(view(images, 0), images)
    assert torch.equal(view(images, 1), images.flip(-1))
    assert torch.equal(view(images, 2)[..., 1:, :], images[..., :-1, :])
    assert len({view(images, v).numpy().tobytes() for v in range(MOST)}) == MOST
    with pytest.raises(UserError, match="views=11"):
        view(images, MOST)


def test_a_dropped_condition_is_none():
    torch.manual_seed(0)
    labels, embeddings = torch.arange(1000) % 3, torch.randn(1000, 384)
    classes, text = ClassCondition(3, 8), TextCondition(8)
    assert torch.equal(drop(classes, labels, 0.0), labels)
    dropped = drop(classes, labels, 0.3)
    assert 0.2 < (dropped == 3).float().mean() < 0.4
    assert torch.equal(dropped[dropped != 3], labels[dropped != 3])
    assert 0.2 < (drop(text, embeddings, 0.3) == 0).all(1).float().mean() < 0.4


def test_sampling_uses_the_distribution_that_training_sees():
    """Teacher forcing the samples must give back the very codes their uniforms select."""
    model = transformer()
    labels, uniforms = torch.arange(6) % 3, torch.rand(6, model.length)
    codes = model.sample(labels, uniforms)
    with torch.no_grad():
        logits = model(codes, labels)
    for span, part in zip(model.spans, logits, strict=True):
        for t in range(span.start, span.stop, 7):
            drawn, _ = draw(part[:, t - span.start], uniforms[:, t], 1.0, None, None)
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
    token_losses(model, codes, torch.tensor([0, 1, 2, 3])).sum().backward()  # 3 is "none"
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
    counts = torch.bincount(draw(logits, uniforms, 1.0, None, None)[0], minlength=3)
    assert (counts - torch.tensor([500, 300, 200])).abs().max() <= 1
    assert draw(logits, uniforms, 1.0, 2, None)[0].max() == 1
    assert draw(logits, uniforms, 1.0, None, 0.4)[0].max() == 0
    assert draw(logits, uniforms, 1e-3, None, None)[0].max() == 0


def test_unknown_generator_is_refused():
    with pytest.raises(UserError, match="generator='gan' is not known: use one of blur_diffusion, dp_feta"):
        configure("generator", "gan")


def test_what_has_no_distribution_has_no_mass():
    """A code that is ruled out (-inf) is a distribution all the same."""
    logits = torch.tensor([[0.0, 1.0], [0.0, -math.inf], [0.0, math.nan], [0.0, math.inf]])
    _, mass = draw(logits, torch.full((4,), 0.5), 1.0, None, None)
    assert mass.flatten().isfinite().tolist() == [True, True, False, False]
