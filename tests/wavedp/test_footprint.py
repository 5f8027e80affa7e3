"""What trainings hold, by the device `meta`: held against real tensors, by hand, and as a user sees it."""

import dataclasses

import pytest
import torch

from wavedp import footprint, methods
from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, configure
from wavedp.fields import fitting

IMAGES = DataConfig(name="procedural", size=16, channels=3, n_records=64)
TOKENS = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "codes": 8, "detail_codes": 16}
TRIAL = TrialConfig(
    data=IMAGES,
    public=dataclasses.replace(IMAGES, split="public"),
    tokenizer=configure("tokenizer", "spectral", **TOKENS, train_batch=8),
    generator=configure("generator", "spectral_ar", width=64, depth=2, heads=2, pretrain_batch=8, pretrain_level=0),
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, microbatch_size=8, steps=5),
    level=1,
)


def of(stage, trial=TRIAL):
    (found,) = [step for step in footprint.steps(trial) if step.stage == stage]
    return found


def test_work_is_measured_by_hand():
    with torch.device("meta"):
        a, b = torch.zeros(10, 20), torch.zeros(20, 30)

        def work():
            product = a @ b  # 10 × 30
            del product
            (a.t().contiguous() @ a).view(-1)  # 20 × 10, a copy, and 20 × 20; a view is no more memory

        most, operations = footprint.watched(work, [a, b])
    assert most == 4 * (10 * 20 + 20 * 30 + 20 * 10 + 20 * 20)
    assert operations == 2 * (10 * 20 * 30 + 20 * 10 * 20)


@pytest.mark.parametrize("stage", ["tokenizer", "pretrain", "private_fit"])
def test_a_pass_without_numbers_holds_and_computes_what_a_real_one_does(stage):
    """Up to ids that recur, as those of made-up records do: their embeddings count in full without numbers."""
    method = methods.tokenizer(TRIAL) if stage == "tokenizer" else methods.generator(TRIAL)
    (real,) = [each for each in method.rehearsals(methods.canonical(TRIAL)) if each.stage == stage]
    ran, told = footprint.step_of(real), of(stage)
    assert (ran.weights, ran.records, ran.at_once) == (told.weights, told.records, told.at_once)
    assert 0.8 < ran.memory / told.memory <= 1.05
    assert 0.8 < ran.operations / told.operations <= 1.05


def test_half_the_records_at_once_hold_less_and_compute_the_same():
    whole = of("tokenizer")
    few = of(
        "tokenizer", dataclasses.replace(TRIAL, tokenizer=dataclasses.replace(TRIAL.tokenizer, train_microbatch=4))
    )
    assert (whole.at_once, few.at_once) == (8, 4)
    assert few.memory < 0.8 * whole.memory
    assert few.operations == pytest.approx(whole.operations)
    pretrained = dataclasses.replace(TRIAL.generator, pretrain_microbatch=2)
    assert of("pretrain", dataclasses.replace(TRIAL, generator=pretrained)).memory < of("pretrain").memory


def test_the_private_fit_has_the_weights_of_its_level_only():
    assert of("private_fit").weights < of("pretrain").weights
    lora = dataclasses.replace(TRIAL, privacy=dataclasses.replace(TRIAL.privacy, trained="lora", lora_rank=2))
    assert of("private_fit", lora).weights < 0.5 * of("private_fit").weights
    free = dataclasses.replace(TRIAL, privacy=dataclasses.replace(TRIAL.privacy, epsilon=float("inf")))
    assert of("private_fit", free).memory < of("private_fit").memory  # no record has a gradient of its own


def test_trials_that_differ_in_epsilon_or_seed_are_rehearsed_once():
    other = dataclasses.replace(TRIAL, seed=3, privacy=dataclasses.replace(TRIAL.privacy, epsilon=1.0))
    free = dataclasses.replace(TRIAL, privacy=dataclasses.replace(TRIAL.privacy, epsilon=float("inf")))
    assert len(footprint.unlike([TRIAL, other])) == 1
    assert len(footprint.unlike([TRIAL, other, free])) == 2


def test_methods_that_rehearse_nothing_are_left_out():
    values = fitting("generator", {"name": "blur_diffusion"})
    other = dataclasses.replace(TRIAL, generator=configure("generator", values.pop("name"), **values))
    assert list(footprint.steps(other)) == []
