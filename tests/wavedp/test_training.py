"""DP-SGD against a loop over single records, noise against its formula, checkpoints against a run never killed."""

import copy
import math

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from wavedp.config import PrivacyConfig
from wavedp.errors import UserError
from wavedp.privacy import training
from wavedp.privacy.accounting import Mechanism, calibrate, mechanisms
from wavedp.privacy.clipping import RecordGradients, clipping_factors, noisy_mean, plain_sum
from wavedp.privacy.optimizers import AdamBC
from wavedp.privacy.training import fit_private, poisson_sample
from wavedp.progress import OutOfTime
from wavedp.seeds import derive_seed

N, L, CODES, CLASSES = 40, 5, 7, 3
MODES = ["hooks", "ghost", "bookkeeping"]


class Transformer(nn.Module):
    """codes [b, L], labels [b] -> logits [b, L, CODES]; position ids as `positions` lays them out."""

    def __init__(self, positions=lambda ids, b: ids.expand(b, -1).contiguous(), width=8):
        super().__init__()
        self.positions = positions
        self.code, self.place = nn.Embedding(CODES, width), nn.Embedding(L, width)
        self.label = nn.Embedding(CLASSES, width)
        self.norm, self.qkv, self.head = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, CODES)

    def forward(self, codes, labels):
        x = self.code(codes) + self.label(labels)[:, None] + self.place(self.positions(torch.arange(L), len(codes)))
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.head(x + F.scaled_dot_product_attention(q, k, v, is_causal=True))


def loss_fn(model, codes, labels):
    return F.cross_entropy(model(codes, labels).transpose(1, 2), codes, reduction="none").sum(1)


def make_model(**options):
    torch.manual_seed(0)
    return Transformer(**options)


def make_records(n=N):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(CODES, (n, L), generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def make_config(**changes):
    # A budget so large that any noise multiplier these tests use is within it.
    return PrivacyConfig(
        **{"epsilon": 1e6, "delta": 1e-3, "batch_size": 10, "steps": 6, "microbatch_size": 4, **changes}
    )


def looped_sum(model, records, rows, max_grad_norm=math.inf):
    """One backward pass a record, clipped as the definition says."""
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for row in rows:
        loss = loss_fn(model, *(tensor[row : row + 1] for tensor in records)).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
        for sum_, g in zip(total, gradients, strict=True):
            sum_ += g * min(1.0, max_grad_norm / norm)
    return total


def assert_close(ours, theirs, tolerance=1e-5):
    for left, right in zip(ours, theirs, strict=True):
        assert float((left - right).abs().max()) <= tolerance * max(1.0, float(right.abs().max()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("max_grad_norm", "clipped"), [(1e-2, "all"), (14.0, "some"), (1e3, "none")])
def test_clipped_sum_equals_a_loop_over_records(mode, max_grad_norm, clipped):
    model, records, rows = make_model(), make_records(), list(range(7))
    norms = [math.sqrt(sum(float(g.square().sum()) for g in looped_sum(model, records, [row]))) for row in rows]
    assert {"all": min(norms) > max_grad_norm, "none": max(norms) < max_grad_norm}.get(
        clipped, min(norms) < max_grad_norm < max(norms)
    )
    gradients = RecordGradients(model, max_grad_norm, mode)
    ours = gradients.clipped_sum(loss_fn, [tensor[:7] for tensor in records])
    gradients.close()
    assert_close(ours, looped_sum(model, records, rows, max_grad_norm))


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_clipped_sum_equals_opacus_own_optimizer():
    model, records = make_model(), make_records()
    gradients = RecordGradients(model, 5.0, "hooks")
    ours = gradients.clipped_sum(loss_fn, records)
    gradients.close()
    wrapped = GradSampleModule(make_model(), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=5.0,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    loss_fn(wrapped, *records).sum().backward()
    optimizer.clip_and_accumulate()
    assert_close(ours, [parameter.summed_grad for parameter in wrapped.parameters()], 1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_grad_norm", [1e-2, 1e3])
def test_normalized_records_are_near_c_and_never_beyond(mode, max_grad_norm):
    """One record at a time, some scaled until their gradients are tiny: each vote is |g| C / (|g| + 0.01) long."""
    model, records = make_model(), make_records()
    votes = {}
    for row, scale in enumerate([1.0, 1e3, 1e-2, 1e-4, 0.0]):
        one = [tensor[row : row + 1] for tensor in records]
        exact = [scale * total for total in looped_sum(model, records, [row])]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in exact))
        gradients = RecordGradients(model, max_grad_norm, mode, "normalize")
        ours = gradients.clipped_sum(lambda *batch, scale=scale: scale * loss_fn(*batch), one)
        gradients.close()
        assert_close(ours, [g * max_grad_norm / (norm + 0.01) for g in exact])
        votes[scale] = math.sqrt(sum(float(g.double().square().sum()) for g in ours)), norm
        assert votes[scale][0] <= max_grad_norm * (1 + 1e-6)
    assert votes[1e3][0] > 0.999 * max_grad_norm
    assert votes[0.0][0] == 0
    if max_grad_norm > 100:  # every gradient is shorter than C, and scaled up
        assert all(vote > 10 * norm for scale, (vote, norm) in votes.items() if 0 < scale < 1e3)


@pytest.mark.parametrize("mode", MODES)
def test_normalized_sum_of_a_batch_equals_a_loop_over_records(mode):
    model, records = make_model(), make_records()
    gradients = RecordGradients(model, 2.0, mode, "normalize")
    ours = gradients.clipped_sum(loss_fn, [tensor[:7] for tensor in records])
    gradients.close()
    expected = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for row in range(7):
        one = looped_sum(model, records, [row])
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in one))
        for total, g in zip(expected, one, strict=True):
            total += g * 2.0 / (norm + 0.01)
    assert_close(ours, expected)


def test_flat_factors_are_what_they_always_were():
    norms = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(clipping_factors(norms, 1.5, "flat"), (1.5 / (norms + 1e-6)).clamp(max=1.0))
    for clipping in ("flat", "normalize"):
        assert float((clipping_factors(norms, 1.5, clipping) * norms).max()) <= 1.5


@pytest.mark.parametrize(
    "changes",
    [
        {"clipping": "normalize"},
        {"optimizer": "adam_bc"},
        {"optimizer": "adam_bc", "adam_floor": 0.6},
        {"adam_floor": 0.6},
    ],
)
def test_the_config_reaches_the_fit(changes):
    """normalize and adam_bc against a loop over records; a floor alone changes nothing but the release.

    C is longer than any gradient, so that normalize is far from flat.
    """
    config, records = make_config(max_grad_norm=50.0, **changes), make_records()
    ours = fit_private(make_model(), loss_fn, records, config, noise_multiplier=0.7, seed=3)
    model = make_model()
    release = training.release_id(training.fingerprint(model, records, config, 0.7, 3))
    sampling = torch.Generator().manual_seed(derive_seed(3, "sampling", release))
    noise = torch.Generator().manual_seed(derive_seed(3, "noise", release))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    if config.optimizer == "adam_bc":
        floor = changes.get("adam_floor", 0.3)
        optimizer = AdamBC(model.parameters(), lr=config.learning_rate, noise_std=0.7 * 50.0 / 10, floor=floor)
    ema = copy.deepcopy(model.state_dict())
    for step in range(config.steps):
        sums = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for row in poisson_sample(N, 0.25, sampling).tolist():
            one = looped_sum(model, records, [row])
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in one))
            factor = 50.0 / (norm + 0.01) if config.clipping == "normalize" else min(1.0, 50.0 / norm)
            for total, g in zip(sums, one, strict=True):
                total += g * factor
        for parameter, total in zip(model.parameters(), sums, strict=True):
            parameter.grad = (total + 0.7 * 50.0 * torch.randn(total.shape, generator=noise)) / 10
        optimizer.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        ema = {name: decay * ema[name] + (1 - decay) * value for name, value in model.state_dict().items()}
    assert_close(ours.ema.values(), ema.values())


@pytest.mark.parametrize("mode", MODES)
def test_whole_fit_equals_a_loop_over_records(mode):
    """Every part at once: sampling, microbatches, clipping, noise, expected batch size, Adam, EMA."""
    config, records = make_config(max_grad_norm=5.0, grad_sample_mode=mode), make_records()
    ours = fit_private(make_model(), loss_fn, records, config, noise_multiplier=0.7, seed=3)

    model = make_model()
    release = training.release_id(training.fingerprint(model, records, config, 0.7, 3))
    sampling = torch.Generator().manual_seed(derive_seed(3, "sampling", release))
    noise = torch.Generator().manual_seed(derive_seed(3, "noise", release))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    ema = copy.deepcopy(model.state_dict())
    for step in range(config.steps):
        rows = (torch.rand(N, generator=sampling, dtype=torch.float64) < 10 / N).nonzero().flatten().tolist()
        for parameter, total in zip(model.parameters(), looped_sum(model, records, rows, 5.0), strict=True):
            parameter.grad = (total + 0.7 * 5.0 * torch.randn(total.shape, generator=noise)) / 10
        optimizer.step()
        decay = min(config.ema_decay, (1 + step) / (10 + step))
        ema = {name: decay * ema[name] + (1 - decay) * value for name, value in model.state_dict().items()}
    assert ours.history == [Mechanism(0.25, 0.7, 6)]
    assert list(ours.ema) == list(ema)
    assert_close(ours.ema.values(), ema.values())


def test_noise_has_the_stated_standard_deviation():
    zeros = [torch.zeros(300, 300), torch.zeros(50_000)]
    means = noisy_mean(zeros, 1.5, 0.2, 64, torch.Generator().manual_seed(0))
    for mean in means:
        assert float(mean.std()) == pytest.approx(1.5 * 0.2 / 64, rel=0.05)
        assert abs(float(mean.mean())) < 1.5 * 0.2 / 64 * 5 / math.sqrt(mean.numel())
    assert abs(float(torch.corrcoef(torch.stack([means[0].flatten()[:50_000], means[1]]))[0, 1])) < 0.03


def test_poisson_batches_have_rate_q_and_vary():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([float(len(poisson_sample(1000, 0.03, generator))) for _ in range(2000)])
    assert float(sizes.mean()) == pytest.approx(30, abs=5 * math.sqrt(1000 * 0.03 * 0.97 / 2000))
    assert float(sizes.var()) == pytest.approx(1000 * 0.03 * 0.97, rel=0.2)
    assert poisson_sample(5, 1.0, generator).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("mode", MODES)
def test_empty_batches_are_steps_of_noise(mode, monkeypatch):
    monkeypatch.setattr(training, "poisson_sample", lambda *_: torch.empty(0, dtype=torch.int64))
    config = make_config(steps=5, grad_sample_mode=mode, optimizer="sgd", learning_rate=1.0, max_grad_norm=1e-3)
    fit = fit_private(model := make_model(), loss_fn, make_records(), config, noise_multiplier=2.0, seed=2)
    walk = zip(model.parameters(), make_model().parameters(), strict=True)
    moved = torch.cat([(new - old).detach().flatten() for new, old in walk])
    assert fit.history == [Mechanism(0.25, 2.0, 5)]
    assert float(moved.std()) == pytest.approx(2.0 * 1e-3 / 10 * math.sqrt(5), rel=0.1)
    silent = make_config(epsilon=math.inf, steps=1)
    fit_private(model := make_model(), loss_fn, make_records(), silent, noise_multiplier=0.0, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make_model().parameters(), strict=True))


def test_epsilon_inf_is_plain_adam_on_the_same_batches():
    config, records = make_config(epsilon=math.inf, max_grad_norm=1e-9, microbatch_size=64), make_records()
    fit = fit_private(trained := make_model(), loss_fn, records, config, noise_multiplier=0.0, seed=3)
    model = make_model()
    release = training.release_id(training.fingerprint(model, records, config, 0.0, 3))
    sampling = torch.Generator().manual_seed(derive_seed(3, "sampling", release))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for _ in range(config.steps):
        rows = poisson_sample(N, 0.25, sampling)
        optimizer.zero_grad()
        loss_fn(model, *(tensor[rows] for tensor in records)).sum().backward()
        for parameter in model.parameters():
            parameter.grad /= 10
        optimizer.step()
    assert fit.history == [Mechanism(0.25, 0.0, 6)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(trained.parameters(), model.parameters(), strict=True))


def test_sgd_and_microbatches_change_nothing_else():
    fits = [
        fit_private(
            make_model(),
            loss_fn,
            make_records(),
            make_config(optimizer="sgd", microbatch_size=size),
            noise_multiplier=0.7,
            seed=3,
        )
        for size in (1, 3, 64)
    ]
    for other in fits[1:]:
        assert_close(fits[0].ema.values(), other.ema.values())


def test_draws_are_one_row_a_record_whatever_the_microbatches():
    seen = {}

    def spy(model, codes, labels, draws):
        seen.setdefault(size, []).append(torch.cat([codes, draws], 1))
        return loss_fn(model, codes, labels) * (1 + draws.sum(1))

    for size in (1, 3, 64):
        config = make_config(microbatch_size=size)
        fit_private(make_model(), spy, make_records(), config, noise_multiplier=0.7, seed=3, draws=2)
    # Once each: the comparison shows the first records again, alone.
    rows = {size: torch.cat(parts).unique(dim=0) for size, parts in seen.items()}
    assert torch.equal(rows[1], rows[3])
    assert torch.equal(rows[1], rows[64])
    assert len(rows[1][:, L:].unique()) == rows[1][:, L:].numel()  # new ones for every record and step
    assert 0 <= rows[1][:, L:].min() <= rows[1][:, L:].max() < 1


class Killed(Exception):
    pass


def killed_at(step):
    def report(done, steps):
        if done == step:
            raise Killed

    return report


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adam_bc"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", [1, 3, 4])
def test_killed_and_resumed_equals_never_killed(tmp_path, mode, optimizer, step, monkeypatch):
    config = make_config(grad_sample_mode=mode, optimizer=optimizer, checkpoint_every=2)
    options = {"noise_multiplier": 0.7, "seed": 3}
    whole = fit_private(make_model(), loss_fn, make_records(), config, **options)
    path = tmp_path / "fit" / "state.safetensors"

    draws = iter(range(step))

    def killed_after(*arguments):
        if next(draws, None) is None:
            raise Killed
        return poisson_sample(*arguments)

    monkeypatch.setattr(training, "poisson_sample", killed_after)
    with pytest.raises(Killed):
        fit_private(make_model(), loss_fn, make_records(), config, **options, checkpoint=path)
    monkeypatch.undo()
    assert path.exists() == (step >= 2)
    heard = []
    resumed = fit_private(
        make_model(), loss_fn, make_records(), config, **options, checkpoint=path, report=lambda *s: heard.append(s)
    )
    assert heard == [(done, 6) for done in range(step // 2 * 2 + 1, 7)]
    assert resumed.history == whole.history
    for name, tensor in whole.ema.items():
        assert torch.equal(resumed.ema[name], tensor)


@pytest.mark.parametrize("error", [OutOfTime, KeyboardInterrupt])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_stopped_by_its_report_and_resumed_equals_never_stopped(tmp_path, step, error):
    config, options = make_config(checkpoint_every=4), {"noise_multiplier": 0.7, "seed": 3}
    whole = fit_private(make_model(), loss_fn, make_records(), config, **options)
    path, heard = tmp_path / "fit" / "state.safetensors", []

    def stop(done, steps):
        if done == step:
            raise error

    with pytest.raises(error):
        fit_private(make_model(), loss_fn, make_records(), config, **options, report=stop)
    with pytest.raises(error):
        fit_private(make_model(), loss_fn, make_records(), config, **options, checkpoint=path, report=stop)
    report = lambda *done: heard.append(done)  # noqa: E731
    resumed = fit_private(make_model(), loss_fn, make_records(), config, **options, checkpoint=path, report=report)
    assert heard == [(done, 6) for done in range(step + 1, 7)]
    assert (resumed.release, resumed.history) == (whole.release, whole.history)
    assert all(torch.equal(resumed.ema[name], tensor) for name, tensor in whole.ema.items())


def test_random_losses_resume_too_and_leave_the_global_generator_alone(tmp_path):
    def dropped(model, codes, labels):
        return loss_fn(model, codes, labels) * (torch.rand(len(codes)) < 0.5)

    config, options = make_config(checkpoint_every=2), {"noise_multiplier": 0.7, "seed": 3}
    path = tmp_path / "state.safetensors"
    whole = fit_private(make_model(), dropped, make_records(), config, **options)
    with pytest.raises(Killed):
        fit_private(make_model(), dropped, make_records(), config, **options, checkpoint=path, report=killed_at(3))
    model = make_model()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    resumed = fit_private(model, dropped, make_records(), config, **options, checkpoint=path)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(resumed.ema[name], tensor) for name, tensor in whole.ema.items())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"max_grad_norm": 2.0}, "max_grad_norm"),
        ({"seed": 4}, "seed"),
        ({"noise_multiplier": 0.8}, "noise_multiplier"),
        ({"records": make_records(41)}, "n_records"),
        ({"records": tuple(tensor.flip(0) for tensor in make_records())}, "records"),
        ({"width": 16}, "shapes"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(tmp_path, changes, field):
    path = tmp_path / "state.safetensors"
    options = {"noise_multiplier": 0.7, "seed": 3, "checkpoint": path}
    fit_private(make_model(), loss_fn, make_records(), make_config(steps=1), **options)
    records = changes.get("records", make_records())
    model = make_model(**{key: value for key, value in changes.items() if key == "width"})
    config = make_config(steps=1, **{key: changes[key] for key in ("learning_rate", "max_grad_norm") if key in changes})
    options |= {key: changes[key] for key in ("seed", "noise_multiplier") if key in changes}
    with pytest.raises(UserError, match=rf"another fit \({field} was"):
        fit_private(model, loss_fn, records, config, **options)


def test_performance_fields_may_change_on_resume(tmp_path):
    options = {"noise_multiplier": 0.7, "seed": 3, "checkpoint": tmp_path / "state.safetensors"}
    with pytest.raises(Killed):
        fit_private(
            make_model(), loss_fn, make_records(), make_config(checkpoint_every=1), **options, report=killed_at(3)
        )
    heard = []
    other = make_config(microbatch_size=7, grad_sample_mode="ghost", checkpoint_every=9)
    fit_private(make_model(), loss_fn, make_records(), other, **options, report=lambda *s: heard.append(s))
    assert heard[0] == (4, 6)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"?" + b[-8:]])
def test_a_damaged_checkpoint_is_the_same_release_again(tmp_path, damage):
    options = {"noise_multiplier": 0.7, "seed": 3, "checkpoint": tmp_path / "state.safetensors"}
    whole = fit_private(make_model(), loss_fn, make_records(), make_config(), **options)
    options["checkpoint"].write_bytes(damage(options["checkpoint"].read_bytes()))
    with pytest.warns(UserWarning, match="starting again from step 0"):
        again = fit_private(make_model(), loss_fn, make_records(), make_config(), **options)
    assert all(torch.equal(again.ema[name], tensor) for name, tensor in whole.ema.items())
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_secure_noise_resumes_but_never_repeats(tmp_path):
    config = make_config(noise_source="secure", checkpoint_every=2)
    options = {"noise_multiplier": 0.7, "seed": 3}
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit_private(make_model(), loss_fn, make_records(), config, **options, checkpoint=path, report=killed_at(3))
    left = path.read_bytes()
    resumed = fit_private(make_model(), loss_fn, make_records(), config, **options, checkpoint=path)
    path.write_bytes(left)
    twin = fit_private(make_model(), loss_fn, make_records(), config, **options, checkpoint=path)
    assert resumed.release == twin.release
    assert all(torch.equal(resumed.ema[name], tensor) for name, tensor in twin.ema.items())
    other = fit_private(make_model(), loss_fn, make_records(), config, **options)
    assert other.release != resumed.release
    assert not torch.equal(other.ema["code.weight"], resumed.ema["code.weight"])
    seeded = make_config(checkpoint_every=2)
    with pytest.raises(UserError, match=r"another fit \(noise_source was secure, is None"):
        fit_private(make_model(), loss_fn, make_records(), seeded, **options, checkpoint=path)
    with pytest.raises(UserError, match="class means anew at every restart"):
        fit_private(
            make_model(), loss_fn, make_records(), make_config(noise_source="secure", mean_share=0.1), **options
        )


def test_two_releases_never_share_noise():
    """With shared noise, two releases of one step at σ and 2σ would give the gradient away: here they must not."""
    config = make_config(steps=1, optimizer="sgd", learning_rate=1.0, batch_size=N)
    start = torch.cat([parameter.flatten() for parameter in make_model().parameters()])
    steps = []
    for noise_multiplier in (1.0, 2.0):
        fit_private(model := make_model(), loss_fn, make_records(), config, noise_multiplier=noise_multiplier, seed=3)
        steps.append(torch.cat([parameter.flatten() for parameter in model.parameters()]) - start)
    exact = torch.cat([total.detach().flatten() for total in looped_sum(make_model(), make_records(), range(N), 1.0)])
    guess = (2 * steps[0] - steps[1]).detach() * -N
    assert float((guess - exact).norm()) > float(exact.norm())


def test_checkpoint_holds_no_private_loss_and_no_seed(tmp_path):
    path = tmp_path / "state.safetensors"
    fit_private(
        make_model(), loss_fn, make_records(), make_config(), noise_multiplier=0.7, seed=123456, checkpoint=path
    )
    with safe_open(path, "pt") as file:
        roots = {name.split("/")[0] for name in file.keys()}  # noqa: SIM118
        header = file.metadata()["wavedp"]
    assert roots == {"model", "ema", "optimizer", "sampling", "noise"}
    assert "loss" not in header
    assert "123456" not in header


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("positions", "size"),
    [
        (lambda ids, b: ids.expand(1, -1), 4),  # broadcast over the records
        (lambda ids, b: ids, 4),
        (lambda ids, b: ids, L),  # as many positions as records: the shapes fit, the gradients do not
    ],
)
def test_a_position_embedding_without_the_record_dimension_is_refused(mode, positions, size):
    config = make_config(grad_sample_mode=mode, batch_size=N, microbatch_size=size, steps=1)
    with pytest.raises(UserError, match=r"place.*position ids"):
        fit_private(make_model(positions=positions), loss_fn, make_records(), config, noise_multiplier=1.0, seed=0)


def test_refusals_before_and_in_the_first_step():
    def fit(model=None, loss=loss_fn, noise_multiplier=1.0, **changes):
        fit_private(
            model or make_model(),
            loss,
            make_records(),
            make_config(**changes),
            noise_multiplier=noise_multiplier,
            seed=0,
        )

    with pytest.raises(UserError, match="does not go with epsilon=inf"):
        fit(epsilon=math.inf)
    with pytest.raises(UserError, match=r"does not go with epsilon=5\.0"):
        fit(noise_multiplier=0.0, epsilon=5.0)
    with pytest.raises(UserError, match=r"would spend epsilon=.* more than privacy.epsilon=1.0"):
        fit(epsilon=1.0)
    with pytest.raises(UserError, match=r"shape \(\) for \d+ records"):
        fit(loss=lambda *batch: loss_fn(*batch).mean())
    with pytest.raises(UserError, match="not finite"):
        fit(loss=lambda *batch: loss_fn(*batch) / 0)
    still = make_model()
    nn.init.ones_(still.norm.bias)  # a bias of zero would move by any amount
    with pytest.raises(UserError, match="moved no trainable weight"):
        fit(model=still, optimizer="sgd", learning_rate=1e-30)
    with pytest.raises(UserError, match="no trainable parameter"):
        fit(model=make_model().requires_grad_(False))
    unused = make_model()
    unused.extra = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"'extra.weight' has no gradient"):
        fit(model=unused)
    with pytest.raises(UserError, match="without buffers"):
        fit(model=nn.Sequential(nn.BatchNorm1d(3)))


def test_non_finite_gradient_leaves_the_weights_alone():
    model = make_model()
    options = {"noise_multiplier": 1.0, "seed": 0}
    with pytest.raises(UserError, match="not finite"):
        fit_private(model, lambda *batch: loss_fn(*batch) / 0, make_records(), make_config(), **options)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make_model().parameters(), strict=True))
    # And Opacus is off it: the same model fits afterwards.
    fit_private(model, loss_fn, make_records(), make_config(), **options)


def test_views_of_a_record_are_one_gradient():
    """One loss per record, over two forward passes: clipping sees their average, not each view."""

    def two_views(model, codes, labels):
        return (loss_fn(model, codes, labels) + loss_fn(model, codes.flip(1), labels)) / 2

    model, records = make_model(), make_records()
    gradients = RecordGradients(model, 1e-2, "hooks")
    ours = gradients.clipped_sum(two_views, [tensor[:4] for tensor in records])
    gradients.close()
    expected = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for row in range(4):
        loss = two_views(model, *(tensor[row : row + 1] for tensor in records)).sum()
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        for total, g in zip(expected, gradient, strict=True):
            total += g * 1e-2 / norm
    assert_close(ours, expected)
    gradients = RecordGradients(model, 1e-2, "ghost")
    with pytest.raises(UserError, match="grad_sample_mode=hooks"):
        gradients.clipped_sum(two_views, [tensor[:4] for tensor in records])
    gradients.close()


def test_tied_and_frozen_weights_come_out_of_the_average_whole():
    model = make_model()
    model.head.weight = model.code.weight
    model.label.requires_grad_(False)
    fit = fit_private(model, loss_fn, make_records(), make_config(), noise_multiplier=1.0, seed=0)
    assert set(fit.ema) == set(model.state_dict())
    assert torch.equal(fit.ema["head.weight"], fit.ema["code.weight"])
    assert not torch.equal(fit.ema["head.weight"], model.head.weight)
    assert torch.equal(fit.ema["label.weight"], make_model().label.weight)


def test_plain_sum_is_autograd():
    assert_close(plain_sum(make_model(), loss_fn, make_records()), looped_sum(make_model(), make_records(), range(N)))


def test_a_calibrated_fit_runs_within_its_budget():
    config = make_config(epsilon=3.0)
    noise_multiplier = calibrate(3.0, 1e-3, 0.25, config.steps)
    fit = fit_private(make_model(), loss_fn, make_records(), config, noise_multiplier=noise_multiplier, seed=0)
    assert fit.history == [Mechanism(0.25, noise_multiplier, 6)]


def test_a_fit_leaves_room_for_the_class_means():
    config = make_config(epsilon=3.0, mean_share=0.3)
    _, planned = mechanisms(config, N)
    fit = fit_private(make_model(), loss_fn, make_records(), config, noise_multiplier=planned.noise_multiplier, seed=0)
    assert fit.history == [planned]
    alone = calibrate(3.0, 1e-3, 0.25, config.steps)
    with pytest.raises(UserError, match=r"would spend epsilon=3\.\d+, more than privacy\.epsilon=3\.0"):
        fit_private(make_model(), loss_fn, make_records(), config, noise_multiplier=alone, seed=0)


def test_derived_seeds_are_stable_and_apart():
    assert derive_seed(0, "noise") == 6094347035957852577  # printf '[0, "noise"]' | sha256sum, first 8 bytes, halved
    assert (
        len({derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "a", "b"), derive_seed(0, "ab")}) == 5
    )
    assert all(0 <= derive_seed(seed, "noise") < 2**63 for seed in range(200))


class RunningMean(torch.nn.Module):
    """A frozen BatchNorm in training mode: it has no trainable weight, and keeps a mean of what it sees."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4).requires_grad_(False)
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, x):
        self.norm(x[:, :, None].expand(-1, -1, 2))
        return self.linear(x)


def test_a_running_mean_of_the_records_is_refused():
    """It would be released with the weights, without noise."""
    records = (torch.randn(64, 4) + 3,)
    config = PrivacyConfig(epsilon=2.0, batch_size=32, steps=3)
    sigma = mechanisms(config, 64)[-1].noise_multiplier
    with pytest.raises(UserError, match=r"Buffer 'norm\.running_mean' follows the records"):
        fit_private(
            RunningMean(), lambda model, x: model(x).square().mean(1), records, config, noise_multiplier=sigma, seed=0
        )
    still = RunningMean()
    still.train = lambda mode=True: still  # kept in eval mode
    still.eval()
    still.norm.eval()
    loss = lambda model, x: model(x).square().mean(1)  # noqa: E731
    fit = fit_private(still, loss, records, config, noise_multiplier=sigma, seed=0)
    assert fit.ema["norm.running_mean"].abs().max() == 0
