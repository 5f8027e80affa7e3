"""Public trainings that are stopped go on from their checkpoint and end bit-equal to a whole run."""

from __future__ import annotations

import pytest
import torch
from test_stages import trial

from wavedp import chain, resume, stages
from wavedp.progress import OutOfTime, silent
from wavedp.store import Store
from wavedp.tokenizers import training

STEPS, STOPPED = 12, 7
TOKENS = {"name": "spectral", "codes": 16, "detail_codes": 16, "train_steps": STEPS, "adversarial": 0.1}
PRETRAIN = {"pretrain_steps": STEPS, "condition_dropout": 0.2}
UPSCALER = {"train_steps": STEPS, "train_batch": 4, "detail_width": 8, "detail_depth": 1, "detail_adversarial": 0.5}
CRITIC = {
    "name": "wavelet_detail", "detail_halvings": 1, "detail_noise": 2, "detail_pixels": "energy",
    "detail_critic": "relativistic", "detail_critic_width": 4,
}  # fmt: skip
TRAININGS = {
    "tokenizer": ("tokenizer", trial(tokenizer=TOKENS)),
    "transformer": ("pretrain", trial(generator=PRETRAIN)),
    "diffusion": ("pretrain", trial(generator=PRETRAIN | {"name": "blur_diffusion"}, diffusion={"channels": 16})),
    "detail": ("upscaler", trial(upscaler=UPSCALER | {"name": "wavelet_detail"})),
    "sampled": ("upscaler", trial(upscaler=UPSCALER | {"name": "wavelet_detail", "detail": "sampled"})),
    "denoised": (
        "upscaler",
        trial(upscaler=UPSCALER | {"name": "wavelet_detail", "detail": "diffusion", "detail_halvings": 1}),
    ),
    "critic": ("upscaler", trial(upscaler=UPSCALER | CRITIC)),
    "deblurring": ("upscaler", trial(upscaler=UPSCALER | {"name": "blur_diffusion"}, diffusion={"channels": 16})),
}


class PlugPulledError(Exception):
    pass


def stop_at(wanted):
    def report(done, total):
        if total == STEPS and done == wanted:
            raise PlugPulledError

    return report


@pytest.fixture(autouse=True)
def after_every_step(monkeypatch):
    monkeypatch.setattr(resume, "EVERY", 0.0)
    monkeypatch.setattr(training, "RESTART_EVERY", 3)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_stopped_training_ends_where_a_whole_one_does(name, tmp_path):
    stage, config = TRAININGS[name]
    whole, _ = stages.make(stage, config, Store(str(tmp_path / "whole")), "cpu")
    store = Store(str(tmp_path / "broken"))
    with pytest.raises(PlugPulledError):
        stages.make(stage, config, store, "cpu", stop_at(STOPPED))
    torch.rand(5)  # what another process has drawn meanwhile
    told = []
    resumed, made = stages.make(stage, config, store, "cpu", lambda *progress: told.append(progress))
    assert made
    assert [done for done, total in told if total == STEPS] == list(range(STOPPED + 1, STEPS + 1))
    assert resumed.files == whole.files  # weights and reports, byte for byte
    key = chain.keys(config)[stage]
    assert not list(store.work_folder(stage, key).glob("*.pt"))  # the artifact is there: the checkpoint has served


@pytest.mark.parametrize("stopped", [1, STOPPED, STEPS])
def test_a_report_that_raises_leaves_a_checkpoint(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "EVERY", 1e9)  # none is due by the clock
    path = tmp_path / "training.pt"

    def train(report, checkpoint=path):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in resume.steps(STEPS, report, checkpoint, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            model(torch.randn(2, 3)).sum().backward()
            optimizer.step()
        return model

    def stop(done, total):
        if done == stopped:
            raise OutOfTime

    whole, told = train(silent, None), []
    for checkpoint in (None, path):
        with pytest.raises(OutOfTime):
            train(stop, checkpoint)
    resumed = train(lambda *progress: told.append(progress))
    assert told == [(done, STEPS) for done in range(stopped + 1, STEPS + 1)]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_torn_checkpoint_is_a_warning_and_the_first_step(tmp_path):
    stage, config = TRAININGS["detail"]
    whole, _ = stages.make(stage, config, Store(str(tmp_path / "whole")), "cpu")
    store = Store(str(tmp_path / "torn"))
    with pytest.raises(PlugPulledError):
        stages.make(stage, config, store, "cpu", stop_at(STOPPED))
    (checkpoint,) = store.work_folder(stage, chain.keys(config)[stage]).glob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="cannot be read .* starting again from step 0"):
        again, _ = stages.make(stage, config, store, "cpu")
    assert again.files == whole.files


def test_without_a_file_nothing_is_kept_and_every_step_is_taken(tmp_path):
    model = torch.nn.Linear(1, 1)
    assert list(resume.steps(3, silent, None, model=model)) == [0, 1, 2]
    path = tmp_path / "training.pt"
    assert list(resume.steps(3, silent, path, model=model)) == [0, 1, 2]
    assert list(resume.steps(3, silent, path, model=model)) == []  # done, and saved
    assert list(resume.steps(5, silent, path, model=model)) == [3, 4]
    with pytest.warns(UserWarning, match="it holds model, of other code"):
        assert list(resume.steps(5, silent, path, model=model, second=model)) == [0, 1, 2, 3, 4]
