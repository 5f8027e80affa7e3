"""Numbers drawn ahead are those drawn at the beginning of each step, in weights and in checkpoints."""

import math
import threading

import pytest
import torch
from test_training import Killed, killed_at, loss_fn, make_config, make_model, make_records

from wavedp.privacy import step_draws, training
from wavedp.privacy.randomness import Drawn, SecureGenerator, normal, twin, uniform
from wavedp.privacy.training import fit_private, poisson_sample

OPTIONS = {"seed": 3, "draws": 2}


def drawing_loss(model, codes, labels, draws):
    return loss_fn(model, codes, labels) * (1 + draws.sum(1))


def fit(config, path=None, report=None, noise_multiplier=0.7):
    options = {**OPTIONS, "noise_multiplier": noise_multiplier, "checkpoint": path, "report": report}
    return fit_private(make_model(), drawing_loss, make_records(), config, **options)


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(step_draws, "AHEAD", ("cpu",))


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wavedp-draws")]


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "microbatch_size": 64}, {"epsilon": math.inf}])
def test_weights_and_every_checkpoint_are_bit_equal(tmp_path, monkeypatch, changes):
    config, path = make_config(checkpoint_every=1, **changes), tmp_path / "state.safetensors"
    found = {}
    for devices in (("cuda",), ("cpu",)):
        monkeypatch.setattr(step_draws, "AHEAD", devices)
        states = []
        noise_multiplier = 0.0 if "epsilon" in changes else 0.7
        done = fit(config, path, lambda *_, s=states: s.append(path.read_bytes()), noise_multiplier)
        path.unlink()
        found[devices] = done.ema, states
    (plain, states), (ours, others) = found.values()
    assert all(torch.equal(ours[name], tensor) for name, tensor in plain.items())
    assert len(states) == 6
    assert states == others


@pytest.mark.parametrize("source", ["seeded", "secure"])
@pytest.mark.parametrize("order", [(("cpu",), ("cuda",)), (("cuda",), ("cpu",)), (("cpu",), ("cpu",))])
def test_a_fit_goes_on_from_the_other_way_of_drawing(tmp_path, monkeypatch, source, order):
    """Killed in the middle of step 4, resumed from step 2: in any order, as if all had been drawn at the beginning."""
    config, path = make_config(checkpoint_every=2, noise_source=source), tmp_path / "state.safetensors"
    monkeypatch.setattr(step_draws, "AHEAD", order[0])
    with pytest.raises(Killed):
        fit(config, path, killed_at(3))
    state = path.read_bytes()
    ends = []
    for devices in (order[1], ("cuda",)):
        monkeypatch.setattr(step_draws, "AHEAD", devices)
        path.write_bytes(state)
        ends.append(fit(config, path))
    assert ends[0].release == ends[1].release
    assert all(torch.equal(ends[0].ema[name], tensor) for name, tensor in ends[1].ema.items())
    if source == "seeded":
        assert all(torch.equal(ends[0].ema[name], tensor) for name, tensor in fit(config).ema.items())


def test_the_next_step_is_drawn_while_this_one_computes(ahead, monkeypatch):
    drawn, at = threading.Semaphore(0), []

    def sample(*arguments):
        at.append(threading.current_thread().name)
        drawn.release()
        return poisson_sample(*arguments)

    def loss(*batch):
        if not waited:
            waited.append(drawn.acquire(timeout=20) and drawn.acquire(timeout=20))  # this step's, and the next
        return drawing_loss(*batch)

    waited = []
    monkeypatch.setattr(training, "poisson_sample", sample)
    fit_private(make_model(), loss, make_records(), make_config(), noise_multiplier=0.7, **OPTIONS)
    assert waited == [True]
    assert at == ["wavedp-draws_0"] * 6, "no step is drawn twice, and none after the last"
    assert not threads()


def test_on_the_cpu_nothing_is_drawn_ahead(monkeypatch):
    at = []

    def sample(*arguments):
        at.append(threading.current_thread())
        return poisson_sample(*arguments)

    monkeypatch.setattr(training, "poisson_sample", sample)
    fit(make_config())
    assert at == [threading.main_thread()] * 6


def test_an_error_of_the_thread_ends_the_step_that_it_belongs_to(ahead, monkeypatch):
    calls, heard = [], []

    def sample(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise Killed
        return poisson_sample(*arguments)

    monkeypatch.setattr(training, "poisson_sample", sample)
    with pytest.raises(Killed):
        fit(make_config(), report=lambda done, _: heard.append(done))
    assert heard == [1, 2, 3]
    assert not threads()


def test_noise_is_handed_out_once_and_for_what_it_was_drawn():
    numbers = [torch.randn(2, 3), torch.randn(4)]
    drawn = Drawn(numbers)
    with pytest.raises(RuntimeError, match=r"noise of \(4,\), .* was asked for and the next have \(2, 3\)"):
        normal(torch.Size([4]), torch.float32, drawn)
    drawn = Drawn(numbers)
    for tensor in numbers:
        assert normal(tensor.shape, tensor.dtype, drawn) is tensor
    with pytest.raises(RuntimeError, match="none are left"):
        normal(torch.Size([4]), torch.float32, drawn)


@pytest.mark.parametrize("make", [lambda: torch.Generator().manual_seed(5), SecureGenerator])
def test_a_twin_goes_on_and_leaves_its_twin_alone(make):
    one = make()
    normal(torch.Size([3]), torch.float32, one)
    other, before = twin(one), one.get_state()
    theirs = uniform(5, other)
    assert torch.equal(one.get_state(), before)
    assert torch.equal(uniform(5, one), theirs)
