"""A fit shared by processes is the fit of one: equal weights to rounding, one batch, one noise, one checkpoint."""

import dataclasses
import math
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from test_stages import TINY
from test_training import Killed, assert_close, killed_at, loss_fn, make_config, make_model, make_records

from wavedp import chain, run, stages
from wavedp.errors import InfeasibleError, UserError
from wavedp.privacy import ranks, training
from wavedp.privacy.rank_sums import Ranks, joined
from wavedp.privacy.ranks import together
from wavedp.privacy.training import fit_private
from wavedp.progress import OutOfTime, silent
from wavedp.store import Store

FORK = multiprocessing.get_context("forkserver")
"""Forks of a process that has torch and no thread: they start in milliseconds, where importing torch takes seconds."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch, request):
    FORK.set_forkserver_preload(["pytest", "opacus.grad_sample", "torch._dynamo", "torch.distributed", "wavedp.stages"])
    if "spawned" not in request.keywords:
        monkeypatch.setattr(ranks, "START", FORK)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert not multiprocessing.active_children(), "every process ends with the work"


@dataclass(frozen=True)
class Case:
    """A fit, and what goes wrong in which rank, after so many calls of its loss."""

    config: object = field(default_factory=make_config)
    path: Path | None = None
    noise_multiplier: float = 0.7
    how: str = ""
    where: int = 1
    calls: int = 5


def fit_of(case, report):
    """What every rank runs."""
    number = dist.get_rank() if dist.is_initialized() else 0
    strange, calls = number == case.where, []

    def loss(model, codes, labels, draws):
        calls.append(len(codes))
        if strange and len(calls) > case.calls:
            TROUBLE.get(case.how, lambda _: None)(case)
            if case.how == "memory" and len(codes) > 1:
                raise torch.OutOfMemoryError
        return loss_fn(model, codes, labels) * (1 + draws.sum(1))

    model, records = make_model(), make_records()
    if strange and case.how == "other weights":
        torch.nn.init.ones_(model.head.weight)
    if strange and case.how == "other records":
        records = tuple(tensor.flip(0) for tensor in records)
    options = {"noise_multiplier": case.noise_multiplier, "checkpoint": case.path, "report": report}
    with patch.object(training, "_require_budget"):  # a second each time, in every process
        fit = fit_private(model, loss, records, case.config, seed=3, draws=2, **options)
    return {"ema": {name: value.numpy() for name, value in fit.ema.items()}, "release": fit.release, "calls": calls}


def raises(error):
    def trouble(case):
        raise error

    return trouble


TROUBLE = {
    "killed": lambda case: os.kill(os.getpid(), signal.SIGKILL),
    "silent exit": lambda case: os._exit(3),
    "hang": lambda case: time.sleep(600),
    "user error": raises(UserError("this image is bad: use another.")),
    "infeasible": raises(InfeasibleError("no noise suffices: use more.")),
    "bug": raises(ZeroDivisionError("here")),
}


def alone(case, report=silent):
    return fit_of(dataclasses.replace(case, how=""), report)


def equal_to_rounding(ours, theirs, tolerance=1e-5):
    assert ours["release"] == theirs["release"]
    both = ([torch.tensor(value) for value in fit["ema"].values()] for fit in (ours, theirs))
    assert_close(*both, tolerance)


@pytest.mark.parametrize("changes", [
    {"grad_sample_mode": "bookkeeping"}, {"grad_sample_mode": "hooks", "optimizer": "sgd"},
    {"grad_sample_mode": "ghost", "clipping": "normalize", "optimizer": "adam_bc"},
    {"epsilon": math.inf, "optimizer": "sgd"},
    {"batch_size": 1, "steps": 12},
])  # fmt: skip
def test_two_processes_find_the_weights_of_one(changes):
    """With batches of one expected record, some are empty and some shares are."""
    noise_multiplier = 0.0 if "epsilon" in changes else 0.7
    case = Case(make_config(max_grad_norm=5.0, **changes), noise_multiplier=noise_multiplier)
    heard = []
    ours = together(2, fit_of, case, "cpu", lambda *done: heard.append(done))
    equal_to_rounding(ours, alone(case), 1e-4)
    steps = case.config.steps
    assert heard == [(done, steps) for done in range(1, steps + 1)]
    if "batch_size" not in changes:
        assert 0 < sum(ours["calls"]) < 0.8 * sum(alone(case)["calls"]), "rank 0 sums its share only"


def test_three_processes_one_of_which_has_less_memory_and_other_first_weights():
    plain = alone(Case())
    equal_to_rounding(together(3, fit_of, Case(how="memory", calls=1), "cpu"), plain, 1e-4)
    equal_to_rounding(together(2, fit_of, Case(how="other weights"), "cpu"), plain, 1e-4)


@pytest.mark.parametrize("order", [(1, 2, 1), (2, 1, 2)])
def test_checkpoints_are_those_of_one_process(tmp_path, order):
    """Stopped at steps 2 and 4, each time resumed by another number of processes."""
    case, heard = Case(make_config(checkpoint_every=9), tmp_path / "state.safetensors"), []

    def part(of, stop):
        def report(done, steps):
            heard.append(done)
            if done == stop:
                raise OutOfTime

        return alone(case, report) if of == 1 else together(of, fit_of, case, "cpu", report)

    for of, stop in zip(order, (2, 4), strict=False):
        with pytest.raises(OutOfTime):
            part(of, stop)
    ours = part(order[2], None)
    assert heard == [1, 2, 3, 4, 5, 6]
    case.path.unlink()
    equal_to_rounding(ours, alone(case), 1e-4)


@pytest.mark.parametrize(("how", "where", "words"), [
    ("killed", 1, r"Process 1 of the 2 that share this fit ended by SIGKILL: .*checkpoint"),
    ("silent exit", 0, r"Process 0 of the 2 that share this fit ended with status 3"),
])  # fmt: skip
def test_a_death_is_one_sentence_and_the_fit_goes_on_from_its_checkpoint(tmp_path, how, where, words):
    case = Case(make_config(checkpoint_every=1, microbatch_size=64), tmp_path / "state.safetensors", how=how)
    case, start = dataclasses.replace(case, where=where, calls=12), time.monotonic()
    with pytest.raises(UserError, match=words):
        together(2, fit_of, case, "cpu")
    assert time.monotonic() - start < 60
    assert case.path.exists()
    heard = []
    ours = together(2, fit_of, dataclasses.replace(case, how=""), "cpu", lambda done, _: heard.append(done))
    assert heard[0] > 1
    case.path.unlink()
    equal_to_rounding(ours, alone(case), 1e-4)


@pytest.mark.parametrize(("how", "error", "words", "where"), [
    ("user error", UserError, r"^this image is bad: use another\.", 0),
    ("infeasible", InfeasibleError, "^no noise suffices", 1),
    ("bug", ZeroDivisionError, "^here", 1),
    ("other records", UserError, "^Process 1 of 2 prepared another fit than process 0", 1),
])  # fmt: skip
def test_the_error_of_a_rank_is_the_error_of_the_work(how, error, words, where):
    with pytest.raises(error, match=words) as raised:
        together(2, fit_of, Case(how=how, where=where), "cpu")
    assert f"in process {where} of 2:\nTraceback" in raised.value.__notes__[0]


def test_a_rank_that_hangs_is_given_up():
    with pytest.raises(UserError, match=r"Process 0 of the 2 that share this fit lost the others .*checkpoint"):
        together(2, fit_of, Case(how="hang"), "cpu", patience=3.0)


def test_any_exception_of_the_report_goes_on_after_a_checkpoint(tmp_path):
    case = Case(make_config(checkpoint_every=9), tmp_path / "state.safetensors")
    with pytest.raises(Killed):
        together(2, fit_of, case, "cpu", killed_at(3))
    heard = []
    together(2, fit_of, case, "cpu", lambda done, _: heard.append(done))
    assert heard == [4, 5, 6]


def sleeper(folder, report):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def together_in_a_process(folder):
    together(2, sleeper, folder, "cpu")


def test_ranks_end_with_the_process_that_started_them(tmp_path):
    parent = multiprocessing.get_context("forkserver").Process(target=together_in_a_process, args=(str(tmp_path),))
    parent.start()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    numbers = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.join()
    wait_for(lambda: not any(map(runs, numbers)))


def runs(number):
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_fit_is_alone_where_torch_distributed_serves_something_else(tmp_path):
    dist.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    try:
        assert Ranks.here(torch.device("cpu")) is None
        ours = alone(Case())
    finally:
        dist.destroy_process_group()
    equal_to_rounding(ours, alone(Case()), 0.0)


def test_processes_that_do_not_come_are_missed(tmp_path):
    with pytest.raises(ranks.RankLost), joined(tmp_path / "meeting", 0, 2, "cpu", 1.0):
        pass


@pytest.mark.spawned
def test_the_stage_of_two_processes_publishes_what_one_does(tmp_path):
    """Started as in a study: by spawning, from the trial and its inputs alone."""
    privacy = dataclasses.replace(TINY.privacy, steps=5, batch_size=60)
    trial = dataclasses.replace(TINY, privacy=privacy, level=1)
    made, warned = {}, {}
    for of in (1, 2):
        store, heard = Store(str(tmp_path / str(of))), []
        stages.make("pretrain", trial, store, "cpu")
        made[of], new = stages.make("private_fit", trial, store, "cpu", lambda *s, h=heard: h.append(s), ranks=of)
        assert new
        assert heard == [(done, 5) for done in range(1, 6)]
        warned[of] = [path.name for path in (tmp_path / str(of) / "work").iterdir()]
    one, two = made.values()
    assert one.key == two.key
    assert warned[1] == warned[2] == ["locks"]
    (line,), (other) = one.json("ledger"), two.json("ledger")
    assert [{**line, "time": None}] == [{**item, "time": None} for item in other]
    ours, theirs = two.tensors("weights"), one.tensors("weights")
    assert_close([ours[name] for name in theirs], theirs.values(), 1e-4)


def test_the_number_reaches_the_stage(monkeypatch, tmp_path, capsys):
    """num_gpus of the stage; --ranks and ranks= without Ray."""
    from sweeps import coordinator  # not above: each process would import Ray

    asked = []

    def make_alone(*arguments):
        asked.append(arguments[-1])
        return SimpleNamespace(files={}), True

    monkeypatch.setattr(stages, "make_alone", make_alone)
    monkeypatch.setattr(coordinator, "from_dict", lambda *_: None)
    silent_actor = SimpleNamespace(begin=SimpleNamespace(remote=lambda *_: None))
    for resources in ({"num_gpus": 2}, {"num_gpus": 0.25}, {}):
        settings = {"stages": {"private_fit": resources}, "store": str(tmp_path), "zoo": None}
        coordinator.run_stage._function("private_fit", "key", {}, settings, silent_actor)
    assert asked == [2, 1, 1]
    monkeypatch.setattr(stages, "make", lambda *arguments: asked.append(arguments[-1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(TINY, str(tmp_path), "cpu", ranks=3)
    unit = run.Unit("private_fit", "0" * 64, run.PlannedTrial("one", TINY, chain.keys(TINY)), 1)
    run.Runner(Store(str(tmp_path)), "cpu", set(), ranks=4).run([unit], lambda _: None)
    plan = tmp_path / "plan.json"
    plan.write_text('{"trials": []}')
    monkeypatch.setattr(run, "Runner", lambda *arguments: asked.append(arguments[-1]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.main([str(plan), "--store", str(tmp_path), "--ranks", "5"])
    assert asked[3:] == [3, 4, 5]
    assert run.main([str(plan), "--store", str(tmp_path), "--ranks", "0"]) == run.REFUSED
    assert "ranks=0 processes do no work" in capsys.readouterr().err


def test_a_number_that_this_machine_has_no_gpus_for_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes .* this machine has 1 GPUs"):
        together(2, fit_of, Case(), "cuda")
    with pytest.raises(UserError, match="ranks=0 processes do no work"):
        run(TINY, device="cpu", ranks=0)
