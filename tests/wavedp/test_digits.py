"""Codes of several digits: the tokens, their probabilities, draws, and gradients by record."""

import itertools

import pytest
import torch
from test_bookkeeping import looped, norms_of, summed
from test_generators import FIT, over_tokens

from wavedp.config import PrivacyConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.digits import DigitHead, id_tables, n_rows
from wavedp.generators.spectral_ar.transformer import SpectralTransformer, cut
from wavedp.generators.token_decoder import draw
from wavedp.generators.token_model import record_loss, token_losses, uniforms_of
from wavedp.privacy import layer_rules
from wavedp.privacy.clipping import RecordGradients, trainable
from wavedp.progress import silent
from wavedp.tokenizers import Span, untrained


def tokens(side=8, level=0, channels=1, **changes):
    settings = {"bins": 9, "detail_bins": 5, "detail_range": 0.5, "companding": 8.0, "detail_digits": "apart"}
    config = configure("tokenizer", "scalar", **{**settings, "coarsest": 4, **changes})
    return untrained(config, (channels, side, side), level)


def transformer(made, std=0.3):
    torch.manual_seed(0)
    model = SpectralTransformer(made, ClassCondition(3, 16), width=16, depth=2, heads=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    if model.code.padding_idx is not None:  # the embedding of a digit that a code lacks stays 0
        with torch.no_grad():
            model.code.weight[model.code.padding_idx] = 0
    return model.eval()


def test_a_span_knows_its_digits():
    assert Span(0, 4, 0, 7).digits == (7,)
    span = Span(0, 4, 0, 24, (2, 3, 4))
    found = torch.stack(span.split(torch.arange(24)), -1).tolist()
    assert found == [list(digits) for digits in itertools.product(range(2), range(3), range(4))]
    with pytest.raises(ValueError, match=r"24 codes does not have digits of \(2, 3\)"):
        Span(0, 4, 0, 24, (2, 3))


def test_digits_are_another_view_of_the_same_codes():
    images = torch.rand(3, 1, 8, 8)
    apart, joint = tokens(), tokens(detail_digits="joint")
    assert torch.equal(apart.encode(images), joint.encode(images))
    assert [span.digits for span in apart.spans] == [(9,), (5, 5, 5)]
    assert [span.digits for span in joint.spans] == [(9,), (125,)]
    model = transformer(apart)
    codes = apart.encode(images)
    ids = model._ids(codes)
    assert torch.equal(((ids[:, :-1] - model.offsets) * model.divisors).sum(2), codes)
    assert ids[:, -1].unique().tolist() == [24, 25]  # a missing token, and its missing digits
    one, three = ids[:, :16], ids[:, 16:-1]
    assert one[..., 0].max() < 9
    assert (one[..., 1:] == 25).all()
    for k, lowest in enumerate((9, 14, 19)):
        assert lowest <= int(three[..., k].min()) < int(three[..., k].max()) <= lowest + 4
    assert n_rows(apart.spans) == 24
    assert [table.shape for table in id_tables(apart.spans)] == [(32, 3)] * 3


def test_each_earlier_digit_has_rows_of_its_own():
    head = DigitHead(4, (2, 3, 4))
    first, second = torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2)
    rows = head._rows(1, [first]), head._rows(2, [first, second])
    assert rows[0].unique().tolist() == [0, 1]
    assert rows[1][:, 0].unique().tolist() == [2, 3]
    assert rows[1][:, 1].unique().tolist() == [4, 5, 6]
    assert head.earlier.num_embeddings == 7


def test_a_code_of_scale_0_may_be_two_digits():
    made, images = tokens(digits=2), torch.rand(3, 1, 8, 8)
    assert [span.digits for span in made.spans] == [(3, 3), (5, 5, 5)]
    assert torch.equal(made.encode(images), tokens().encode(images))
    model = transformer(made)
    assert model.code.num_embeddings == 6 + 15 + 2
    codes = model.sample(torch.arange(3), torch.rand(3, made.length, 3))
    assert codes[:, :16].max() < 9
    losses = token_losses(
        model,
        made.encode(images[:1]).repeat(9, 1).index_put((torch.arange(9), torch.tensor(5)), torch.arange(9)),
        torch.zeros(9).long(),
    )
    assert float((-losses[:, 5]).exp().sum().detach()) == pytest.approx(1, abs=1e-5)


def test_probabilities_of_all_codes_sum_to_one():
    made = tokens(detail_bins=3)
    model = transformer(made, std=0.5)
    start = made.spans[1].start
    codes = made.encode(torch.rand(1, 1, 8, 8)).repeat(27, 1)
    codes[:, -1] = torch.arange(27)
    with torch.no_grad():
        losses = token_losses(model, codes, torch.zeros(27).long())
    assert losses.shape == (27, made.length)
    chances = (-losses[:, -1]).double().exp()
    assert chances.sum() == pytest.approx(1, abs=1e-5)
    assert chances.max() > 2 * chances.min()
    assert torch.equal(losses[:, start:-1], losses[:1, start:-1].expand(27, -1))


@pytest.mark.parametrize(("guidance", "top_k", "top_p"), [(1.0, None, None), (2.5, 3, 0.9)])
def test_sampling_uses_the_distribution_that_training_sees(guidance, top_k, top_p):
    """Teacher forcing the samples must give back the very digits their uniforms select; the cache changes nothing."""
    made = tokens(channels=3)
    model = transformer(made)
    labels, uniforms = torch.arange(6) % 3, torch.rand(6, made.length, 3)
    settings = {"temperature": 0.8, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    codes = model.sample(labels, uniforms, **settings)
    assert torch.equal(codes, model.sample(labels, uniforms, **settings, cached=False))
    assert torch.equal(codes, model.sample(labels, uniforms, **settings, prefix=codes[:, :20]))
    with torch.no_grad():
        given, none = (iter(model(codes, shown)) for shown in (labels, torch.full_like(labels, 3)))
    for span in model.spans:
        for k, digit in enumerate(span.split(codes[:, span.start : span.stop])):
            b, a = next(given), next(none)
            logits = b if guidance == 1 else a + guidance * (b - a)
            for t in range(span.stop - span.start):
                drawn, _ = draw(logits[:, t], uniforms[:, span.start + t, k].double(), 0.8, top_k, top_p)
                assert torch.equal(drawn, digit[:, t])
    assert len(codes[:, made.spans[1].start :].unique()) > 30
    other = uniforms.clone()
    other[:, -1, 2] = (other[:, -1, 2] + 0.5) % 1  # of the last digit alone
    changed = model.sample(labels, other, **settings)
    assert torch.equal(changed[:, :-1], codes[:, :-1])
    assert torch.equal(changed[:, -1] // 5, codes[:, -1] // 5)
    assert not torch.equal(changed, codes)


def test_a_uniform_for_each_digit_is_asked_for_and_old_models_draw_as_before():
    made = tokens()
    with pytest.raises(UserError, match=r"3 digits need as many uniforms each, got shape \(2, 32, 1\)"):
        transformer(made).sample(torch.zeros(2).long(), torch.rand(2, made.length))
    drawn = uniforms_of(4, made, torch.Generator().manual_seed(5))
    before = torch.rand(4, made.length, generator=torch.Generator().manual_seed(5))
    assert drawn.shape == (4, made.length, 3)
    assert torch.equal(drawn[..., 0], before)
    assert torch.equal(uniforms_of(4, tokens(detail_digits="joint"), torch.Generator().manual_seed(5))[..., 0], before)


@pytest.mark.parametrize("level", [1, 2])
def test_the_private_model_is_the_public_one_cut_to_the_coarse_tokens(level):
    """At level 2 no code has several digits."""
    public, private = (tokens(16, each) for each in (0, level))
    model, small = transformer(public), transformer(private)
    small.load_state_dict(cut(model.state_dict(), public, private))
    assert len(small.heads) == len(private.spans) == 3 - level
    codes = private.encode(torch.rand(3, 1, 16 >> level, 16 >> level))
    padded = torch.nn.functional.pad(codes, (0, public.length - private.length))
    with torch.no_grad():
        for a, b in zip(small(codes, torch.arange(3)), model(padded, torch.arange(3)), strict=False):
            torch.testing.assert_close(a, b[:, : a.shape[1]], rtol=0, atol=1e-5)
    joint = tokens(16, 1, detail_digits="joint")
    with pytest.raises(UserError, match=r"codebooks \['9', '125'\]\) are no prefix .* \['9', '5×5×5'\]"):
        cut(model.state_dict(), public, joint)


def test_no_position_sees_itself_or_later_ones_but_its_earlier_digits():
    made = tokens()
    model, codes = transformer(made), made.encode(torch.rand(1, 1, 8, 8))
    for changed in (0, 17, 30):
        other = codes.clone()
        other[0, changed] = (other[0, changed] + 1) % 5 + other[0, changed] // 5 * 5  # its last digit
        with torch.no_grad():
            approximation, *details = zip(model(codes, torch.tensor([1])), model(other, torch.tensor([1])), strict=True)
            first = [torch.cat([approximation[i].sum(-1), details[0][i].sum(-1)], 1)[0] for i in range(2)]
        same = first[0] == first[1]
        assert same[: changed + 1].all()
        assert not same[changed + 1 :].all()
        if changed >= 16:
            t = changed - 16
            assert all(torch.equal(a[:, : t + 1], b[:, : t + 1]) for a, b in details)
    other = codes.clone()
    other[0, 20] = (other[0, 20] + 25) % 125  # its first digit
    with torch.no_grad():
        (_, before), (_, after) = (
            (x[0], x[1:]) for x in (model(codes, torch.tensor([1])), model(other, torch.tensor([1])))
        )
    assert [torch.equal(a[:, 4], b[:, 4]) for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_every_parameter_matters_and_a_missing_digit_is_nothing():
    made = tokens()
    model = transformer(made)
    codes = made.encode(torch.rand(4, 1, 8, 8))
    token_losses(model, codes, torch.tensor([0, 1, 2, 3])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not model.code.weight.grad[-1].any()
    fresh = SpectralTransformer(made, ClassCondition(3, 16), 16, 1, 2)
    assert not fresh.code.weight[-1].any()
    assert isinstance(fresh.heads[1], DigitHead)


@pytest.mark.parametrize("mode", ["bookkeeping", "hooks", "ghost"])
@pytest.mark.parametrize("gram", [False, True])
def test_gradients_are_split_by_record(mode, gram, monkeypatch):
    monkeypatch.setattr(layer_rules, "_gram_pays", lambda *sizes: gram)
    made = tokens()
    model = transformer(made).train()
    loss = record_loss(made, PrivacyConfig(views=1 if mode == "ghost" else 2), 0.0)
    batch = (torch.rand(5, 1, 8, 8), torch.arange(5) % 3)
    rows = looped(model, loss, batch)
    norms = norms_of(rows)
    bound = float(norms.median())
    expected = summed(rows, (bound / norms).clamp(max=1).tolist())
    gradients = RecordGradients(model, bound, mode)
    found = gradients.clipped_sum(loss, batch)
    gradients.close()
    largest = max(float(each.abs().max()) for each in expected)
    for name, a, b in zip(trainable(model), found, expected, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * largest, name


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_functorch_splits_it_too():
    from opacus.grad_sample import GradSampleModule

    made = tokens()
    model = transformer(made).train()
    loss = record_loss(made, PrivacyConfig(), 0.0)
    batch = (torch.rand(3, 1, 8, 8), torch.arange(3))
    rows = looped(model, loss, batch)
    GradSampleModule(model, loss_reduction="sum", force_functorch=True)
    loss(model, *batch).sum().backward()
    for i, parameter in enumerate(model.parameters()):
        expected = torch.stack([row[i] for row in rows])
        torch.testing.assert_close(parameter.grad_sample, expected, rtol=1e-3, atol=1e-5)


def test_completion_and_likelihoods_know_digits():
    private, public = tokens(16, 1), tokens(16, 0)
    made = over_tokens(private, public)
    weights = made.fit_public(torch.rand(20, 1, 16, 16), torch.arange(20) % 7, 0, silent)
    images = torch.rand(4, 1, 8, 8)
    full = made.complete(weights, images, 1.0)
    assert full.shape == (4, 1, 16, 16)
    assert torch.equal(made.complete(weights, images.flip(0), 1.0).flip(0), full)
    conditional, unconditional = made.log_likelihoods(made.start(weights), images, torch.arange(4))
    assert conditional.shape == unconditional.shape == (4,)
    assert (conditional < 0).all()


@pytest.mark.parametrize("trained", ["attention", "lora"])
def test_adaptation_leaves_the_digits_head_and_embeddings(trained, tmp_path):
    made = over_tokens(tokens())
    torch.manual_seed(0)
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    weights = made.fit_public(images, labels, 0, silent)
    privacy = PrivacyConfig(epsilon=1.0, batch_size=8, steps=2, trained=trained, lora_rank=2)
    fit = made.fit_private(weights, images, labels, FitSettings(privacy, FIT, 5, tmp_path / "c"), silent)
    assert fit.weights.keys() == weights.keys()
    moved = {name for name in weights if not torch.equal(weights[name], fit.weights[name])}
    assert "condition.table.weight" in moved
    assert "blocks.0.qkv.weight" in moved
    assert not any(name.startswith(("heads.", "code.", "position.")) for name in moved)
