"""What the configuration files of a diffusers folder say of a latent diffusion model. Imports no torch.

    pipeline                  autoencoder   text encoder    other folders
    LDMTextToImagePipeline    vqvae         bert            tokenizer, unet, scheduler
    StableDiffusionPipeline   vae           text_encoder    tokenizer, unet, scheduler

Source: diffusers 0.42 (pipelines/latent_diffusion, pipelines/stable_diffusion).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavedp.errors import UserError

PIPELINES = {
    "LDMTextToImagePipeline": {"vae": "vqvae", "encoder": "bert"},
    "StableDiffusionPipeline": {"vae": "vae", "encoder": "text_encoder"},
}
CLASSES = {
    "vae": ("AutoencoderKL",),
    "unet": ("UNet2DConditionModel",),
    "encoder": ("LDMBertModel", "CLIPTextModel"),
    "tokenizer": (
        "BertTokenizer", "BertTokenizerFast", "CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast",
        "TokenizersBackend",
    ),
}  # fmt: skip
"""The classes that are known for each part: what a folder names is not imported unseen."""


@dataclass(frozen=True)
class Facts:
    """folders, classes: of the parts vae, encoder, tokenizer, unet and scheduler. side: of the images, in pixels.
    latents: channels and side of an image's latents. width: of a text token's state. attention_width: the fewest
    channels that attention sees. scale: latents are the autoencoder's times this. process: the scheduler's config."""

    folders: dict[str, Path]
    classes: dict[str, str]
    side: int
    latents: tuple[int, int]
    width: int
    attention_width: int
    scale: float
    process: dict[str, Any]

    @property
    def timesteps(self) -> int:
        """T of the process that the U-Net was trained for."""
        return int(self.process.get("num_train_timesteps", 1000))


def folder_of(checkpoint: str | None) -> Path:
    """The folder. Raises UserError when there is none."""
    if checkpoint is None:
        raise UserError(
            "generator.checkpoint is not set, and this generator fine-tunes a published model: give a folder that "
            "diffusers wrote, such as a copy of CompVis/ldm-text2im-large-256."
        )
    folder = Path(checkpoint).expanduser()
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"generator.checkpoint={checkpoint} has no model_index.json: give a folder that save_pretrained or hf "
            "download wrote."
        )
    return folder


def facts_of(checkpoint: str | None) -> Facts:
    """Read the configuration files. Raises UserError for a folder that is missing, or of a model of another kind."""
    folder = folder_of(checkpoint)
    index = _read(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise UserError(f"{folder} holds {pipeline}, which is not fine-tuned here: give {' or '.join(PIPELINES)}.")
    names = {**PIPELINES[pipeline], "tokenizer": "tokenizer", "unet": "unet", "scheduler": "scheduler"}
    found = {part: (index.get(name) or [None, None])[1] for part, name in names.items()}
    for part, known in CLASSES.items():
        if found[part] not in known:
            raise UserError(
                f"{folder} has {found[part]} as its {names[part]}, which is not known here: give a model whose "
                f"{names[part]} is {' or '.join(known)}."
            )
    folders = {part: folder / name for part, name in names.items()}
    vae, unet = (_read(folders[part] / "config.json") for part in ("vae", "unet"))
    process = _read(folders["scheduler"] / "scheduler_config.json")
    size, channels = unet.get("sample_size"), vae.get("latent_channels", 4)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{folders['unet']} names no sample_size: give a U-Net for square images of one size.")
    if unet.get("in_channels", 4) != channels or unet.get("out_channels", 4) != channels:
        raise UserError(
            f"the U-Net in {folder} takes {unet.get('in_channels')} channels and gives {unet.get('out_channels')}, and "
            f"its latents have {channels}: give a text-to-image model, not one for inpainting or upscaling."
        )
    if unet.get("class_embed_type") or unet.get("addition_embed_type") or unet.get("num_class_embeds"):
        raise UserError(f"the U-Net in {folder} wants more than text: give one that is conditioned on text alone.")
    if process.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{folder} predicts {process['prediction_type']}: give a model that predicts epsilon or v_prediction."
        )
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    attends = [
        width
        for width, kind in zip(unet["block_out_channels"], unet["down_block_types"], strict=True)
        if "CrossAttn" in kind
    ]
    return Facts(
        folders,
        {part: str(name) for part, name in found.items()},
        size * factor,
        (channels, size),
        unet.get("cross_attention_dim", 1280),
        min(attends or [unet["block_out_channels"][-1]]),
        vae.get("scaling_factor", 0.18215),
        process,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}): download the model again.") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no settings: download the model again.")
    return found
