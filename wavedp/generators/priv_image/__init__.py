"""`priv_image`: dpdm after pretraining on public images that noisy votes of the sensitive ones chose for each class.

Source: PrivImage, Li, Gong, Li, Zhao, Hou and Wang (USENIX Security 2024, arXiv 2311.12850; SunnierLee/DP-ImaGen),
configured as in DPImageBench (2019ChenGong/DPImageBench, configs/PrivImage/fmnist_28_eps*.yaml). The network, the loss
and the sampler are dpdm's.

What is not as in the benchmark:

* Semantics. There, public images are ImageNet's in its 1,000 classes, and a ResNet-50 trained on these tells which five
  a sensitive image is most like. Here, public images may come without classes, or with such as no classifier knows:
  their semantics are clusters of their own (k-means of an embedding), and a sensitive image is like those whose centres
  it is near to.
* Choice. There, class after class takes the highest counts that are left; here, the highest counts of all take first.
* Noise. There, it is drawn under a constant seed, so that anybody can subtract it; here, it belongs to its release. It
  is calibrated to a share of ε: σ = 50, as published for every ε, is 0.07 of ε = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from wavedp import data
from wavedp.config import TrialConfig
from wavedp.errors import UserError
from wavedp.fields import SEED, privacy, result
from wavedp.generators import coarse_shape
from wavedp.generators.dp_sgd import n_records
from wavedp.generators.dpdm import DPDM, EDMConfig
from wavedp.methods import Inputs, Needs
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism

if TYPE_CHECKING:
    from wavedp.generators.priv_image.model import PrivImageModel

VOTE, KIND = "vote", "noisy_vote"


@dataclass(frozen=True)
class PrivImageConfig(EDMConfig):
    """The semantics of public images, the vote for them, and pretraining on those chosen, before what dpdm does. Only
    the semantics are public; the rest is of the private fit."""

    first_stage: ClassVar[str] = "private_fit"
    name: str = result("priv_image", stage="pretrain")
    conditioning: Literal["class", "text"] = result("class", stage="pretrain")
    public_seed: int = result(0, within=SEED, stage="pretrain")  # of the clusters and of the network's first weights
    semantics: int = result(1000, within="[1, inf)", stage="pretrain")  # M, clusters of the public images, at most
    embedding: Literal["pixels", "effnetlite0"] = result("effnetlite0", stage="pretrain")  # what distances are between
    vote_share: float = privacy(0.07, within="(0, 1)")  # of ε, for the vote
    votes: int = privacy(5, within="[1, inf)")  # k, semantics that a record votes for
    chosen: int = result(5, within="[1, inf)")  # semantics that a class gets; this and what follows costs no ε
    pretrain_steps: int = result(200_000, within="[1, inf)")
    pretrain_batch: int = result(1024, within="[1, inf)")
    pretrain_learning_rate: float = result(3e-4, within="(0, inf)")  # at the start; it falls to 0 along a cosine


class PrivImage(DPDM):
    """See the module's docstring."""

    name = "priv_image"
    Config = PrivImageConfig

    def needs(self, trial: TrialConfig) -> Needs:
        """Public images to choose from, besides what dpdm reads."""
        public = trial.public
        return replace(super().needs(trial), data=((public, "train"),) if public is not None else ())

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """One vote of all records, for its share of ε, and the subsampled fit with what both together leave it."""
        share = trial.generator.vote_share
        vote = accounting.for_share(trial.privacy, n_records, share, "generator.vote_share", "the vote")
        (fit,) = accounting.mechanisms(trial.privacy, n_records, (vote,))
        return {VOTE: replace(vote, kind=KIND), "private_fit": fit}

    def check(self, trial: TrialConfig) -> list[str]:
        """Classes that vote, as many semantics as they may get, and a share that some noise meets. Warns of a vote that
        is mostly noise."""
        config = trial.generator
        if config.conditioning != "class":
            raise UserError(
                f"generator=priv_image chooses public images for classes, and generator.conditioning="
                f"{config.conditioning} has none: use conditioning=class, or generator=pdp_diffusion."
            )
        if trial.privacy.noise_source == "secure":
            raise UserError(
                "privacy.noise_source=secure cannot be repeated, and the vote of generator=priv_image would be drawn "
                "again if its fit is killed before it is kept: use noise_source=seeded, or generator=pdp_diffusion."
            )
        warned = super().check(trial)
        assert trial.public is not None  # `check_start` has refused that
        _check_sizes(config, data.n_classes(trial.data), n_records(trial.public, "train"))
        count = n_records(trial.data, "train")
        vote = self.mechanisms(trial, count)[VOTE]
        return [*warned, *_warn_of_noise(config, vote, count / data.n_classes(trial.data))]

    def check_start(self, trial: TrialConfig) -> None:
        """There are public images, and sensitive ones that vote for them."""
        if self.fit_kind(trial) == "public":
            raise UserError(
                "generator=priv_image learns from public images that sensitive ones have chosen, and privacy.epsilon=0 "
                "lets them choose none: use epsilon > 0, or generator=pdp_diffusion."
            )
        if trial.public is None:
            raise UserError(
                "generator=priv_image is pretrained on public images and public=null has none: set public, such as "
                "public=openclipart, or use generator=dpdm."
            )

    def check_models(self, trial: TrialConfig) -> None:
        """The network of the embedding, if it is one."""
        if trial.generator.embedding != "pixels":
            from wavedp.generators.private_evolution.embedding import embedding

            embedding(trial.generator.embedding, "cpu")

    def build(self, trial: TrialConfig, inputs: Inputs, device: str) -> PrivImageModel:
        """For coarse images of the trial."""
        from wavedp.generators.priv_image.model import PrivImageModel  # and with it diffusers

        return PrivImageModel(trial.generator, coarse_shape(trial), data.n_classes(trial.data), device)


def _check_sizes(config: PrivImageConfig, n_classes: int, n_public: int) -> None:
    if config.semantics > n_public:
        raise UserError(
            f"generator.semantics={config.semantics} clusters cannot be made of {n_public} public images: lower "
            "semantics, or give more public images."
        )
    if config.chosen * n_classes > config.semantics:
        raise UserError(
            f"generator.chosen={config.chosen} for each of {n_classes} classes is more than generator.semantics="
            f"{config.semantics}, and none serves two classes: lower chosen, or raise semantics."
        )
    if config.votes > config.semantics:
        raise UserError(
            f"generator.votes={config.votes} of a record are for different ones of generator.semantics="
            f"{config.semantics}: lower votes, or raise semantics."
        )


def _warn_of_noise(config: PrivImageConfig, vote: Mechanism, per_class: float) -> list[str]:
    """A sentence if a semantic that every record of an average class votes for would not stand out of the noise."""
    deviation = vote.noise_multiplier * math.sqrt(config.votes)
    largest = deviation * math.sqrt(2 * math.log(config.semantics))  # about the largest of M normal numbers
    if per_class >= largest:
        return []
    return [
        f"generator.vote_share={config.vote_share:g} puts noise of deviation {deviation:.3g} on each of "
        f"{config.semantics} counts of a class, and no count is above {per_class:.3g}, a class's records: what is "
        "chosen is mostly noise; raise vote_share or privacy.epsilon, or lower semantics."
    ]
