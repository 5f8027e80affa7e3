"""Generators with one fault each, which wavedp.testing.generators must notice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from class_means_generator import ClassMeans, ClassMeansConfig, ClassMeansModel

from wavedp.fields import performance, result
from wavedp.generators import PrivateFit
from wavedp.generators.spectral_ar import SpectralAR, SpectralARConfig
from wavedp.methods import Needs
from wavedp.privacy.accounting import Mechanism


class Broken(ClassMeans):
    """A subclass says with which model."""

    model = ClassMeansModel

    def build(self, trial, inputs, device):
        made = super().build(trial, inputs, device)
        return self.model(made.config, made.n_classes)


class Unplanned(Broken):
    """Runs, and honestly reports, a step without noise that the plan does not have."""

    name = "unplanned"

    class model(ClassMeansModel):
        def fit_private(self, weights, images, conditions, fit, report):
            done = super().fit_private(weights, images, conditions, fit, report)
            return replace(
                done,
                mechanisms={**done.mechanisms, "peek": Mechanism(1, 0.0, 1)},
                releases={**done.releases, "peek": "an id"},
            )


class Louder(Broken):
    """Runs the planned purpose more often than planned."""

    name = "louder"

    class model(ClassMeansModel):
        def fit_private(self, weights, images, conditions, fit, report):
            planned = fit.mechanisms["class_means"]
            done = super().fit_private(weights, images, conditions, fit, report)
            return replace(done, mechanisms={"class_means": replace(planned, steps=planned.steps + 1)})


class Exact(Broken):
    """Reports the planned noise and draws none."""

    name = "exact"

    class model(ClassMeansModel):
        def fit_private(self, weights, images, conditions, fit, report):
            silent_noise = {"class_means": replace(fit.mechanisms["class_means"], noise_multiplier=0.0)}
            done = super().fit_private(weights, images, conditions, replace(fit, mechanisms=silent_noise), report)
            return PrivateFit(done.weights, fit.mechanisms, done.releases)


class Overspent(Broken):
    """Plans twice what the budget buys."""

    name = "overspent"

    def mechanisms(self, trial, n_records):
        (one,) = super().mechanisms(trial, n_records).values()
        return {"class_means": one, "again": one}


class BatchDraws(Broken):
    """Draws noise batch by batch, from one seed."""

    name = "batch_draws"

    class model(ClassMeansModel):
        def sample(self, weights, conditions, sampling, seed, report):
            import torch

            parts = conditions.split(sampling.batch_size)
            return torch.cat([super(type(self), self).sample(weights, part, sampling, seed, report) for part in parts])


class Forgetful(Broken):
    """A release id that every fit has anew."""

    name = "forgetful"

    class model(ClassMeansModel):
        def fit_private(self, weights, images, conditions, fit, report):
            import uuid

            done = super().fit_private(weights, images, conditions, fit, report)
            return replace(done, releases={"class_means": uuid.uuid4().hex})


class Curious(Broken):
    """Loads records that it was not given."""

    name = "curious"

    class model(ClassMeansModel):
        def fit_private(self, weights, images, conditions, fit, report):
            from wavedp import data
            from wavedp.config import DataConfig

            data.load(DataConfig(name="procedural"), "test")
            return super().fit_private(weights, images, conditions, fit, report)


@dataclass(frozen=True)
class UnclassedConfig(ClassMeansConfig):
    """One field is in no class."""

    forgotten: int = field(default=1)


class Unclassed(Broken):
    """See UnclassedConfig."""

    name, Config = "unclassed", UnclassedConfig


@dataclass(frozen=True)
class KeylessConfig(ClassMeansConfig):
    """A field that is left out of content()."""

    power: float = result(1.0, within="(0, inf)")
    threads: int = performance(1, within="[1, inf)")


class Keyless(Broken):
    """See KeylessConfig."""

    name, Config = "keyless", KeylessConfig

    def build(self, trial, inputs, device):
        assert trial.generator.power
        return super().build(trial, inputs, device)

    def content(self, config):
        return {name: value for name, value in super().content(config).items() if name != "power"}


class Confused(Broken):
    """Needs a field that no trial has."""

    name = "confused"

    def needs(self, trial):
        return Needs(fields=frozenset({"privacy.delta", "privacy.sigma"}))


class Sneaky(Broken):
    """Reads a shared field that it does not name."""

    name = "sneaky"

    def build(self, trial, inputs, device):
        assert trial.sampling.temperature
        return super().build(trial, inputs, device)


class Idle(Broken):
    """Names a shared field that it does not read."""

    name = "idle"

    def needs(self, trial):
        return Needs(fields=frozenset({"privacy.delta", "privacy.batch_size"}))


class Heavy(Broken):
    """Its plan imports torch."""

    name = "heavy"

    def needs(self, trial):
        import torch

        assert torch
        return super().needs(trial)


@dataclass(frozen=True)
class PeekingConfig(SpectralARConfig):
    """As spectral_ar's."""

    name: str = result("peeking")


class Peeking(SpectralAR):
    """Takes steps on the sensitive images without noise before the fit that it planned, and does not report them."""

    name, Config = "peeking", PeekingConfig

    def build(self, trial, inputs, device):
        import torch

        from wavedp.generators.spectral_ar.model import SpectralARModel
        from wavedp.generators.token_model import token_losses

        class Model(SpectralARModel):
            def fit_private(self, weights, images, conditions, fit, report):
                model = self._model(self.tokenizer, self.n_classes, self.start(weights))
                optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
                for _ in range(3):
                    optimizer.zero_grad()
                    token_losses(model, self.tokenizer.encode(images), conditions).mean().backward()
                    optimizer.step()
                peeked = {name: value.detach() for name, value in model.state_dict().items()}
                return super().fit_private(peeked, images, conditions, fit, report)

        made = super().build(trial, inputs, device)
        return Model(made.config, made.tokenizer, made.public, made.n_classes, made.device)
