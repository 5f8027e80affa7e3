"""What can be known to be wrong with a trial before anything runs, from its configuration and its data alone.

Weight files are not opened: `stages.check_models` does that, before training. Nothing here imports torch for trials
with scalar tokens at one level, so that a dry run stays quick.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import PurePath

from wavedp import data, generators, tokenizers, weight_files
from wavedp.chain import coarse_shape, deblurs, diffuses, fit_kind, n_records, pretrain_level, trains_upscaler
from wavedp.config import DiffusionConfig, TokenizerConfig, TrialConfig, UpscalerConfig
from wavedp.errors import UserError
from wavedp.levels import check_level
from wavedp.privacy import accounting


def check(trial: TrialConfig) -> list[str]:
    """What can be known to be wrong from the configuration and the data alone. Returns warnings.

    Raises UserError (InfeasibleError for a budget no noise meets) with one sentence of cause and one of remedy.
    """
    channels, height, width = data.shape(trial.data)
    if trial.generator.width % trial.generator.heads:
        raise UserError(
            f"generator.width={trial.generator.width} can't be shared by {trial.generator.heads} heads: use a multiple."
        )
    check_level(trial.level, height, width)
    if trial.blur != "none" and not diffuses(trial):
        raise UserError(
            f"blur={trial.blur} needs a generator that diffuses, generator.name={trial.generator.name} has no blur "
            "schedule: use blur=none, or generator=blur_diffusion."
        )
    if trial.generator.name not in generators.NAMES:
        raise UserError(
            f"generator.name={trial.generator.name!r} is not a generator: use one of {', '.join(generators.NAMES)}."
        )
    if trial.public is not None and data.shape(trial.public) != (channels, height, width):
        raise UserError(
            f"public images are {data.shape(trial.public)} (C, H, W), sensitive ones {(channels, height, width)}: "
            "set public.size and public.channels to match."
        )
    if trial.public is not None and trial.generator.pretrain_steps:
        n_records(trial.public, "train")
    _check_tokenizer(trial)
    if diffuses(trial):
        _check_diffusion(trial)
    if trains_upscaler(trial):
        _check_trained_upscaler(trial)
    _check_conditioning(trial)
    records = n_records(trial.data, "train")
    warned = accounting.check(trial.privacy, records) if fit_kind(trial) in ("dp", "nonprivate") else []
    return [*warned, *_face_warning(trial)]


def _face_warning(trial: TrialConfig) -> list[str]:
    """A sentence where stage two may have been trained on the sensitive images: a face model on a folder of faces. Then
    it is no post-processing of a private release, and ε says nothing about it. Names decide; a network of spandrel is
    asked for its architecture too."""
    if trial.data.name != "folder" or not _FACE_SETS.search((trial.data.path or "").lower()):
        return []
    upscaler = trial.upscaler
    named = f"{upscaler.name} {PurePath(upscaler.path or '').name}".strip()
    if not _FACE_MODELS.search(named.lower()) and not (upscaler.name == "spandrel" and _restores_faces(upscaler)):
        return []
    return [
        f"upscaler {named} is a model for faces and data.path={trial.data.path} may hold images it was trained on, "
        "which would break the guarantee: find out what it saw, or use a network that saw no faces."
    ]


# Face restoration models, most of them trained on FFHQ or CelebA, and where their training sets lie.
_FACE_MODELS = re.compile(r"gfpgan|codeformer|restoreformer|gpen|vqfr|(?<!sur)(?<!inter)face")
_FACE_SETS = re.compile(r"celeba|ffhq|(?<!sur)(?<!inter)face")


def _restores_faces(upscaler: UpscalerConfig) -> bool:
    from wavedp.upscalers.spandrel_file import restores_faces  # which imports torch

    return restores_faces(weight_files.locate(upscaler))


def _check_tokenizer(trial: TrialConfig) -> None:
    """That the trial's tokens are a prefix of those the generator is pretrained on, and that stage two can use them."""
    level, finest = trial.level, pretrain_level(trial)
    if not 0 <= finest <= level:
        raise UserError(
            f"generator.pretrain_level={finest} is coarser than level={level}: use 0 to {level}, or null for the level."
        )
    if trial.tokenizer.name == "raster" and finest != level:
        raise UserError(
            f"generator.pretrain_level={finest} is not level={level}, and tokenizer=raster has other codes at every "
            "level: use pretrain_level=null."
        )
    if tokenizers.training_level(trial.tokenizer, level) is not None and trial.public is None:
        raise UserError(f"tokenizer={trial.tokenizer.name} is learned on public images: set public, or use scalar.")
    tokenizers.check(trial.tokenizer)
    if finest != level or trial.tokenizer.name != "scalar":
        _require_prefix(trial.tokenizer, data.shape(trial.data), level, finest)
    without_tokens = trial.generator.name == "real" or diffuses(trial)
    if trial.upscaler.name == "spectral" and (without_tokens or finest != 0 or trial.public is None):
        raise UserError(
            "upscaler=spectral completes images with the public generator: use generator=spectral_ar, "
            "generator.pretrain_level=0 and a public dataset."
        )


def _check_diffusion(trial: TrialConfig) -> None:
    """What generator=blur_diffusion cannot do; its schedule is built once, which refuses impossible ones."""
    config, sampling, level = trial.diffusion, trial.sampling, trial.level
    if pretrain_level(trial) != level:
        raise UserError(
            f"generator.pretrain_level={pretrain_level(trial)} is not level={level}, and generator=blur_diffusion "
            "learns one size of image: use pretrain_level=null."
        )
    _check_network("sampling", config, sampling.diffusion_steps)
    if trial.privacy.mean_share or trial.privacy.scale_decay != 1:
        raise UserError(
            "privacy.mean_share and privacy.scale_decay are for scales of tokens, which generator=blur_diffusion has "
            "not: set them to 0 and 1."
        )
    if trial.privacy.grad_sample_mode == "ghost" and math.isfinite(trial.privacy.epsilon):
        raise UserError(
            "privacy.grad_sample_mode=ghost sees one forward pass a record, and diffusion.multiplicity makes several: "
            "use hooks or bookkeeping."
        )
    _require_process(config, trial.blur, coarse_shape(trial))


def _check_trained_upscaler(trial: TrialConfig) -> None:
    """What upscalers that are trained on public images cannot do."""
    upscaler, (_, height, width) = trial.upscaler, data.shape(trial.data)
    if trial.public is None:
        raise UserError(f"upscaler={upscaler.name} is trained on public images: set public, or use another upscaler.")
    if upscaler.train_steps < 1 or upscaler.train_batch < 1:
        raise UserError(
            f"upscaler.train_steps={upscaler.train_steps} and train_batch={upscaler.train_batch} must both be 1 or "
            "more: raise them."
        )
    if deblurs(trial):
        _check_network("upscaler", trial.diffusion, upscaler.diffusion_steps)
        _require_process(trial.diffusion, upscaler.blur, data.shape(trial.data))
        _require_blur(trial.diffusion, upscaler.blur, 2**trial.level)
    elif upscaler.detail_width < 1 or upscaler.detail_depth < 0:
        raise UserError(
            f"upscaler.detail_width={upscaler.detail_width} and detail_depth={upscaler.detail_depth} make no network: "
            "use a width of 1 or more and a depth of 0 or more."
        )
    elif height % 2 or width % 2:
        raise UserError(
            f"upscaler=wavelet_detail learns to double images, and {height}×{width} has an odd side: use "
            "another upscaler."
        )


def _check_network(section: str, config: DiffusionConfig, steps: int) -> None:
    """The U-Net, and how many steps it draws in."""
    if config.channels < 16 or config.channels % 16:
        raise UserError(f"diffusion.channels={config.channels} has no groups of equal size: use a multiple of 16.")
    if config.layers < 1 or config.multiplicity < 1:
        raise UserError(
            f"diffusion.layers={config.layers} and multiplicity={config.multiplicity} must both be 1 or more: raise "
            "them."
        )
    if config.snr_gamma < 0:
        raise UserError(f"diffusion.snr_gamma={config.snr_gamma} is no bound of a ratio: use 0 (off) or more.")
    if not 1 <= steps <= config.timesteps:
        raise UserError(
            f"{section}.diffusion_steps={steps} does not fit {config.timesteps} timesteps: use 1 to {config.timesteps}."
        )


def _check_conditioning(trial: TrialConfig) -> None:
    if trial.generator.conditioning == "text":
        for config in (trial.data, trial.public):
            if config is not None and not data.has_captions(config):
                raise UserError(
                    f"generator.conditioning=text needs captions and {config.name} has none: use conditioning=class, "
                    "or a dataset with captions."
                )
        if trial.generator.name == "real":
            raise UserError("generator=real draws images by class: use generator.conditioning=class.")
        if trial.privacy.mean_share:
            raise UserError(
                "privacy.mean_share releases class means, and generator.conditioning=text has no classes: set it to 0."
            )
        if trial.metrics.downstream_steps:
            raise UserError(
                "metrics.downstream_steps needs class labels, which images made from prompts lack: set it to 0."
            )
    if trial.sampling.guidance != 1 and trial.generator.condition_dropout == 0:
        raise UserError(
            f"sampling.guidance={trial.sampling.guidance} needs a model that has seen images without condition: set "
            "generator.condition_dropout, such as 0.1, or guidance=1."
        )
    if not 0 <= trial.generator.condition_dropout < 1:
        raise UserError(
            f"generator.condition_dropout={trial.generator.condition_dropout} is no share: use 0 <= dropout < 1."
        )
    if trial.privacy.views != 1:
        _require_views(trial.privacy.views)
    if trial.privacy.views > 1 and trial.privacy.grad_sample_mode == "ghost":
        raise UserError(
            f"privacy.grad_sample_mode=ghost sees one forward pass a record, privacy.views={trial.privacy.views} makes "
            "several: use hooks or bookkeeping."
        )
    width = 2 * trial.diffusion.channels if diffuses(trial) else trial.generator.width
    if trial.privacy.trained == "lora" and not 1 <= trial.privacy.lora_rank < width:
        raise UserError(
            f"privacy.lora_rank={trial.privacy.lora_rank} is no low rank of layers {width} wide: use 1 to {width - 1}, "
            "or privacy.trained=all."
        )


@cache
def _require_prefix(config: TokenizerConfig, shape: tuple[int, int, int], level: int, finest: int) -> None:
    from wavedp.generators.transformer import require_prefix

    private, public = (tokenizers.untrained(config, shape, each) for each in (level, finest))
    require_prefix(public, private)


@cache
def _require_process(config: DiffusionConfig, blur: str, shape: tuple[int, int, int]) -> None:
    from wavedp.diffusion.blur import BlurOperator
    from wavedp.generators.blur_diffusion import forward_process

    BlurOperator(forward_process(config, blur), *shape[1:])


@cache
def _require_blur(config: DiffusionConfig, blur: str, factor: int) -> None:
    from wavedp.generators.blur_diffusion import forward_process, matching_time

    matching_time(forward_process(config, blur), factor)


def _require_views(number: int) -> None:
    import torch

    from wavedp.views import view

    view(torch.zeros(1, 1, 2, 2), number - 1)
