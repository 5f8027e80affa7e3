"""`private_evolution`: the population, from public images to the members that T noisy votes have left.

    B records   K classes   N members of a class   C h w a coarse image   D width of an embedding   T votes

Weights: `pool` M C h w uint8, what the API varies with, and `population` K N C h w float32 in [0, 1]. Those of public
training hold the first population, drawn from all public images, which is also the model at ε = 0.

Samples. The first N of a class are its members in random order; more are variations of them, as the paper makes an
unlimited number of samples (Section 4): post-processing, at no ε.

An interrupted fit goes on from its checkpoint (checkpoint.py) after the last vote, or the last records embedded. The
noise of vote t comes from a generator of its own, seeded by (seed, release, t), so no state of it has to be kept, and a
fit that begins again makes the same release.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wavedp.config import SamplingConfig
from wavedp.errors import UserError
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.private_evolution import PURPOSE, PrivateEvolutionConfig, api, votes
from wavedp.generators.private_evolution.checkpoint import Progress
from wavedp.generators.private_evolution.embedding import Embed, embedding
from wavedp.methods import Weights
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.checkpoint import digest
from wavedp.privacy.training import release_id
from wavedp.progress import Report
from wavedp.seeds import derive_seed

EMBEDDED_AT_ONCE = 4096
"""Records between two checkpoints."""


class PrivateEvolutionModel:
    """See wavedp.generators for the protocol, and the module for the weights. Public training is a draw."""

    def __init__(self, config: PrivateEvolutionConfig, n_classes: int, device: str) -> None:
        self.config, self.n_classes, self.device = config, n_classes, device

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """The pool and the first population of every class, from public coarse images B C h w and their labels B.

        With public_classes=keep a class begins with public images of its own label, with forget with any. Raises
        UserError for a class that has none.
        """
        config, generator = self.config, torch.Generator().manual_seed(derive_seed(seed, "pretrain"))
        every = torch.arange(len(images))
        population = []
        for k in range(self.n_classes):
            rows = every if config.public_classes == "forget" else (conditions == k).nonzero().squeeze(1)
            if not len(rows):
                raise UserError(
                    f"generator.public_classes=keep finds no public image of class {k}: use public=chosen, or "
                    "public_classes=forget."
                )
            population.append(images[api.draw(rows, config.population, generator)])
        pool = images[api.pool_of(images, config.pool, generator)]
        return {"pool": (pool * 255).round().to(torch.uint8), "population": torch.stack(population).float()}

    def start(self, weights: Weights) -> Weights:
        """The first population."""
        return {name: value.clone() for name, value in weights.items()}

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """T votes of the coarse images B C h w in [0, 1] with labels B; see `votes` for the guarantee.

        report: called after some records are embedded, and after each vote. Raises UserError, before anything is
        released, for a plan that is not these votes within the budget, and as `votes.exact` does.
        """
        planned, config = fit.mechanisms[PURPOSE], self.config
        _require_covered(planned, config, fit, images, conditions)
        release = self._release(planned, fit, weights, images, conditions)
        progress = Progress.load(fit.checkpoint, release)
        embed = embedding(config.embedding, self.device)
        rounds = 0 if config.embedding == "pixels" else -(-len(images) // EMBEDDED_AT_ONCE)
        parts = [progress.records] if progress.records is not None else []
        for done in range(progress.rounds, rounds):
            parts.append(embed(images[done * EMBEDDED_AT_ONCE : (done + 1) * EMBEDDED_AT_ONCE]))
            progress.records, progress.rounds = torch.cat(parts), done + 1
            progress.save(fit.checkpoint, release)
            report(done + 1, rounds + config.iterations)
        records = embed(images) if not rounds else progress.records
        assert records is not None  # either way
        pool = weights["pool"]
        population = weights["population"] if progress.population is None else progress.population
        for step in range(progress.votes, config.iterations):
            chance = torch.Generator().manual_seed(derive_seed(fit.seed, "variations", step))
            near = api.neighbours(population.flatten(0, 1), pool, self.degree(step), self.device)
            shown = self._shown(population, near, pool, embed, chance)
            counts = votes.exact(records, conditions, shown, self.device)
            noise = torch.Generator().manual_seed(derive_seed(fit.seed, "noise", release, step))
            released = votes.noisy(counts, planned.noise_multiplier, noise)
            population = self._next(population, near, pool, released, planned.noise_multiplier, chance)
            progress.population, progress.votes = population, step + 1
            progress.save(fit.checkpoint, release)
            report(rounds + step + 1, rounds + config.iterations)
        left = {"pool": pool.clone(), "population": population.clone()}
        return PrivateFit(left, {PURPOSE: planned}, {PURPOSE: release})

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """One coarse image per condition, a label; see the module for which. Nothing is drawn by batch."""
        population, pool = weights["population"], weights["pool"]
        generator = torch.Generator().manual_seed(derive_seed(seed, "coarse_samples"))
        images = torch.empty(len(conditions), *population.shape[2:])
        for label in conditions.unique():
            wanted = (conditions == label).nonzero().squeeze(1)
            members = population[label]
            order = torch.randperm(len(members), generator=generator)[torch.arange(len(wanted)) % len(members)]
            images[wanted] = members[order]
            more = wanted[len(members) :]
            if len(more):
                near = api.neighbours(members, pool, self.config.sample_degree, self.device)
                again = order[len(members) :]
                images[more] = api.vary(members[again], near[again], pool, self.config.sample_blend, generator)
        report(len(conditions), len(conditions))
        return images.clamp(0, 1)

    def degree(self, step: int) -> float:
        """The degree of variation at vote `step` of 0..T-1."""
        config = self.config
        way = step / max(config.iterations - 1, 1)
        return float(config.first_degree ** (1 - way) * config.last_degree**way)

    def _shown(self, population: Tensor, near: Tensor, pool: Tensor, embed: Embed, chance: torch.Generator) -> Tensor:
        """The embeddings that members are voted for by, K N D: their own, or the mean of their variations'."""
        members, count = population.flatten(0, 1), self.config.lookahead
        if not count:
            return embed(members).unflatten(0, population.shape[:2])
        ahead = [embed(api.vary(members, near, pool, self.config.blend, chance)) for _ in range(count)]
        return torch.stack(ahead).mean(0).unflatten(0, population.shape[:2])

    def _next(
        self, population: Tensor, near: Tensor, pool: Tensor, released: Tensor, sigma: float, chance: torch.Generator
    ) -> Tensor:
        """The next population, K N C h w: members drawn by their noisy votes, every further copy of one varied."""
        size = population.shape[1]
        drawn = votes.shares(released, self.config.threshold * sigma).multinomial(size, True, generator=chance)
        drawn = drawn.sort(1).values  # K N
        again = torch.zeros_like(drawn, dtype=torch.bool)
        again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        rows = (drawn + size * torch.arange(len(drawn)).unsqueeze(1)).flatten()
        members = population.flatten(0, 1)[rows]
        varied = api.vary(members, near[rows], pool, self.config.blend, chance)
        return torch.where(again.flatten().view(-1, 1, 1, 1), varied, members).unflatten(0, population.shape[:2])

    def _release(
        self, planned: Mechanism, fit: FitSettings, weights: Weights, images: Tensor, conditions: Tensor
    ) -> str:
        """The id of the noise: of everything that is run."""
        config = self.config
        settings = ("threshold", "lookahead", "first_degree", "last_degree", "blend", "embedding")
        return release_id(
            {
                **{name: getattr(config, name) for name in settings},
                "iterations": planned.steps,
                "noise_multiplier": planned.noise_multiplier,
                "seed": derive_seed(fit.seed, "fingerprint"),
                "records": digest([("images", images), ("labels", conditions)]),
                "first weights": digest(weights.items()),
            }
        )


def _require_covered(
    planned: Mechanism, config: PrivateEvolutionConfig, fit: FitSettings, images: Tensor, labels: Tensor
) -> None:
    """Raise UserError for what the guarantee does not cover: other conditions than one label a record, another number
    of votes, noise too small for the budget."""
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise UserError(
            f"Conditions of shape {tuple(labels.shape)} for {len(images)} records are not one label each, and a record "
            "has one vote: use class labels."
        )
    if (planned.sample_rate, planned.steps) != (1, config.iterations):
        raise UserError(
            f"{planned.steps} votes at sample rate {planned.sample_rate} were planned and generator.iterations="
            f"{config.iterations} of all records would run: take the plan from the generator's `mechanisms`."
        )
    cost = accounting.compose([planned], accounting.delta(fit.privacy, len(images)))
    if cost > fit.privacy.epsilon:
        raise UserError(
            f"noise_multiplier={planned.noise_multiplier} would spend epsilon={cost:.4g} in {planned.steps} votes, "
            f"more than privacy.epsilon={fit.privacy.epsilon}: take the plan from the generator's `mechanisms`."
        )
