"""Common to generators that are pretrained on public images and fitted by DP-SGD (wavedp.privacy.training)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from wavedp import data, methods
from wavedp.config import DataConfig, TrialConfig
from wavedp.errors import UserError
from wavedp.fields import SEED, AnyOf, performance, result
from wavedp.generators import GeneratorMethod, TextTokens
from wavedp.methods import Needs, Rehearsal
from wavedp.privacy import accounting
from wavedp.privacy.accounting import Mechanism
from wavedp.weight_files import sha256

FIT_FIELDS = (
    "delta", "batch_size", "steps", "max_grad_norm", "accountant", "relation", "clipping", "noise_source", "optimizer",
    "adam_floor", "learning_rate", "ema_decay", "views", "trained", "lora_rank", "precision",
)  # fmt: skip
"""Fields of the section privacy that every such fit reads; scale_decay and mean_share are for scales of tokens."""


n_records = cache(data.n_records)  # a study of hundreds of trials asks the same again and again


@dataclass(frozen=True)
class ConditionedConfig:
    """What the model is conditioned on, and its first weights."""

    # text: captions through a frozen encoder (wavedp.text), as one vector; tokens: as the states of their tokens, a
    # prefix of an image's.
    conditioning: Literal["class", "text", "tokens"] = result("class")
    # Of a record's captions, as many as privacy.views: drawn anew at each step, or always the first ones.
    captions: Literal["drawn", "first"] = result(
        "drawn", before="first", read_if={"conditioning": AnyOf("text", "tokens")}, stage="private_fit"
    )
    condition_dropout: float = result(0.0, within="[0, 1)")  # share of training images without one, for guidance
    public_seed: int = result(0, within=SEED)  # of the first weights, and of public batches


@dataclass(frozen=True)
class PretrainedConfig(ConditionedConfig):
    """Public pretraining too."""

    pretrain_steps: int = result(300, within="[0, inf)")  # 0 leaves the weights random
    pretrain_batch: int = result(128, within="[1, inf)")  # images a step
    pretrain_learning_rate: float = result(4e-3, within="(0, inf)")  # at the start; it falls to 0 along a cosine
    # keep: the private classes begin with what was learned of the public classes of their names (public=chosen);
    # number: private class c with what was learned of public class c, whatever that is.
    public_classes: Literal["forget", "keep", "number"] = result("forget", later=True)


@dataclass(frozen=True)
class TokensConfig(PretrainedConfig):
    """Public pretraining of a decoder over tokens, before which those of a sentence can stand."""

    # P, of a caption: a longer one is cut.
    text_tokens: int = result(32, later=True, read_if={"conditioning": "tokens"}, within="[1, 512]")
    # Folder of a T5 encoder or a BERT (wavedp.text), its content in the key; None: the packaged MiniLM.
    text_encoder: str | None = performance(None, path=True)
    # Images a pass of public pretraining; None: the whole batch.
    pretrain_microbatch: int | None = performance(None, within="[1, inf)")


def pretrains(config: ConditionedConfig) -> bool:
    """True if the method has public pretraining, of a step or more."""
    return isinstance(config, PretrainedConfig) and config.pretrain_steps > 0


class DPSGD(GeneratorMethod):
    """fit_fields: of the section privacy, what the private fit reads; sampling_fields: likewise."""

    fit_fields: tuple[str, ...] = FIT_FIELDS
    sampling_fields: tuple[str, ...] = ("guidance",)
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "privacy": {"adam_floor": 0.3, "lora_rank": 8, "mean_share": 0.0, "scale_decay": 1.0}
    }

    def needs(self, trial: TrialConfig) -> Needs:
        """The private fit's settings (none at ε = 0), sampling, and public images to pretrain on."""
        read = {f"sampling.{name}" for name in self.sampling_fields}
        if self.fit_kind(trial) in ("dp", "nonprivate"):
            read |= {f"privacy.{name}" for name in self.fit_fields}
        public = trial.public if pretrains(trial.generator) else None
        return Needs(fields=frozenset(read), data=((public, "train"),) if public is not None else ())

    def mechanisms(self, trial: TrialConfig, n_records: int) -> dict[str, Mechanism]:
        """The release of class means, if there is one, and the subsampled fit."""
        *before, fit = accounting.mechanisms(trial.privacy, n_records)
        return {"class_means": before[0], "private_fit": fit} if before else {"private_fit": fit}

    def conditioning(self, trial: TrialConfig) -> Literal["class", "text"]:
        """The choice in generator.conditioning; tokens are of a sentence too."""
        return "class" if trial.generator.conditioning == "class" else "text"

    def draws_captions(self, trial: TrialConfig) -> bool:
        """The choice in generator.captions."""
        return bool(trial.generator.captions == "drawn")

    def text_tokens(self, trial: TrialConfig) -> TextTokens | None:
        """Those of conditioning=tokens."""
        config = trial.generator
        if config.conditioning != "tokens" or not isinstance(config, TokensConfig):
            return None
        return TextTokens(config.text_tokens, config.text_encoder)

    def content(self, config: Any) -> dict[str, Any]:
        """The content of a text encoder's folder too. Raises UserError if there is no such folder."""
        found = super().content(config)
        by_tokens = isinstance(config, TokensConfig) and found["conditioning"] == "tokens"
        folder = _encoder(config) if by_tokens else None
        return found if folder is None else {**found, "text_encoder": {"sha256": sha256(folder)}}

    def seen(self, trial: TrialConfig) -> dict[str, tuple[str, ...] | None]:
        """The packaged encoder of captions saw those of COCO: 828,395, says its README. Of another nobody says."""
        if self.conditioning(trial) != "text":
            return {}
        tokens = self.text_tokens(trial)
        if tokens and tokens.encoder:
            return {f"the encoder of captions in {tokens.encoder}": None}
        return {"the encoder of captions (all-MiniLM-L6-v2)": ("COCO",)}

    def check(self, trial: TrialConfig) -> list[str]:
        """Captions, and what text conditioning cannot go with."""
        config, privacy = trial.generator, trial.privacy
        if trial.public is not None and pretrains(config):
            n_records(trial.public, "train")
        if self.conditioning(trial) == "text":
            _check_text(trial)
        if config.conditioning == "tokens":
            if not isinstance(config, TokensConfig):
                raise UserError(
                    f"generator.conditioning=tokens puts a sentence before the tokens of an image, and generator="
                    f"{config.name} has no such tokens: use conditioning=text, or generator=spectral_ar."
                )
            _encoder(config)
        if isinstance(config, PretrainedConfig) and config.public_classes != "forget":
            _check_kept(trial)
        if trial.sampling.guidance != 1 and config.condition_dropout == 0:
            raise UserError(
                f"sampling.guidance={trial.sampling.guidance} needs a model that has seen images without condition: "
                "set generator.condition_dropout, such as 0.1, or guidance=1."
            )
        if privacy.views > 1 and privacy.grad_sample_mode == "ghost":
            raise UserError(
                f"privacy.grad_sample_mode=ghost sees one forward pass a record, privacy.views={privacy.views} makes "
                "several: use hooks or bookkeeping."
            )
        if privacy.precision != "float32" and privacy.grad_sample_mode == "ghost":
            raise UserError(
                f"privacy.grad_sample_mode=ghost takes a second backward pass, which privacy.precision="
                f"{privacy.precision} would round apart from the norms: use bookkeeping or hooks."
            )
        width = self.adapted_width(trial)
        if privacy.trained == "lora" and not 1 <= privacy.lora_rank < width:
            raise UserError(
                f"privacy.lora_rank={privacy.lora_rank} is not a low rank of layers {width} wide: use 1 to "
                f"{width - 1}, or privacy.trained=all."
            )
        if self.fit_kind(trial) in ("dp", "nonprivate"):
            return accounting.check(privacy, n_records(trial.data, "train"))
        return []

    def adapted_width(self, trial: TrialConfig) -> int:
        """The width of the layers that low-rank updates change."""
        return trial.generator.width


class OverTokens(DPSGD):
    """A generator of the trial's tokens."""

    sampling_fields = ("guidance", "temperature", "top_k", "top_p")

    def needs(self, trial: TrialConfig) -> Needs:
        """The trial's tokens, besides what every DP-SGD fit reads."""
        needs = super().needs(trial)
        return replace(needs, fields=needs.fields | {"tokenizer"}, inputs=("tokenizer",))

    def rehearsals(self, trial: TrialConfig) -> Iterator[Rehearsal]:
        """Of public pretraining and the private fit; see wavedp.methods.Rehearses."""
        import torch

        shape, privacy = data.shape(trial.data), trial.privacy
        tokens = methods.tokenizer(trial).first_weights(trial.tokenizer, shape, trial.level)
        model: Any = self.build(trial, {"tokenizer": tokens}, str(torch.get_default_device()))
        if pretrains(trial.generator) and trial.public is not None:
            yield model.rehearse_public()
        if self.fit_kind(trial) in ("dp", "nonprivate"):
            coarse = (shape[0], shape[1] >> trial.level, shape[2] >> trial.level)
            yield model.rehearse_private(privacy, coarse, tuple(tokens.values()))


def _encoder(config: TokensConfig) -> Path | None:
    """The folder of another text encoder than the packaged one. Raises UserError where there is none."""
    if config.text_encoder is None:
        return None
    folder = Path(config.text_encoder)
    if not folder.is_dir():
        raise UserError(
            f"generator.text_encoder={folder} is not a folder: give one with a T5 encoder or a BERT, as "
            "save_pretrained of transformers writes it, or null for the packaged MiniLM."
        )
    return folder


def _check_kept(trial: TrialConfig) -> None:
    """There are as many public classes as private ones; with `keep` they bear their names, in order."""
    config, public = trial.generator, methods.public_of(trial)
    if config.conditioning != "class" or public is None or not config.pretrain_steps:
        what = "public=null" if public is None else "generator.pretrain_steps=0"
        what = what if config.conditioning == "class" else f"generator.conditioning={config.conditioning}"
        raise UserError(
            f"generator.public_classes={config.public_classes} keeps what public pretraining learned of classes, and "
            f"{what} has none: use public_classes=forget."
        )
    if config.public_classes == "number":
        private, there = data.n_classes(trial.data), data.n_classes(public)
        if there < private:
            raise UserError(
                f"generator.public_classes=number gives each of {private} private classes a public one, and "
                f"{public.name} has {there}: use public_classes=forget."
            )
        return
    wanted = data.class_names(trial.data)
    found = data.class_names(public)[: len(wanted)]
    if found != wanted:
        raise UserError(
            f"generator.public_classes=keep needs public classes that begin with those of {trial.data.name} "
            f"({', '.join(wanted[:3])}, …), and {public.name} begins with {', '.join(found[:3])}: use public=chosen, "
            "or public_classes=forget."
        )


def _check_text(trial: TrialConfig) -> None:
    for config in (trial.data, trial.public):
        if isinstance(config, DataConfig) and not data.has_captions(config):
            raise UserError(
                f"generator.conditioning={trial.generator.conditioning} needs captions and {config.name} has none: use "
                f"conditioning=class, "
                "or a dataset with captions."
            )
    if trial.privacy.mean_share:
        raise UserError(
            f"privacy.mean_share releases class means, and generator.conditioning={trial.generator.conditioning} has "
            "no classes: set it to 0."
        )
