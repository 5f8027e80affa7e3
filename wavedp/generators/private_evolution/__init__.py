"""`private_evolution`: a population of public images that noisy votes of the sensitive ones select and vary.

Source: Lin et al. 2023, arXiv 2305.15560 (Private Evolution, PE). No network is trained on sensitive images: each of T
times, every record votes for the nearest member of the population of its class (votes.py), and the next population is
drawn from the winners and varied by a public API (api.py), here a public image set. The threshold is in noise
deviations, so that one setting serves every ε.

Where this is not the paper's Algorithm 1: the first copy of a member that is drawn stays as it is, and only further
ones are varied, so that a winner is not lost to its own variation; and variations may be blends (api.py).

Defaults. The threshold is near what the authors and DPImageBench use, 1.4 to 1.8 noise deviations. The others were
chosen on public images alone: procedural pictures and emoji voted for clip art. No sensitive set was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from wavedp import data, methods
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import SEED, privacy, result
from wavedp.generators import GeneratorMethod
from wavedp.methods import Needs
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

if TYPE_CHECKING:
    from wavedp.generators.private_evolution.model import PrivateEvolutionModel
    from wavedp.methods import Inputs

PURPOSE, KIND = "votes", "noisy_vote"

n_records = cache(data.n_records)  # a study of hundreds of trials asks the same again and again


@dataclass(frozen=True)
class PrivateEvolutionConfig:
    """The public API, the population, and the votes."""

    name: str = result("private_evolution")
    pool: int = result(20_000, within="[1, inf)")  # public images that the API has, at most
    population: int = result(200, within="[1, inf)")  # members of each class
    public_seed: int = result(0, within=SEED)  # of the pool and the first population
    # keep: the first population of a class is of the public images of its name (public=chosen), not of all.
    public_classes: Literal["forget", "keep"] = result("forget")
    iterations: int = privacy(8, within="[1, inf)", stage="private_fit")  # T, votes
    threshold: float = result(1.5, within="[0, inf)", stage="private_fit")  # in noise deviations, off every count
    # Variations by whose mean embedding a member is found; 0: by its own.
    lookahead: int = result(4, within="[0, inf)", stage="private_fit")
    # Degree of variation: share of the pool that counts as near, falling geometrically from the first vote to the last.
    first_degree: float = result(0.2, within="(0, 1]", stage="private_fit")
    last_degree: float = result(0.01, within="(0, 1]", stage="private_fit")
    blend: float = result(0.75, within="(0, 1]", stage="private_fit")  # of the public image in a variation; 1: all
    embedding: Literal["pixels", "effnetlite0"] = result("pixels", stage="private_fit")  # what distances are between
    # Of samples beyond the population, which are variations of its members at no ε.
    sample_degree: float = result(0.01, within="(0, 1]", stage="coarse_samples")
    sample_blend: float = result(0.75, within="(0, 1]", stage="coarse_samples")


class PrivateEvolution(GeneratorMethod):
    """See the module's docstring."""

    name, Config = "private_evolution", PrivateEvolutionConfig

    def needs(self, trial: TrialConfig) -> Needs:
        """Public images, and δ where there is a private fit. Nothing of DP-SGD's: there are no gradients."""
        fields = frozenset({"privacy.delta"} if self.fit_kind(trial) in ("dp", "nonprivate") else ())
        return Needs(fields=fields, data=((trial.public, "train"),) if trial.public is not None else ())

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """T Gaussian releases of the votes of all records, each with the same noise."""
        steps, delta = trial.generator.iterations, accounting.delta(trial.privacy, n_records)
        sigma = accounting.calibrate(trial.privacy.epsilon, delta, 1, steps)
        return {PURPOSE: Mechanism(1, sigma, steps, KIND)}

    def check(self, trial: TrialConfig) -> list[str]:
        """Public images, and degrees that fall. Warns of a population so large that most votes are noise."""
        config = trial.generator
        if trial.public is None:
            raise UserError(
                "generator.name=private_evolution selects among public images and public=null has none: set public, "
                "such as public=openclipart."
            )
        if config.last_degree > config.first_degree:
            raise UserError(
                f"generator.last_degree={config.last_degree:g} is above first_degree={config.first_degree:g}, and "
                "variations must become smaller from vote to vote: use last_degree <= first_degree."
            )
        if config.public_classes == "keep":
            _check_named(trial)
        n_records(trial.public, "train")
        return _warn_of_noise(trial) if self.fit_kind(trial) == "dp" else []

    def check_models(self, trial: TrialConfig) -> None:
        """The network of the embedding, if it is one."""
        if trial.generator.embedding != "pixels":
            from wavedp.generators.private_evolution.embedding import embedding

            embedding(trial.generator.embedding, "cpu")

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> PrivateEvolutionModel:
        """The model for coarse images of the trial."""
        from wavedp.generators.private_evolution.model import PrivateEvolutionModel

        return PrivateEvolutionModel(trial.generator, data.n_classes(trial.data), device)


def _check_named(trial: TrialConfig) -> None:
    """The first public classes are the private ones, by name and in order."""
    public = methods.public_of(trial)
    assert public is not None  # `check` has refused that
    wanted = data.class_names(trial.data)
    found = data.class_names(public)[: len(wanted)]
    if found != wanted:
        raise UserError(
            f"generator.public_classes=keep needs public classes that begin with those of {trial.data.name} "
            f"({', '.join(wanted[:3])}, …), and {public.name} begins with {', '.join(found[:3])}: use public=chosen, "
            "or public_classes=forget."
        )


def _warn_of_noise(trial: TrialConfig) -> list[str]:
    """A sentence if a member of an average class's population gets fewer votes than their noise deviates."""
    config, count = trial.generator, n_records(trial.data, "train")
    (planned,) = methods.generator(trial).mechanisms(trial, count).values()
    mean = count / (data.n_classes(trial.data) * config.population)
    if mean >= planned.noise_multiplier:
        return []
    return [
        f"generator.population={config.population} gives a member {mean:.3g} votes on average, whose noise has a "
        f"deviation of {planned.noise_multiplier:.3g}: most of what is selected is noise; lower population, or raise "
        "privacy.epsilon."
    ]
