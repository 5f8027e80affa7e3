"""Private evolution: what a record can change, what the noise is, what it costs, and what is refused."""

import contextlib
import dataclasses
import json
import math
import statistics

import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp import chain, checks, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.generators import FitSettings
from wavedp.generators.private_evolution import api, embedding, model, votes
from wavedp.generators.private_evolution.model import PrivateEvolutionModel
from wavedp.methods import canonical
from wavedp.privacy import accounting, ledger
from wavedp.privacy.accounting import Mechanism
from wavedp.progress import silent
from wavedp.store import Store
from wavedp.testing.generators import GeneratorSuite

K, SIDE, DELTA = 3, 4, 1e-4
IMAGES = DataConfig(name="procedural", size=16, n_records=64)


def config(**changes):
    """Small, and the same when defaults change."""
    small = {"population": 6, "iterations": 4, "lookahead": 0, "blend": 0.5, "first_degree": 0.05, "last_degree": 0.001}
    return configure("generator", "private_evolution", **{**small, **changes})


class TestPrivateEvolution(GeneratorSuite):
    def config(self):
        return config(population=5, iterations=3)


class TestPrivateEvolutionWithEverything(GeneratorSuite):
    """Lookahead, public images only, classes that begin with their names' images, a small pool."""

    def config(self):
        return config(lookahead=2, blend=1.0, public_classes="keep", pool=20, population=2, sample_degree=0.5)

    def trial(self, base):
        return dataclasses.replace(base, public=dataclasses.replace(base.public, n_records=64), level=2)


# --- a small fit, without a trial -------------------------------------------------------------------------------------


def public(count=40, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, SIDE, SIDE, generator=generator), torch.arange(count) % K


def records(count=90, seed=11):
    """Darker in one class than in another, so that there is something to select."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(count) % K
    images = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    return (images * 0.3 + labels.view(-1, 1, 1, 1) * 0.3).clamp(0, 1), labels


def plan(epsilon=2.0, iterations=4):
    sigma = accounting.calibrate(epsilon, DELTA, 1, iterations)
    return {"votes": Mechanism(1, sigma, iterations, "noisy_vote")}


def fitted(folder, own=None, images=None, labels=None, seed=3, epsilon=2.0, report=silent, mechanisms=None):
    own = own or config()
    if images is None:
        images, labels = records()
    made = PrivateEvolutionModel(own, K, "cpu")
    first = made.fit_public(*public(), 0, silent)
    chosen = mechanisms or plan(epsilon, own.iterations)
    fit = FitSettings(PrivacyConfig(epsilon=epsilon, delta=DELTA), chosen, seed, folder / "checkpoint.safetensors")
    return made.fit_private(first, images, labels, fit, report)


@contextlib.contextmanager
def watched(noise=None):
    """The counts before and after the noise of each vote. noise: another function in the place of `votes.noisy`."""
    seen, real = [], noise or votes.noisy

    def noisy(counts, *rest):
        seen.append((counts.clone(), real(counts, *rest)))
        return seen[-1][1].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(votes, "noisy", noisy)
        yield seen


# --- sensitivity ------------------------------------------------------------------------------------------------------


def slow_votes(embedded, labels, members):
    """By loops, in double precision."""
    found = torch.zeros(members.shape[:2], dtype=torch.float64)
    for row, label in zip(embedded.double(), labels.tolist(), strict=True):
        distances = [float((row - member).norm()) for member in members[label].double()]
        found[label, distances.index(min(distances))] += 1
    return found


def test_votes_are_those_of_a_search_by_hand():
    generator = torch.Generator().manual_seed(0)
    embedded, members = torch.rand(200, 7, generator=generator), torch.rand(K, 5, 7, generator=generator)
    labels = torch.randint(K, (200,), generator=generator)
    found = votes.exact(embedded, labels, members)
    assert torch.equal(found, slow_votes(embedded, labels, members))
    assert found.sum() == 200
    both = members.clone()
    both[:, 3] = both[:, 1]  # of two equal members, the first
    assert votes.exact(embedded, labels, both)[:, 3].sum() == 0


def test_votes_do_not_depend_on_how_records_are_cut(monkeypatch):
    images, labels = records(50)
    members = public(K * 4)[0].flatten(1).unflatten(0, (K, 4))
    whole = votes.exact(images.flatten(1), labels, members)
    monkeypatch.setattr(votes, "_ROWS", 3)
    assert torch.equal(votes.exact(images.flatten(1), labels, members), whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 6))
def test_a_record_more_or_less_moves_the_votes_by_one(seed, count, size):
    """Of any set, by brute force: each of its records removed, and a copy of each added."""
    generator = torch.Generator().manual_seed(seed)
    embedded = torch.rand(count, 3, generator=generator).round(decimals=1)  # with ties
    labels, members = torch.randint(K, (count,), generator=generator), torch.rand(K, size, 3, generator=generator)
    whole = votes.exact(embedded, labels, members)
    for row in range(count):
        rest = torch.arange(count) != row
        less = votes.exact(embedded[rest], labels[rest], members)
        more = votes.exact(torch.cat([embedded, embedded[row, None]]), torch.cat([labels, labels[row, None]]), members)
        assert float((whole - less).norm()) == float((more - whole).norm()) == votes.SENSITIVITY == 1


@pytest.mark.parametrize("changes", [{}, {"lookahead": 3}, {"lookahead": 3, "blend": 1.0}])
def test_in_a_whole_fit_a_neighbouring_set_moves_every_vote_by_one(changes, tmp_path):
    """Given the same released votes, as adaptive composition asks: all T of them, with lookahead too."""
    images, labels = records(30)

    def released(counts, *_):  # a function of no record
        return torch.rand(counts.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 40

    def counts_of(name, rows):
        (tmp_path / name).mkdir()
        with watched(released) as seen:
            fitted(tmp_path / name, config(**changes), images[rows], labels[rows])
        return torch.stack([counts for counts, _ in seen])  # T K N

    whole = counts_of("whole", torch.arange(30))
    assert len(whole) == 4
    for row in (0, 13, 29):
        less = counts_of(str(row), torch.arange(30) != row)
        assert (whole - less).flatten(1).norm(dim=1).tolist() == [1.0] * 4


# --- noise ------------------------------------------------------------------------------------------------------------


def require_noise(tmp_path, noise=None):
    """What a fit adds to its votes has the deviation that was planned, and is another at every vote."""
    own = config(population=400, iterations=4)
    sigma = plan()["votes"].noise_multiplier
    with watched(noise) as seen:
        fitted(tmp_path, own)
    added = torch.stack([(after - before).flatten() for before, after in seen])  # T K·N
    assert len(added) == 4
    count = added[0].numel()
    for row in added:
        assert abs(float(row.std()) / sigma - 1) < 5 / math.sqrt(2 * count)
        assert abs(float(row.mean())) < 5 * sigma / math.sqrt(count)
    apart = torch.corrcoef(added) - torch.eye(4)
    assert float(apart.abs().max()) < 5 / math.sqrt(count)


def test_noise_has_the_planned_deviation_and_is_another_at_every_vote(tmp_path):
    require_noise(tmp_path)


def test_half_the_noise_is_noticed(tmp_path):
    real = votes.noisy
    with pytest.raises(AssertionError):
        require_noise(tmp_path, lambda counts, sigma, generator: real(counts, sigma / 2, generator))


def test_one_noise_for_all_votes_is_noticed(tmp_path):
    real = votes.noisy
    with pytest.raises(AssertionError):
        require_noise(tmp_path, lambda counts, sigma, _: real(counts, sigma, torch.Generator().manual_seed(1)))


def test_two_releases_share_no_noise(tmp_path):
    """One record less, the same seed: the difference of what they release is not the record's vote."""
    images, labels = records()
    noises = []
    for name, rows in (("all", slice(None)), ("less", slice(1, None))):
        (tmp_path / name).mkdir()
        with watched() as seen:
            fitted(tmp_path / name, None, images[rows], labels[rows])
        noises.append(seen[0][1] - seen[0][0])
    assert float((noises[0] - noises[1]).abs().min()) > 1e-6


# --- what it costs ----------------------------------------------------------------------------------------------------


def trial(**changes):
    values = {
        "data": IMAGES,
        "public": dataclasses.replace(IMAGES, split="public", n_records=32),
        "generator": config(),
        "privacy": PrivacyConfig(epsilon=2.0),
        "sampling": SamplingConfig(n=20),
        "upscaler": "nearest",
        "metrics": MetricsConfig(fid_samples=4, downstream_steps=0),
    }
    return canonical(TrialConfig(**{**values, **changes}))


def gaussian_delta(epsilon, mu):
    """δ(ε) of a Gaussian mechanism of sensitivity / deviation μ: Balle & Wang 2018 (arXiv 1805.06530), Theorem 8."""
    cdf = statistics.NormalDist().cdf
    return cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 10.0])
@pytest.mark.parametrize("iterations", [1, 11])
def test_the_plan_is_t_gaussians_that_just_fit_the_budget(epsilon, iterations):
    """Held against dp-accounting's own events, and against the closed form for one Gaussian of σ / √T."""
    asked = trial(generator=config(iterations=iterations), privacy=PrivacyConfig(epsilon=epsilon, delta=1e-5))
    (planned,) = chain.mechanisms(asked).values()
    assert (planned.sample_rate, planned.steps, planned.ledger_kind) == (1, iterations, "noisy_vote")
    accountant = pld_privacy_accountant.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(planned.noise_multiplier), iterations))
    assert 0.99 * epsilon < accountant.get_epsilon(1e-5) < 1.001 * epsilon
    mu = math.sqrt(iterations) / planned.noise_multiplier
    assert gaussian_delta(epsilon, mu) <= 1e-5 < gaussian_delta(0.995 * epsilon, mu)


def test_the_ledger_has_one_line_of_t_votes(tmp_path):
    asked = trial()
    made, _ = stages.make("private_fit", asked, Store(str(tmp_path)), "cpu")
    (line,) = made.json("ledger")
    (planned,) = chain.mechanisms(asked).values()
    delta = accounting.delta(asked.privacy, 64)
    found = {name: line[name] for name in ("kind", "purpose", "sample_rate", "noise_multiplier", "steps", "delta")}
    assert found == {
        "kind": "noisy_vote", "purpose": "votes", "sample_rate": 1, "noise_multiplier": planned.noise_multiplier,
        "steps": 4, "delta": delta,
    }  # fmt: skip
    assert line["max_grad_norm"] is None, "nothing is clipped"
    assert gaussian_delta(line["epsilon"], 2 / planned.noise_multiplier) == pytest.approx(delta, rel=0.02)
    assert ledger.mechanism_of(line) == planned
    assert ledger.composed_epsilon([line]) == {line["dataset"]: pytest.approx(line["epsilon"])}
    assert line["epsilon"] <= 2


def test_without_privacy_the_votes_are_exact(tmp_path):
    with watched() as seen:
        done = fitted(tmp_path, epsilon=math.inf)
    assert all(torch.equal(before, after) for before, after in seen)
    assert done.mechanisms == {"votes": Mechanism(1, 0.0, 4)}
    made, _ = stages.make("private_fit", trial(privacy=PrivacyConfig(epsilon=math.inf)), Store(str(tmp_path)), "cpu")
    (line,) = made.json("ledger")
    assert (line["kind"], line["epsilon"], line["steps"]) == ("nonprivate", "inf", 4)


def test_at_epsilon_0_it_is_the_first_population(tmp_path):
    asked, store = trial(privacy=PrivacyConfig(epsilon=0)), Store(str(tmp_path))
    first, _ = stages.make("pretrain", asked, store, "cpu")
    made, _ = stages.make("private_fit", asked, store, "cpu")
    assert made.json("ledger") == []
    assert torch.equal(made.tensors("weights")["population"], first.tensors("weights")["population"])
    pool = {image.numpy().tobytes() for image in first.tensors("weights")["pool"]}
    samples, _ = stages.make("coarse_samples", asked, store, "cpu")
    drawn = (samples.tensors("samples")["images"] * 255).round().to(torch.uint8)
    assert all(image.numpy().tobytes() in pool for image in drawn), "a public image each"


# --- what is refused --------------------------------------------------------------------------------------------------


def check(**changes):
    return checks.check(trial(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"public": None}, r"selects among public images and public=null has none: set public"),
        ({"generator": config(first_degree=0.01, last_degree=0.1)}, r"last_degree=0\.1 is above first_degree=0\.01"),
        (
            {"generator": config(public_classes="keep"), "public": DataConfig(name="stripes_dataset:Stripes", size=16)},
            r"public_classes=keep needs public classes that begin with those of procedural",
        ),
    ],
)
def test_a_trial_that_it_cannot_do_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        check(**changes)


@pytest.mark.parametrize(
    "given",
    [{"noise_source": "secure"}, {"views": 2}, {"batch_size": 16}, {"steps": 5}, {"mean_share": 0.1}],
)
def test_a_setting_of_dp_sgd_is_refused(given):
    asked = dataclasses.replace(trial(), privacy=PrivacyConfig(epsilon=2.0, **given))
    ((name, value),) = given.items()
    with pytest.raises(UserError, match=f"privacy.{name}={value} is not read by generator=private_evolution"):
        checks.check(asked)


def test_more_members_than_the_noise_lets_votes_tell_apart_is_warned_of():
    assert any("a member 1.07 votes on average" in line for line in check())
    few = check(generator=config(population=1, iterations=1), privacy=PrivacyConfig(epsilon=20.0))
    assert not any("votes on average" in line for line in few)


def test_what_the_guarantee_does_not_cover_is_refused_before_a_vote(tmp_path):
    images, labels = records()
    half = Mechanism(1, plan()["votes"].noise_multiplier / 2, 4, "noisy_vote")
    with watched() as seen:
        for sentence, changes in (
            (r"would spend epsilon=.* in 4 votes, more than privacy.epsilon=2\.0", {"mechanisms": {"votes": half}}),
            ("3 votes at sample rate 1 were planned", {"mechanisms": plan(iterations=3)}),
            ("are not one label each", {"images": images, "labels": torch.rand(90, 2, 8)}),
            ("are not one label each", {"images": images, "labels": torch.rand(90)}),
            (r"A label is out of 0\.\.2", {"images": images, "labels": labels + 1}),
            ("NaN or infinite", {"images": images.where(images < 0.5, math.nan), "labels": labels}),
        ):
            with pytest.raises(UserError, match=sentence):
                fitted(tmp_path, **changes)
    assert not seen


# --- selection and the API --------------------------------------------------------------------------------------------


def test_counts_are_lowered_by_the_threshold_and_an_empty_class_is_drawn_from_evenly():
    released = torch.tensor([[10.0, 4.0, -3.0, 6.0], [1.0, 2.0, -9.0, 3.9]])
    found = votes.shares(released, 4.0)
    assert found.tolist() == [[0.75, 0, 0, 0.25], [0.25] * 4]


def test_neighbours_are_the_nearest_public_images():
    images, (pool, _) = records(20)[0], public()
    stored = (pool * 255).round().to(torch.uint8)
    near = api.neighbours(images, stored, 0.1)
    assert near.shape == (20, 4)
    for image, found in zip(images, near, strict=True):
        distances = [float((image.double() - other.double() / 255).norm()) for other in stored]
        assert found.tolist() == sorted(range(40), key=distances.__getitem__)[:4]
    assert api.neighbours(images, stored, 1e-6).shape == (20, 1), "at least one"


def test_a_variation_is_a_blend_with_a_neighbour():
    images, (pool, _) = records(8)[0], public()
    stored = (pool * 255).round().to(torch.uint8)
    near = api.neighbours(images, stored, 0.1)
    varied = api.vary(images, near, stored, 0.25, torch.Generator().manual_seed(0))
    others = (varied - 0.75 * images) / 0.25  # 8 C h w
    for other, rows in zip(others, near, strict=True):
        assert min(float((other - stored[row].float() / 255).abs().max()) for row in rows) < 1e-5
    whole = api.vary(images, near, stored, 1.0, torch.Generator().manual_seed(0))
    assert torch.allclose(whole, others, atol=1e-5)


def test_degrees_fall_geometrically_from_the_first_to_the_last():
    made = PrivateEvolutionModel(config(iterations=3, first_degree=0.1, last_degree=0.001), K, "cpu")
    assert [made.degree(step) for step in range(3)] == pytest.approx([0.1, 0.01, 0.001])
    assert PrivateEvolutionModel(config(iterations=1), K, "cpu").degree(0) == config().first_degree


def test_a_winner_stays_and_its_further_copies_are_varied():
    made = PrivateEvolutionModel(config(population=5), K, "cpu")
    first = made.fit_public(*public(), 0, silent)
    population, pool = first["population"], first["pool"]
    near = api.neighbours(population.flatten(0, 1), pool, 0.2)
    released = torch.zeros(K, 5, dtype=torch.float64)
    released[:, 2] = 100
    after = made._next(population, near, pool, released, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(after[:, 0], population[:, 2])
    apart = (after - population[:, 2:3]).flatten(2).norm(dim=2)
    assert (apart[:, 1:] > 0).all()
    chosen = near.view(K, 5, -1)[:, 2]
    for k in range(K):  # half a step towards one of the winner's own neighbours
        ends = population[k, 2] + 2 * (after[k, 1:] - population[k, 2])
        for end in ends:
            assert min(float((end - pool[row].float() / 255).abs().max()) for row in chosen[k]) < 1e-5


def test_votes_bring_the_population_nearer_to_its_class(tmp_path):
    images, labels = records(300)
    own = config(population=10, iterations=8)
    done = fitted(tmp_path, own, images, labels, epsilon=math.inf).weights["population"]
    first = PrivateEvolutionModel(own, K, "cpu").fit_public(*public(), 0, silent)["population"]

    def distance(population, k, other):  # of members to the records of a class
        return float(torch.cdist(images[labels == other].flatten(1), population[k].flatten(1)).mean())

    for k in range(K):
        assert distance(done, k, k) < distance(first, k, k) - 0.1
    assert distance(done, 0, 0) < distance(done, 2, 0) - 0.3, "each class has a population of its own"


def test_samples_are_the_members_and_then_their_variations():
    made = PrivateEvolutionModel(config(population=4, sample_degree=0.05, sample_blend=0.5), K, "cpu")
    weights = made.fit_public(*public(), 0, silent)
    conditions = torch.arange(30) % K
    samples = made.sample(weights, conditions, SamplingConfig(n=30), 1, silent)
    for k in range(K):
        own, members = samples[conditions == k], weights["population"][k]
        assert {x.numpy().tobytes() for x in own[:4]} == {x.numpy().tobytes() for x in members}
        near = api.neighbours(members, weights["pool"], 0.05)
        ends = [
            (member + weights["pool"][row].float() / 255) / 2
            for member, rows in zip(members, near, strict=True)
            for row in rows
        ]
        for image in own[4:]:
            assert min(float((image - end).abs().max()) for end in ends) < 1e-5


def test_a_pool_has_no_image_twice_and_a_population_only_when_it_must():
    generator = torch.Generator().manual_seed(0)
    assert api.pool_of(public()[0], 50, generator).tolist() == list(range(40))
    some = api.pool_of(public()[0], 10, generator)
    assert len(set(some.tolist())) == 10
    drawn = api.draw(torch.tensor([3, 5, 8]), 7, generator).tolist()
    assert sorted(drawn[:3]) == [3, 5, 8] == sorted(drawn[3:6])


def test_with_keep_a_class_begins_with_images_of_its_name():
    images, labels = public()
    made = PrivateEvolutionModel(config(public_classes="keep", population=3), K, "cpu")
    population = made.fit_public(images, labels, 0, silent)["population"]
    for k in range(K):
        own = {image.numpy().tobytes() for image in images[labels == k]}
        assert all(member.numpy().tobytes() in own for member in population[k])
    with pytest.raises(UserError, match="finds no public image of class 2"):
        made.fit_public(images, labels % 2, 0, silent)


# --- embeddings and interruptions -------------------------------------------------------------------------------------


def test_a_networks_features_are_of_each_image_by_itself():
    embed = embedding.embedding("effnetlite0", "cpu")
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = embed(images)
    assert found.shape == (3, 1280)
    assert torch.allclose(embed(images[1:2]), found[1:2], atol=1e-4)
    assert torch.allclose(embed(images.expand(-1, 3, -1, -1)), found, atol=1e-4), "grey is repeated"


class Stop(Exception):
    pass


@pytest.fixture
def network(monkeypatch):
    """A stand-in for a slow network, called in small parts; it counts the images that it was shown."""
    shown = []

    def embed(images):
        shown.append(len(images))
        return images.flatten(1) @ torch.linspace(-1, 1, SIDE**2 * 3).view(SIDE**2, 3)

    monkeypatch.setattr(model, "embedding", lambda name, device: embed)
    monkeypatch.setattr(model, "EMBEDDED_AT_ONCE", 40)
    return shown


@pytest.mark.parametrize("own", [config(), config(embedding="effnetlite0", lookahead=2)], ids=["pixels", "network"])
def test_a_fit_that_is_stopped_anywhere_ends_bit_equal(own, network, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = fitted(tmp_path / "whole", own)
    steps = 4 if own.embedding == "pixels" else 3 + 4  # 90 records, 40 at once
    for at in range(1, steps + 1):
        folder = tmp_path / str(at)
        folder.mkdir()

        def stop(done, total, at=at):
            assert total == steps
            if done == at:
                raise Stop

        with pytest.raises(Stop):
            fitted(folder, own, report=stop)
        del network[:]
        done = fitted(folder, own)
        assert done.releases == whole.releases
        assert torch.equal(done.weights["population"], whole.weights["population"])
        if own.embedding != "pixels":
            assert sum(network) == max(90 - 40 * at, 0) + (steps - max(at, 3)) * 2 * K * 6, "nothing is embedded twice"


def test_a_checkpoint_is_secret_and_of_one_fit(tmp_path):
    whole = fitted(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="belongs to another fit"):
        fitted(tmp_path, seed=4)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="cannot be read"):
        again = fitted(tmp_path)
    assert again.releases == whole.releases
    assert torch.equal(again.weights["population"], whole.weights["population"])


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"population": 7}, "pretrain"),
        ({"pool": 9}, "pretrain"),
        ({"iterations": 5}, "private_fit"),
        ({"lookahead": 1}, "private_fit"),
        ({"sample_degree": 0.3}, "coarse_samples"),
    ],
)
def test_a_setting_moves_keys_from_the_stage_that_reads_it(changes, first):
    before, after = chain.keys(trial()), chain.keys(trial(generator=config(**changes)))
    moved = [stage for stage in before if before[stage] != after[stage]]
    assert (
        moved
        == ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"][
            ["pretrain", "private_fit", "coarse_samples"].index(first) :
        ]
    )
    json.dumps(moved)
