"""`priv_image`: what a record can change in the vote, its noise, what both mechanisms cost, and what it chooses."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp import chain, checks, registry, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, TrialConfig, configure
from wavedp.errors import InfeasibleError, UserError
from wavedp.generators import FitSettings
from wavedp.generators.priv_image import model as room
from wavedp.generators.priv_image import votes
from wavedp.generators.priv_image.clusters import clusters
from wavedp.generators.priv_image.model import PrivImageModel
from wavedp.methods import canonical
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.store import Store
from wavedp.testing.generators import GeneratorSuite

K, SHAPE, DELTA = 2, (1, 4, 4), 1e-4
SMALL = {
    "channels": 16, "layers": 1, "halvings": 0, "attention_side": 0, "multiplicity": 1, "embedding": "pixels",
    "semantics": 12, "votes": 2, "chosen": 2, "vote_share": 0.3,
    "pretrain_steps": 3, "pretrain_batch": 4, "pretrain_learning_rate": 2e-3,
}  # fmt: skip
IMAGES = DataConfig(name="procedural", size=16, n_records=64)
METHOD = registry.find("generator", "priv_image")


class TestPrivImage(GeneratorSuite):
    epsilon_zero = False

    def config(self):
        return configure("generator", "priv_image", **{**SMALL, "semantics": 24, "pretrain_steps": 2})

    def trial(self, base):
        return dataclasses.replace(base, privacy=dataclasses.replace(base.privacy, batch_size=8, steps=2))


def trial(privacy=None, public=None, **changes):
    public = {"public": dataclasses.replace(IMAGES, split="public", n_records=32)} if public is None else public
    return canonical(TrialConfig(
        data=IMAGES, level=1, upscaler="nearest", metrics=MetricsConfig(downstream_steps=0),
        privacy=privacy or PrivacyConfig(epsilon=2.0, delta=DELTA, batch_size=16, steps=4),
        generator=configure("generator", "priv_image", **{**SMALL, "semantics": 24, **changes}), **public,
    ))  # fmt: skip


# --- a small fit, without a trial -------------------------------------------------------------------------------------


def shades(count, low, high, seed):
    """Images about one grey each, from dark to bright."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.linspace(low, high, count).view(-1, 1, 1, 1)
    return (grey + 0.02 * torch.randn(count, *SHAPE, generator=generator)).clamp(0, 1)


def records(count=40, seed=1):
    """Those of class 0 are dark, those of class 1 bright."""
    images = torch.cat([shades(count // 2, 0.0, 0.3, seed), shades(count - count // 2, 0.7, 1.0, seed + 1)])
    return images, torch.arange(count) // (count // 2)


def model(**changes):
    return PrivImageModel(configure("generator", "priv_image", **{**SMALL, **changes}), SHAPE, K, "cpu")


def first(made):
    return made.fit_public(shades(60, 0, 1, 7), torch.zeros(60, dtype=torch.long), 0, silent)


def fitted(folder, made=None, images=None, labels=None, seed=3, epsilon=8.0, report=silent, mechanisms=None):
    made = made or model()
    if images is None:
        images, labels = records()
    privacy = PrivacyConfig(epsilon=epsilon, delta=DELTA, batch_size=8, steps=2, checkpoint_every=1)
    asked = SimpleNamespace(privacy=privacy, generator=made.config)
    planned = mechanisms or METHOD.mechanisms(asked, len(images))
    folder.mkdir(exist_ok=True)
    fit = FitSettings(privacy, planned, seed, folder / "checkpoint.safetensors")
    return made.fit_private(first(made), images, labels, fit, report)


class Stop(Exception):
    pass


def stop(*_, **__):
    raise Stop


@pytest.fixture
def seen(monkeypatch):
    """The counts before and after the noise of each vote."""
    found, real = [], votes.noisy

    def noisy(counts, *rest):
        found.append((counts.clone(), real(counts, *rest)))
        return found[-1][1].clone()

    monkeypatch.setattr(votes, "noisy", noisy)
    return found


# --- sensitivity ------------------------------------------------------------------------------------------------------


def test_votes_are_those_of_a_search_by_hand(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    embedded, centres = torch.rand(90, 5, generator=generator), torch.rand(7, 5, generator=generator)
    labels = torch.randint(3, (90,), generator=generator)
    wanted = torch.zeros(3, 7, dtype=torch.float64)
    for row, label in zip(embedded.double(), labels.tolist(), strict=True):
        distances = [float((row - centre).norm()) for centre in centres.double()]
        for place in sorted(range(7), key=distances.__getitem__)[:3]:
            wanted[label, place] += 1
    assert torch.equal(votes.exact(embedded, labels, 3, centres, 3), wanted)
    monkeypatch.setattr(votes, "_ROWS", 4)
    assert torch.equal(votes.exact(embedded, labels, 3, centres, 3), wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 5))
def test_a_record_more_or_less_moves_the_votes_by_the_sensitivity(seed, count, k):
    """Of any set, by brute force: each of its records removed, a copy of each added, and one far from all centres."""
    generator = torch.Generator().manual_seed(seed)
    embedded = torch.rand(count, 3, generator=generator).round(decimals=1)  # with ties
    centres = torch.rand(5, 3, generator=generator).round(decimals=1)
    labels = torch.randint(K, (count,), generator=generator)

    def counts(rows, more=None):
        if more is None:
            return votes.exact(embedded[rows], labels[rows], K, centres, k)
        both = torch.cat([embedded[rows], more[None]]), torch.cat([labels[rows], labels[:1]])
        return votes.exact(*both, K, centres, k)

    every = torch.arange(count)
    whole = counts(every)
    moves = [whole - counts(every[every != row]) for row in range(count)]
    moves += [counts(every, more) - whole for more in (*embedded, torch.full((3,), 1e6))]
    for move in moves:
        assert float(move.norm()) == votes.sensitivity(k) == math.sqrt(k)
        assert int((move.sum(1) != 0).sum()) == 1, "of one class"


def test_a_records_votes_are_the_same_to_the_bit_beside_any_others():
    """Centres as near to each other as float32 tells apart, so that any other rounding would show."""
    generator = torch.Generator().manual_seed(2)
    embedded = torch.rand(300, 196, generator=generator)
    centres = torch.rand(196, generator=generator) + 1e-6 * torch.randn(64, 196, generator=generator)
    labels = torch.arange(300)
    whole = votes.exact(embedded, labels, 300, centres, 5)
    for row in range(0, 300, 7):
        alone = votes.exact(embedded[row : row + 1], labels[:1], 1, centres, 5)
        assert torch.equal(alone[0], whole[row])


def test_in_a_whole_fit_a_neighbouring_set_moves_the_vote_by_the_sensitivity(seen, tmp_path, monkeypatch):
    images, labels = records()
    monkeypatch.setattr(PrivImageModel, "chosen", stop)
    for row in (None, 0, 17, 39):
        rows = torch.arange(len(images)) != (-1 if row is None else row)
        with pytest.raises(Stop):
            fitted(tmp_path / str(row), None, images[rows], labels[rows])
    whole, *less = [counts for counts, _ in seen]
    assert [float((whole - counts).norm()) for counts in less] == [math.sqrt(2)] * 3


# --- noise ------------------------------------------------------------------------------------------------------------


def noise_of(folder, seen, monkeypatch, fits=30):
    """The deviation of a vote's noise, in sensitivities, over fits of different seeds, and the planned one."""
    monkeypatch.setattr(PrivImageModel, "chosen", stop)
    made, planned = model(votes=3), {"vote": Mechanism(1, 4.0, 1), "private_fit": Mechanism(0.2, 50.0, 2)}
    for seed in range(fits):
        with pytest.raises(Stop):
            fitted(folder / str(seed), made, seed=seed, mechanisms=planned)
    added = torch.stack([after - before for before, after in seen])
    assert float((added[0] - added[1]).abs().min()) > 1e-6, "another seed has another noise"
    return float(added.std()) / math.sqrt(3), 4.0


def test_the_vote_gets_the_planned_noise(tmp_path, seen, monkeypatch):
    found, planned = noise_of(tmp_path, seen, monkeypatch)
    assert found == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize("too_little", [lambda z: z / 2, lambda z: z / math.sqrt(3)], ids=["half", "of one vote"])
def test_too_little_noise_is_noticed(too_little, tmp_path, seen, monkeypatch):
    exact = votes.noisy_mean
    monkeypatch.setattr(votes, "noisy_mean", lambda sums, z, *rest: exact(sums, too_little(z), *rest))
    found, planned = noise_of(tmp_path, seen, monkeypatch)
    assert found != pytest.approx(planned, rel=0.1)


def test_noise_belongs_to_the_release(tmp_path, seen, monkeypatch):
    """One record less, other centres or other settings, the same seed: another noise, whatever torch's global state."""
    images, labels = records()
    monkeypatch.setattr(PrivImageModel, "chosen", stop)
    every, less = slice(None), slice(1, None)
    for number, (made, rows) in enumerate(
        [(None, every), (None, less), (model(semantics=11), every), (model(votes=3), every), (None, every)]
    ):
        torch.manual_seed(0)
        with pytest.raises(Stop):
            fitted(tmp_path / str(number), made, images[rows], labels[rows])
    noises = [(after - before)[:, :9] for before, after in seen]
    for other in noises[1:4]:
        assert float((noises[0] - other).abs().min()) > 1e-6
    assert torch.equal(noises[0], noises[4]), "the same release again"


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.07, 0.5])
def test_vote_and_fit_together_stay_within_the_budget_by_dp_accounting(share):
    planned = chain.mechanisms(trial(vote_share=share))
    assert list(planned) == ["vote", "private_fit"]
    vote, fit = planned.values()
    assert (vote.sample_rate, vote.steps, vote.ledger_kind) == (1, 1, "noisy_vote")
    assert (fit.sample_rate, fit.steps, fit.ledger_kind) == (0.25, 4, "dp_sgd")
    gaussian = dp_event.GaussianDpEvent(vote.noise_multiplier)
    step = dp_event.PoissonSampledDpEvent(fit.sample_rate, dp_event.GaussianDpEvent(fit.noise_multiplier))

    def spent(*events):
        accountant = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
        for event in events:
            accountant.compose(event)
        return accountant.get_epsilon(DELTA)

    assert spent(gaussian) == pytest.approx(share * 2.0, rel=0.02)
    assert 0.98 * 2.0 < spent(gaussian, dp_event.SelfComposedDpEvent(step, fit.steps)) <= 2.0 * (1 + 1e-3)


def test_the_published_noise_is_the_default_share_of_one():
    """σ = 50 of DPImageBench, accounted as one Gaussian of 55,000 records."""
    asked = SimpleNamespace(privacy=PrivacyConfig(epsilon=1.0), generator=configure("generator", "priv_image"))
    assert METHOD.mechanisms(asked, 55_000)["vote"].noise_multiplier == pytest.approx(50, rel=0.03)


def test_the_ledger_has_a_line_of_each(tmp_path):
    made, _ = stages.make("private_fit", trial(), Store(str(tmp_path)), "cpu")
    lines = {line["purpose"]: (line["kind"], line["sample_rate"], line["steps"]) for line in made.json("ledger")}
    assert lines == {"vote": ("noisy_vote", 1, 1), "private_fit": ("dp_sgd", 0.25, 4)}
    assert len({line["release"] for line in made.json("ledger")}) == 2


def test_without_privacy_the_votes_are_exact(tmp_path, seen):
    done = fitted(tmp_path, epsilon=math.inf)
    assert all(torch.equal(before, after) for before, after in seen)
    assert done.mechanisms["vote"] == Mechanism(1, 0.0, 1)


# --- what is made of it -----------------------------------------------------------------------------------------------


def test_the_highest_counts_take_first_and_a_semantic_goes_to_one_class():
    released = torch.tensor([[9.0, 8.0, 7.0, 1.0, 0.0], [10.0, 7.5, -3.0, 2.0, -9.0]])
    # 10 takes 0 for class 1; 9 is taken; 8 takes 1 for class 0; 7.5 is taken; 7 takes 2 for class 0; then 2 takes 3.
    assert votes.choose(released, 2).tolist() == [1, 0, 0, 1, -1]
    assert votes.choose(released, 1).tolist() == [1, 0, -1, -1, -1]
    noise = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert votes.choose(noise, 3).bincount().tolist() == [3] * 4, "all, if classes need all"


def test_clusters_are_of_images_that_are_alike():
    generator = torch.Generator().manual_seed(0)
    spots = torch.tensor([0.0, 5.0, 9.0]).repeat_interleave(20)
    embedded = spots[:, None] + 0.1 * torch.randn(60, 6, generator=generator)
    centres, labels = clusters(embedded, 9, generator)
    assert len(centres) == 9 == len(labels.unique())
    for label in range(9):
        own = labels == label
        assert len(spots[own].unique()) == 1
        assert torch.allclose(centres[label], embedded[own].mean(0), atol=1e-5)
    few, labels = clusters(spots[:, None].expand(-1, 6), 9, generator)
    assert sorted(few[:, 0].tolist()) == [0, 5, 9], "equal images make no cluster of their own"
    assert torch.equal(few[labels, 0], spots)


def test_a_class_is_given_images_like_its_records_under_its_own_label(tmp_path, seen, monkeypatch):
    made, taken = model(chosen=3), []
    monkeypatch.setattr(PrivImageModel, "_learned", lambda self, network, images, labels, *_: taken.append(
        (images, labels)) or stop())  # fmt: skip
    with pytest.raises(Stop):
        fitted(tmp_path, made, epsilon=math.inf)
    ((images, labels),) = taken
    assert images[labels == 0].mean((1, 2, 3)).max() < 0.5 < images[labels == 1].mean((1, 2, 3)).min()
    weights, ((_, released),) = first(made), seen
    owner = votes.choose(released, 3)
    assert len(images) == int((owner[weights["semantics"]] >= 0).sum()) < len(weights["pool"])
    pool = {image.numpy().tobytes() for image in weights["pool"]}
    assert all((image * 255).round().byte().numpy().tobytes() in pool for image in images)


def test_pretraining_sees_the_counts_and_no_record(tmp_path, monkeypatch):
    """Other records with the same released counts are pretrained to the same weights."""
    released = torch.rand(K, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    monkeypatch.setattr(votes, "noisy", lambda *_: released)
    monkeypatch.setattr(PrivImageModel, "_release", lambda *_: "0" * 64)
    starts = []
    monkeypatch.setattr(PrivImageModel, "fit_records", lambda self, network, *_: starts.append(
        {name: value.clone() for name, value in network.state_dict().items()}) or stop())  # fmt: skip
    for number, images in enumerate((torch.zeros(40, *SHAPE), torch.ones(40, *SHAPE))):
        with pytest.raises(Stop):
            fitted(tmp_path / str(number), None, images, torch.arange(40) % 2)
    for name, value in starts[0].items():
        assert torch.equal(value, starts[1][name])
    cold = model().first_network().state_dict()
    assert any(not torch.equal(value, cold[name]) for name, value in starts[0].items())


def test_pretraining_gives_the_classes_a_meaning(tmp_path, monkeypatch):
    made, starts = model(pretrain_steps=150, pretrain_batch=32, condition_dropout=0.0), []
    monkeypatch.setattr(PrivImageModel, "fit_records", lambda self, network, *_: starts.append(
        network.state_dict()) or stop())  # fmt: skip
    images, labels = records()
    with pytest.raises(Stop):
        fitted(tmp_path, made, epsilon=math.inf)
    own, _ = made.log_likelihoods(starts[0], images, labels)
    other, _ = made.log_likelihoods(starts[0], images, 1 - labels)
    assert own.mean() > other.mean()


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_fit_that_is_stopped_anywhere_ends_bit_equal_and_repeats_nothing(seen, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "EMBEDDED_AT_ONCE", 25)  # 40 records in two parts, then 3 steps of pretraining, then 2
    whole, learned, real = fitted(tmp_path / "whole"), [], PrivImageModel.pretrained
    monkeypatch.setattr(PrivImageModel, "pretrained", lambda *given: learned.append(1) or real(*given))
    for at in range(1, 8):
        told = []

        def until(done, total, told=told, at=at):
            told.append(done)
            assert total == 2 + 3 + 2
            if done == at:
                raise Stop

        with pytest.raises(Stop):
            fitted(tmp_path / str(at), report=until)
        assert told == list(range(1, at + 1))
        del seen[:], learned[:], told[:]
        again = fitted(tmp_path / str(at), report=lambda done, total, told=told: told.append(done))
        assert told == list(range(1 if at <= 2 else at + 1, 8))
        assert (len(seen), len(learned)) == (int(at <= 2), int(at <= 5)), "neither votes nor learns twice"
        assert again.releases == whole.releases
        for name, value in whole.weights.items():
            assert torch.equal(again.weights[name], value)


def test_what_is_kept_is_secret_and_a_torn_file_is_made_again(tmp_path):
    whole = fitted(tmp_path)
    kept = sorted(path for path in tmp_path.iterdir() if path.name.startswith(("vote.", "pretrained.")))
    assert len(kept) == 2
    for path in kept:
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="cannot be read"):
        again = fitted(tmp_path)
    assert again.releases == whole.releases
    assert all(torch.equal(again.weights[name], value) for name, value in whole.weights.items())


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("privacy", "changes", "message"),
    [
        ({"epsilon": 0.0}, {}, r"privacy\.epsilon=0 lets them choose none"),
        ({"noise_source": "secure"}, {}, r"the vote of generator=priv_image would be drawn again"),
        ({}, {"public": {"public": None}}, r"public=null has none: set public"),
        ({}, {"conditioning": "text"}, r"generator\.conditioning=text has none"),
        ({}, {"semantics": 33}, r"semantics=33 clusters cannot be made of 32 public images"),
        ({}, {"semantics": 19}, r"chosen=2 for each of 10 classes is more than generator\.semantics=19"),
        ({}, {"votes": 25}, r"votes=25 of a record are for different ones of generator\.semantics=24"),
        ({}, {"vote_share": 1.0}, r"vote_share=1\.0 must be"),
    ],
)
def test_what_it_cannot_do_is_refused(privacy, changes, message):
    given = dataclasses.replace(trial().privacy, **privacy)
    with pytest.raises(UserError, match=message):
        checks.check(trial(given, **changes))


def test_a_share_that_no_noise_meets_is_refused_by_its_own_name():
    given = dataclasses.replace(trial().privacy, epsilon=0.01, delta=1e-9)
    with pytest.raises(InfeasibleError, match=r"generator\.vote_share=0\.001 gives the vote epsilon=1e-05"):
        chain.mechanisms(trial(given, vote_share=0.001))


def test_a_vote_that_is_mostly_noise_is_warned_of():
    assert any("what is chosen is mostly noise" in line for line in checks.check(trial()))
    loud = dataclasses.replace(trial().privacy, epsilon=100.0)
    assert not any("mostly noise" in line for line in checks.check(trial(loud, vote_share=0.9)))


def test_what_the_guarantee_does_not_cover_is_refused_before_a_vote(tmp_path, seen):
    images, labels = records()
    fit = Mechanism(0.2, 50.0, 2)

    def plan(*vote):
        return {"vote": Mechanism(*vote), "private_fit": fit}

    cases = [
        (r"would spend epsilon=.*, more than privacy\.epsilon=8", {"mechanisms": plan(1, 0.2, 1)}),
        ("2 votes at sample rate 1 were planned", {"mechanisms": plan(1, 4.0, 2)}),
        (r"1 votes at sample rate 0\.5 were planned", {"mechanisms": plan(0.5, 4.0, 1)}),
        ("are not one label each", {"images": images, "labels": torch.rand(40, 1, 8)}),
        ("are not one label each", {"images": images, "labels": torch.rand(40)}),
        (r"A label is out of 0\.\.1", {"images": images, "labels": labels + 1}),
        ("NaN or infinite", {"images": images.where(images < 0.9, math.nan), "labels": labels}),
        (r"make 12 clusters that are not empty, and generator\.chosen=7", {"made": model(chosen=7)}),
    ]
    for number, (message, changes) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            fitted(tmp_path / str(number), **{"mechanisms": plan(1, 4.0, 1), **changes})
    assert not seen
    with pytest.raises(UserError, match="5 different ones of 4 centres cannot be voted for"):
        votes.exact(images.flatten(1), labels, K, torch.rand(4, 16), 5)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "begin"),
    [
        ({"semantics": 25}, "pretrain"),
        ({"embedding": "effnetlite0"}, "pretrain"),
        ({"vote_share": 0.2}, "private_fit"),
        ({"votes": 3}, "private_fit"),
        ({"pretrain_steps": 4}, "private_fit"),
        ({"channels": 32}, "private_fit"),
        ({"churn": 0.0}, "coarse_samples"),
    ],
)
def test_a_setting_moves_keys_from_the_stage_that_reads_it(changes, begin):
    before, after = chain.keys(trial()), chain.keys(trial(**changes))
    moved = [stage for stage in before if before[stage] != after[stage]]
    everything = ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]
    assert moved == everything[everything.index(begin) :]
