"""Diverged models: refused where they would be used, whoever's they are, and a release is a release all the same."""

import dataclasses
import math

import pytest
import torch
from class_means_generator import ClassMeans
from test_reads import trial

from wavedp import chain, resume, stages
from wavedp.errors import UserError
from wavedp.fields import result
from wavedp.finite import require_finite
from wavedp.metrics import check as check_metrics
from wavedp.metrics import suite
from wavedp.model_checks import check_models
from wavedp.store import Store
from wavedp.upscalers.classical import Bicubic, ClassicalConfig
from wavedp.upscalers.classical.model import Classical
from wavedp.upscalers.trained import Trained, TrainingConfig

HERE = __name__


def test_the_sentence_counts_what_is_not_finite():
    weights = {"index": torch.arange(3), "scale": torch.tensor([1.0, math.nan, -math.inf, 0.0])}
    with pytest.raises(UserError) as refusal:
        require_finite(weights, "weights", "lower it")
    assert str(refusal.value) == "weights are not finite (2 of 4 numbers of scale): lower it."
    require_finite({"index": torch.arange(3), "scale": torch.tensor([1e38])}, "weights", "lower it")
    require_finite({}, "weights", "lower it")


def test_a_training_that_diverged_stops_and_leaves_no_checkpoint(tmp_path):
    model, seen = torch.nn.Linear(2, 2), []

    def train():
        for step in resume.steps(1000, lambda done, total: None, tmp_path / "training.pt", model=model):
            seen.append(step)
            if step == 120:
                model.bias.data[0] = math.nan

    with pytest.raises(UserError, match=r"after step 200 of a public training, its weights .*1 of 2 numbers of bias"):
        train()
    assert seen[-1] == 199
    assert not (tmp_path / "training.pt").exists()


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("tokenizer", {"tokenizer": {"name": "spectral", "train_learning_rate": 1e30}}),
        ("pretrain", {"generator": {"name": "spectral_ar", "pretrain_learning_rate": 1e30}}),
        ("pretrain", {"generator": {"name": "blur_diffusion", "pretrain_learning_rate": 1e30}}),
        ("upscaler", {"upscaler": {"name": "wavelet_detail", "train_learning_rate": 1e30}}),
        ("upscaler", {"upscaler": {"name": "blur_diffusion", "train_learning_rate": 1e30}}),
    ],
)
def test_public_training_that_diverges_is_refused_and_not_kept(stage, changes, tmp_path):
    store, asked = Store(str(tmp_path)), trial(**changes)
    with pytest.raises(UserError, match=r"of a public training, its weights are not finite .* lower its learning rate"):
        stages.make(stage, asked, store, "cpu")
    assert not store.has(stage, chain.keys(asked)[stage])


class Spoiling:
    """A model, of whose answers a number is spoiled."""

    def __init__(self, model, spoil, name=""):
        self.model, self.spoil, self.name = model, spoil, name

    def bridge(self, factor):
        return None

    def fit_private(self, *given):
        done = self.model.fit_private(*given)
        if "fit" in self.spoil:
            done.weights["means"].view(-1)[3] = self.spoil["fit"]
        return done

    def sample(self, *given):
        return self._spoiled("sample", self.model.sample(*given))

    def upscale(self, *given):
        return self._spoiled("upscale", self.model.upscale(*given))

    def _spoiled(self, what, images):
        if what in self.spoil:
            images.view(-1)[5] = self.spoil[what]
        return images


class NaNFit(ClassMeans):
    name, spoil = "nan_fit", {"fit": math.nan}

    def build(self, trial, inputs, device):
        return Spoiling(super().build(trial, inputs, device), self.spoil)


class NaNSamples(NaNFit):
    name, spoil = "nan_samples", {"sample": math.nan}


class InfiniteSamples(NaNFit):
    name, spoil = "infinite_samples", {"sample": math.inf}


class NaNPixels(Bicubic):
    name, Config, value = "nan_pixels", ClassicalConfig, math.nan

    def load(self, config, device):
        return Spoiling(Classical("bicubic"), {"upscale": self.value}, self.name)


class InfinitePixels(NaNPixels):
    name, value = "infinite_pixels", -math.inf


@dataclasses.dataclass(frozen=True)
class NaNTrainingConfig(TrainingConfig):
    name: str = result("nan_training")


class NaNTraining(Trained):
    name, Config = "nan_training", NaNTrainingConfig

    def train(self, trial, images, device, report, checkpoint):
        return {"contrast": torch.tensor([math.nan])}, {}


def outside(**methods):
    values = {"generator": {"name": "class_means_generator:ClassMeans"}, "privacy": {"batch_size": 128, "steps": 320}}
    return trial(**{**values, **{kind: {"name": f"{HERE}:{name}"} for kind, name in methods.items()}})


def test_a_private_fit_that_diverged_is_a_release_and_no_model(tmp_path):
    store, asked = Store(str(tmp_path)), outside(generator="NaNFit")
    with pytest.raises(UserError, match=r"NaNFit after its private fit are not finite .* stays in the ledger"):
        stages.make("upscale", asked, store, "cpu")
    (line,) = store.open("private_fit", chain.keys(asked)["private_fit"]).json("ledger")
    assert line["epsilon"] == pytest.approx(asked.privacy.epsilon, rel=0.01)
    assert not store.has("coarse_samples", chain.keys(asked)["coarse_samples"])


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"generator": "NaNSamples"}, r"samples of generator=test_finite:NaNSamples are not finite \(1 of 384 numbers"),
        ({"generator": "InfiniteSamples"}, "samples of generator=test_finite:InfiniteSamples are not finite"),
        ({"upscaler": "NaNPixels"}, r"images of upscaler=nan_pixels are not finite \(1 of 1536 numbers"),
        ({"upscaler": "InfinitePixels"}, "images of upscaler=infinite_pixels are not finite"),
        (
            {"upscaler": "NaNTraining"},
            "weights of upscaler=test_finite:NaNTraining after its public training are not finite",
        ),
    ],
)
def test_what_an_outside_method_makes_is_looked_at_by_the_stage(methods, words, tmp_path):
    with pytest.raises(UserError, match=words):
        stages.make("upscale", outside(**methods), Store(str(tmp_path)), "cpu")


def test_an_upscaler_with_damaged_weights_is_refused_before_any_work():
    with pytest.raises(UserError, match=r"images of upscaler=.* are not finite"):
        check_models(outside(upscaler="NaNPixels"))


def test_weights_of_an_older_store_are_looked_at(tmp_path):
    store, asked = Store(str(tmp_path)), trial(upscaler="wavelet_detail")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_require_trained", lambda weights, whose: weights.update(
            {name: x * math.nan for name, x in weights.items()}))  # fmt: skip
        stages.make("upscaler", asked, store, "cpu")
    with pytest.raises(UserError, match="weights that the stage upscaler left in the store are not finite"):
        stages.make("upscale", asked, store, "cpu")


@pytest.mark.parametrize("temperature", [5e-324, 1e-310])
def test_a_distribution_that_is_none_is_not_drawn_from(temperature, tmp_path):
    with pytest.raises(UserError, match=f"are not finite: the model diverged, or temperature={temperature} is too low"):
        stages.make("coarse_samples", trial(sampling={"temperature": temperature}), Store(str(tmp_path)), "cpu")


def samples(rows):
    """uint8 images of these values, 2×2 pixels."""
    return torch.tensor(rows, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)


@pytest.mark.parametrize(
    ("rows", "n_classes", "sentence"),
    [
        ([7] * 5, 1, "5 samples of 1 class hold 1 distinct image, "),
        ([7] * 5, 10, "5 samples of 10 classes hold 1 distinct image, "),
        ([1, 2, 1, 2], 2, "4 samples of 2 classes hold 2 distinct images, "),
        ([1, 2, 1, 3], 2, None),
        ([1, 2, 3, 1], 3, None),
        ([7, 8], 1, None),
        ([7], 1, None),
    ],
)
def test_samples_without_variety_are_not_measured(rows, n_classes, sentence):
    labels = torch.arange(max(len(rows), n_classes)) % n_classes
    if sentence is None:
        suite.require_variety(samples(rows), labels)
        return
    with pytest.raises(UserError, match=sentence):
        suite.require_variety(samples(rows), labels)


def test_a_collapsed_trial_gets_no_metric(tmp_path):
    store = Store(str(tmp_path))
    asked = trial(sampling={"temperature": 1e-12, "n": 24}, metrics={"kid": False, "floor": False})
    with pytest.raises(UserError, match=r"24 samples of 10 classes hold \d distinct image"):
        stages.make("evaluate", asked, store, "cpu")
    assert store.has("upscale", chain.keys(asked)["upscale"])
    assert not store.has("evaluate", chain.keys(asked)["evaluate"])


def test_one_class_has_no_accuracy():
    """It would be right every time."""
    metrics = dataclasses.replace(trial().metrics, downstream_steps=5)
    for n_classes, labelled, words in ((1, True, "would tell one class apart"), (None, False, "class labels, which")):
        given = suite.Given(metrics, lambda split: 50, 20, labelled=labelled, n_classes=n_classes)
        with pytest.raises(UserError, match=words):
            check_metrics(given)
    check_metrics(suite.Given(metrics, lambda split: 50, 20, n_classes=2))
