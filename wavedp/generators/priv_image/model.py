"""PrivImage: a vote for semantics of public images, pretraining on those chosen, and DP-SGD from there.

    B records   K classes   M semantics   D width of an embedding   C h w a coarse image   n public images

Weights of public training: `pool` n C h w uint8, `semantics` n int64 in 0..M-1, the cluster of each, and `centres` M D.
Those of the private fit are the network's.

Two mechanisms see the records, each with a line of its own in the plan and in the ledger.

* `vote`: one Gaussian release of the counts of votes.py, whose L2 sensitivity is √k by the proof there. Its noise is
  calibrated to vote_share ε.
* `private_fit`: the Poisson-subsampled Gaussian of wavedp.privacy.training, from weights that follow from the released
  counts, public images and numbers, and a seed. It gets the noise with which both spend at most ε together.

Between them, each class gets the semantics that its noisy counts are highest for, their images are relabelled as that
class, and dpdm's network learns them and their mirror images: post-processing, of as many steps as one likes. So the
condition means something before the first sensitive gradient.

Seeded noise belongs to a release (privacy.training): that of the vote is seeded by all that it depends on, the seed, z,
k, K, the embedding, the centres and the records.

    case                                  result
    killed while records are embedded     they are embedded again: the same vote, to rounding of the embedding
    killed in pretraining                 goes on from its checkpoint, with the vote that was kept
    killed in DP-SGD                      goes on from its checkpoint, with the weights that pretraining left
    epsilon = inf                         exact counts, and no noise in the fit
    epsilon = 0                           refused: without a vote nothing is chosen
    fewer clusters than classes may get   UserError, and nothing is released
    a plan above the budget               UserError, and nothing is released

What is kept for that lies beside the fit's checkpoint, under names that hold the release, open to its owner alone
(pretraining's own checkpoint, of what follows from the release, excepted).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.denoising import PretrainedDenoisingModel
from wavedp.generators.dp_sgd import PretrainedConfig
from wavedp.generators.dpdm.model import DPDMModel
from wavedp.generators.dpdm.network import EDMUNet
from wavedp.generators.priv_image import VOTE, PrivImageConfig, votes
from wavedp.generators.priv_image.clusters import clusters
from wavedp.generators.private_evolution.embedding import embedding
from wavedp.methods import Weights
from wavedp.privacy import accounting
from wavedp.privacy.checkpoint import digest, read, write
from wavedp.privacy.training import release_id
from wavedp.progress import Report
from wavedp.seeds import derive_seed

EMBEDDED_AT_ONCE = 4096
"""Images between two reports."""


class PrivImageModel(PretrainedDenoisingModel, DPDMModel):
    """See the module, and wavedp.generators for the protocol. config: a PrivImageConfig."""

    config: PrivImageConfig

    def fit_public(
        self, images: Tensor, conditions: Tensor, seed: int, report: Report, checkpoint: Path | None = None
    ) -> Weights:
        """The public coarse images n C h w and their semantics. Their labels are not looked at. A killed one begins
        again."""
        chance = torch.Generator().manual_seed(derive_seed(seed, "semantics"))
        embedded = self._embedded(images, report)
        centres, semantics = clusters(embedded, self.config.semantics, chance, self.device)
        return {"pool": (images * 255).round().to(torch.uint8), "semantics": semantics, "centres": centres}

    def start(self, weights: Weights) -> Weights:
        """The random first weights: before a vote, nothing is chosen to learn from."""
        return {name: value.cpu() for name, value in self.first_network().state_dict().items()}

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The vote, pretraining on what it chose, and DP training on coarse images B C h w with labels B.

        report: called after some records are embedded, and after each step of either training. Raises UserError as the
        module says, and as `votes.exact` does.
        """
        planned, config = fit.mechanisms[VOTE], self.config
        self._require_covered(fit, weights, images, conditions)
        release = self._release(planned.noise_multiplier, fit.seed, weights, images, conditions)
        rounds, total = -(-len(images) // EMBEDDED_AT_ONCE), config.pretrain_steps + fit.privacy.steps

        def after(before: int) -> Report:
            return lambda done, _: report(before + done, rounds + total)

        def vote() -> Weights:
            records = self._embedded(images, after(0))
            counts = votes.exact(records, conditions, self.n_classes, weights["centres"], config.votes, self.device)
            noise = torch.Generator().manual_seed(derive_seed(fit.seed, "noise", release))
            return {"counts": votes.noisy(counts, planned.noise_multiplier, config.votes, noise)}

        def beside(what: str) -> Path:
            return fit.checkpoint.with_name(f"{what}.{release[:16]}.{fit.checkpoint.name}")

        released, network = _kept(beside("vote"), vote)["counts"], self.first_network()
        torch.manual_seed(derive_seed(fit.seed, "pretrain", release))
        chosen, resumed = self.chosen(weights, released), beside("pretraining").with_suffix(".pt")
        pretrained = _kept(beside("pretrained"), lambda: self._learned(network, *chosen, after(rounds), resumed))
        network.load_state_dict(pretrained)
        done = self.fit_records(network, images, conditions, fit, after(rounds + config.pretrain_steps), (planned,))
        return PrivateFit(done.weights, {VOTE: planned, **done.mechanisms}, {VOTE: release, **done.releases})

    def chosen(self, weights: Weights, released: Tensor) -> tuple[Tensor, Tensor]:
        """The public images m C h w float32 in [0, 1] that noisy counts K M choose, and the classes m that they are
        relabelled as."""
        labels = votes.choose(released, self.config.chosen)[weights["semantics"]]
        rows = (labels >= 0).nonzero().squeeze(1)
        return weights["pool"][rows].float() / 255, labels[rows]

    def _learned(self, network: EDMUNet, images: Tensor, labels: Tensor, report: Report, checkpoint: Path) -> Weights:
        """The network's weights after pretraining on public images."""
        config = self.config
        settings = PretrainedConfig(
            pretrain_steps=config.pretrain_steps,
            pretrain_batch=config.pretrain_batch,
            pretrain_learning_rate=config.pretrain_learning_rate,
        )
        return self.pretrained(network.train(), images, labels, settings, report, checkpoint)

    def _embedded(self, images: Tensor, report: Report) -> Tensor:
        """The embeddings B D of images."""
        embed, found = embedding(self.config.embedding, self.device), []
        parts = images.split(EMBEDDED_AT_ONCE)
        for part in parts:
            found.append(embed(part))
            report(len(found), len(parts))
        return torch.cat(found)

    def _release(self, noise_multiplier: float, seed: int, weights: Weights, images: Tensor, labels: Tensor) -> str:
        """The id of the vote's noise."""
        return release_id(
            {
                "noise_multiplier": noise_multiplier,
                "seed": derive_seed(seed, "fingerprint"),
                "votes": self.config.votes,
                "n_classes": self.n_classes,
                "embedding": self.config.embedding,
                "centres": digest([("centres", weights["centres"])]),
                "records": digest([("images", images), ("labels", labels)]),
            }
        )

    def _require_covered(self, fit: FitSettings, weights: Weights, images: Tensor, labels: Tensor) -> None:
        """Raise UserError for what the guarantee does not cover, or what cannot be chosen, before anything is
        released."""
        planned, config, there = fit.mechanisms[VOTE], self.config, len(weights["centres"])
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise UserError(
                f"Conditions of shape {tuple(labels.shape)} for {len(images)} records are not one label each, and a "
                "record votes for its class: use class labels."
            )
        if (planned.sample_rate, planned.steps) != (1, 1):
            raise UserError(
                f"{planned.steps} votes at sample rate {planned.sample_rate} were planned and one of all records would "
                "run: take the plan from the generator's `mechanisms`."
            )
        cost = accounting.compose(list(fit.mechanisms.values()), accounting.delta(fit.privacy, len(images)))
        if cost > fit.privacy.epsilon:
            raise UserError(
                f"The vote and the fit as planned would spend epsilon={cost:.4g}, more than privacy.epsilon="
                f"{fit.privacy.epsilon:g}: take the plan from the generator's `mechanisms`."
            )
        wanted = max(config.chosen * self.n_classes, config.votes)
        if there < wanted:
            raise UserError(
                f"The public images make {there} clusters that are not empty, and generator.chosen={config.chosen} "
                f"with generator.votes={config.votes} needs {wanted}: give more different public images, or lower both."
            )


def _kept(path: Path, make: Callable[[], Weights]) -> Weights:
    """The tensors in the file, or else those that `make` gives, which are then in it."""
    found = read(path) if path.exists() else None
    if found is not None:
        return found[0]
    made = make()
    write(path, made, {})
    return made
