"""The coordinator under a budget, without Ray: a fake of the task stands for the worker."""

import asyncio
import dataclasses
import json
import math
import multiprocessing
import shutil
import time

import pytest

from sweeps import coordinator as module
from sweeps.claim import claimed
from sweeps.plan import PlannedTrial, plan, release_of, releases_of
from sweeps.records import Records
from wavedp import chain, data
from wavedp.config import DataConfig, TrialConfig, configure, from_dict, to_dict
from wavedp.errors import UserError
from wavedp.jsonl import read_jsonl
from wavedp.methods import canonical
from wavedp.privacy import accounting, ledger
from wavedp.privacy.accounting import compose
from wavedp.store import Draft, Store

PROCEDURAL = DataConfig(name="procedural", n_records=256)
PUBLIC = dataclasses.replace(PROCEDURAL, split="public")
BASE = to_dict(dataclasses.replace(TrialConfig(), data=PROCEDURAL, public=PUBLIC))
TRIALS = plan(BASE, {"grid": {"epsilon": [1, 1.5, 2]}}, lambda group, option: {})


class FakeStage:
    """run_stage.options(…).remote(…) -> an awaitable, as a Ray task is."""

    def __init__(self, result):
        self.result, self.started = result, []

    def options(self, **_):
        return self

    def remote(self, name, key, trial, settings, me):
        self.started.append(trial)
        return self.result(name, trial)


async def released(name, trial):
    config = from_dict(TrialConfig, trial)
    key, asked = chain.keys(config)[name], release_of(config, name if name in chain.PRIVATE else "private_fit")
    lines = [
        ledger.line_for_fit(
            item, config.privacy, dataset=asked.dataset, n_records=256, stage_key=key, trials=[], purpose=str(number)
        )
        for number, item in enumerate(asked.mechanisms)
    ]
    return {"key": key, "made": True, "seconds": 5.0, "memory": {}, "ledger": lines, "warnings": []}


async def lost(name, trial):
    raise RuntimeError("the worker died")


def coordinator(folder, monkeypatch, result=released, gpus=0, **budget):
    settings = {
        "store": str(folder / "store"),
        "zoo": None,
        "copy": "study-0",
        "stages": {name: {"num_gpus": gpus} for name in chain.NAMES},
        "budget": {"epsilon": None, "gpu_hours": None} | budget,
    }
    fake = FakeStage(result)
    monkeypatch.setattr(module, "run_stage", fake)
    made = module.Coordinator.__ray_metadata__.modified_class(str(folder), settings, {})
    made.me = object()
    return made, fake


def ask(target, trials, stage="private_fit"):
    """Each trial asks for its stage, one after another; the answers, once every task is over."""

    async def all_of_them():
        answers = [await target.request(stage, trial.keys[stage], to_dict(trial.config), trial.id) for trial in trials]
        await asyncio.gather(*(each for each in answers if not isinstance(each, str)), return_exceptions=True)
        return answers

    return asyncio.run(all_of_them())


def together(*trials):
    mechanisms = [item for trial in trials for item in release_of(trial.config).mechanisms]
    return compose(mechanisms, release_of(trials[0].config).delta)


def test_a_release_that_does_not_fit_is_refused_and_smaller_ones_go_on(tmp_path, monkeypatch):
    small, middle, large = TRIALS
    budget = 2.05
    assert max(together(large), together(small, middle)) < budget < together(small, large)
    target, fake = coordinator(tmp_path, monkeypatch, epsilon=budget)
    first, refusal, second, again = ask(target, [small, large, middle, small])
    assert not isinstance(first, str)
    assert "over budget.epsilon=" in refusal
    assert not isinstance(second, str)
    assert again == first
    assert len(fake.started) == 2
    assert max(ledger.composed_epsilon(ledger.read(tmp_path / "ledger.jsonl")).values()) <= budget
    # Started again, the ledger is what was spent: the same two are free, the third is refused.
    target, _ = coordinator(tmp_path, monkeypatch, epsilon=budget)
    assert [isinstance(answer, str) for answer in ask(target, TRIALS)] == [False, False, True]


def test_a_trial_of_two_releases_is_allowed_or_refused_whole(tmp_path, monkeypatch):
    """One that its budget holds in part would spend it on half a trial."""
    detail = configure("upscaler", "wavelet_detail", epsilon_share=0.5, fit_batch=64, fit_steps=2)
    config = canonical(dataclasses.replace(TRIALS[0].config, upscaler=detail))
    trial = PlannedTrial("a", {}, config, chain.keys(config))
    first, second = (trial.keys[stage] for stage in chain.PRIVATE)
    both = releases_of(trial)
    delta = both[first].delta
    alone, whole = (compose([m for key in keys for m in both[key].mechanisms], delta) for keys in ([first], both))
    assert alone < whole <= config.privacy.epsilon
    target, fake = coordinator(tmp_path / "tight", monkeypatch, epsilon=(alone + whole) / 2)
    assert "over budget.epsilon=" in ask(target, [trial])[0]
    assert not fake.started
    target, fake = coordinator(tmp_path / "wide", monkeypatch, epsilon=whole * 1.001)
    assert not isinstance(ask(target, [trial])[0], str)
    assert target.releases.keys() == {first, second}  # the second is noted before it is asked for
    assert not isinstance(ask(target, [trial], "upscaler_fit")[0], str)
    assert len(fake.started) == 2


def test_a_release_that_was_made_elsewhere_is_counted_before_any_other(tmp_path, monkeypatch):
    """By `wavedp.run` with the plan, say: it lies in the store, and no ledger lists it."""
    small, _, large = TRIALS
    store = Store(str(tmp_path / "store"))
    draft = Draft()
    draft.json("ledger", asyncio.run(released("private_fit", to_dict(large.config)))["ledger"])
    store.publish("private_fit", large.keys["private_fit"], draft)
    records = Records(tmp_path)
    for lines, users in records.find_releases(TRIALS, store):
        records.put_ledger(lines, users)
    assert [line["trials"] for line in records.ledger.values()] == [[large.id]]
    target, _ = coordinator(tmp_path, monkeypatch, epsilon=2.05)
    assert [isinstance(answer, str) for answer in ask(target, [small, large])] == [True, False]


def contend(folder, trial, together, telling):
    """A command of this study that releases one trial, as soon as no other command holds the folder."""
    study, refused = {"study": "s", "axes": {}, "identity": {}}, 0
    together.wait()
    while True:
        try:
            with (
                claimed(folder, study, str(folder / "store"), TRIALS, [each.id for each in TRIALS]),
                pytest.MonkeyPatch.context() as patch,
            ):
                target, _ = coordinator(folder, patch, epsilon=2.05)
                (answer,) = ask(target, [trial])
                time.sleep(1)
                telling.send((refused, answer if isinstance(answer, str) else "released"))
                return
        except UserError as error:
            if "is in use by " not in str(error):
                raise
            refused += 1
            time.sleep(0.02)


@pytest.mark.slow
def test_of_two_commands_at_once_the_second_sees_what_the_first_released(tmp_path):
    small, _, large = TRIALS
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    pipes = [spawn.Pipe(duplex=False) for _ in range(2)]
    for (_, telling), trial in zip(pipes, (small, large), strict=True):
        spawn.Process(target=contend, args=(tmp_path, trial, together, telling)).start()
        telling.close()
    told = [listening.recv() for listening, _ in pipes]
    answers = sorted(answer for _, answer in told)
    assert answers[0].startswith("release ")
    assert "over budget.epsilon=2.05" in answers[0]
    assert answers[1] == "released"
    assert sum(refused for refused, _ in told) > 0
    assert len(ledger.read(tmp_path / "ledger.jsonl")) == 1


def test_while_the_ledger_cannot_be_written_nothing_more_is_released(tmp_path, monkeypatch):
    small, middle, _ = TRIALS
    folder = tmp_path / "results"
    target, fake = coordinator(folder, monkeypatch)
    (folder / "ledger.jsonl" / "in the way").mkdir(parents=True)
    ask(target, [small])
    with pytest.raises(UserError, match=r"results/ledger\.jsonl cannot be written \(Is a directory\): make room"):
        ask(target, [middle])
    assert len(fake.started) == 1
    shutil.rmtree(folder / "ledger.jsonl")
    assert not isinstance(ask(target, [middle])[0], str)
    assert len(ledger.read(folder / "ledger.jsonl")) == 2
    assert asyncio.run(target.close()) == ([], None)


def test_files_that_cannot_be_written_fail_their_trial_and_no_row_is_lost(tmp_path, monkeypatch):
    target, _ = coordinator(tmp_path, monkeypatch)
    row = {"trial": "a" * 300, "status": "done", "reason": None}
    asyncio.run(target.finish(row, {f"samples/{'a' * 300}.npz": b""}))
    (found,) = read_jsonl(tmp_path / "trials.jsonl")
    assert found["status"] == "failed"
    assert "cannot be written (File name too long)" in found["reason"]


def test_a_failed_fit_gives_its_budget_back(tmp_path, monkeypatch):
    small, middle, _ = TRIALS
    target, _ = coordinator(tmp_path, monkeypatch, lost, epsilon=1.5)
    assert not isinstance(ask(target, [small])[0], str)
    monkeypatch.setattr(module, "run_stage", FakeStage(released))
    assert not isinstance(ask(target, [middle])[0], str)
    assert isinstance(ask(target, [small])[0], str)


def test_gpu_hours_count_what_runs_and_what_ran_and_spare_what_is_in_the_store(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])

    async def hour(name, trial):
        clock[0] += 3600
        return {"key": "k", "made": True, "seconds": 3600.0, "memory": {}, "ledger": [], "warnings": []}

    target, _ = coordinator(tmp_path, monkeypatch, hour, gpus=0.5, gpu_hours=0.4)
    assert not isinstance(ask(target, TRIALS[:1])[0], str)
    assert "used 0.5 GPU hours" in ask(target, TRIALS[1:2])[0]
    assert json.loads((tmp_path / "gpu_seconds.json").read_text()) == 1800
    target, _ = coordinator(tmp_path, monkeypatch, hour, gpus=0.5, gpu_hours=0.4)
    assert isinstance(ask(target, TRIALS[1:2])[0], str)
    target.running["other"] = ("pretrain", clock[0] - 7200)
    assert "used 1.5 GPU hours" in ask(target, TRIALS[1:2])[0]
    monkeypatch.setattr(module.Store, "has", lambda *_: True)
    assert not isinstance(ask(target, TRIALS[1:2])[0], str)


def test_without_a_gpu_there_are_no_hours(tmp_path, monkeypatch):
    target, _ = coordinator(tmp_path, monkeypatch, gpu_hours=0)
    assert not any(isinstance(answer, str) for answer in ask(target, TRIALS))
    assert not (tmp_path / "gpu_seconds.json").exists()


@pytest.mark.parametrize(
    ("generator", "epsilon", "spent"),
    [("public", 1.0, None), ("real", 1.0, math.inf), ("spectral_ar", math.inf, math.inf)],
)
def test_release_of_each_kind_of_trial(generator, epsilon, spent):
    trial = from_dict(TrialConfig, BASE)
    trial = dataclasses.replace(
        trial,
        generator=dataclasses.replace(trial.generator, name=generator),
        privacy=dataclasses.replace(trial.privacy, epsilon=epsilon),
    )
    release = release_of(trial)
    assert (release and compose(release.mechanisms, release.delta)) == spent
    if release:
        assert release.dataset == data.load(trial.data, "train").fingerprint
        assert release.delta == accounting.delta(trial.privacy, 256)
