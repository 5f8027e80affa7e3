"""`ldm_sr` and `sd_x4`: the latent diffusion models of arXiv 2112.10752 that enlarge by 4, through diffusers.

    B images, h w pixels of a pass's input

    ldm_sr   LDMSuperResolutionPipeline, CompVis/ldm-super-resolution-4x-openimages
    sd_x4    StableDiffusionUpscalePipeline, stabilityai/stable-diffusion-x4-upscaler; upscaler.prompt is public text

wavedp.weight_files says where the weights come from. Steps are DDIM's with η = 0, so all randomness is in the noise
that an image starts from, which is a function of that image only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from wavedp.errors import UserError
from wavedp.seeds import generator_of
from wavedp.upscalers.bridged import Bridged, Pass
from wavedp.upscalers.latent_diffusion import LDMConfig, LDMSuperResolution
from wavedp.weight_files import hub_folder

FACTOR = 4
# The pipelines' own defaults for sd_x4: how far guidance moves, and the noise that the coarse image is given.
GUIDANCE, NOISE_LEVEL = 9.0, 20


class LatentDiffusion(Bridged):
    """One of the two pipelines, loaded. Raises UserError for weights that are missing, belong to another pipeline, or
    enlarge by a factor other than 4."""

    def __init__(self, method: LDMSuperResolution, config: LDMConfig, device: str = "cpu") -> None:
        super().__init__(method.name, FACTOR, once=_unseeded, batch_size=config.batch_size)
        self._steps, self._prompt, self._device = config.diffusion_steps, getattr(config, "prompt", None), device
        folder = hub_folder(config.path, config.revision, method.hub_id)
        self._pipeline = _load(folder, method, config.precision, device)
        networks = self._pipeline.components
        self._decoder = networks["vae" if "vae" in networks else "vqvae"]
        enlarges = 2 ** (len(self._decoder.config.block_out_channels) - 1)
        if enlarges != FACTOR:
            raise UserError(f"the {method.name} in {folder} enlarges by {enlarges}, not {FACTOR}: give one by 4.")
        # Each level of the U-Net halves the image.
        self._multiple = max(2 ** (len(networks["unet"].config.down_block_types) - 1), enlarges)

    def _pass_for(self, images: torch.Tensor) -> Pass:
        """A later pass takes its noise from the caller's images too: its own input differs between batches by rounding,
        which would give entirely different noise."""

        @torch.inference_mode()
        def once(small: torch.Tensor) -> torch.Tensor:
            height, width = small.shape[-2:]
            generators = [generator_of(image, f"{self.name} {height} {width}") for image in images]
            padding = (0, -width % self._multiple, 0, -height % self._multiple)
            padded = F.pad(small, padding, mode="replicate").to(self._device)
            return self._draw(padded, generators).float()[..., : height * FACTOR, : width * FACTOR]

        return once

    def _draw(self, images: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """B 3 h w -> B 3 4h 4w in [0, 1]."""
        asked: dict[str, Any] = {"num_inference_steps": self._steps, "eta": 0.0, "generator": generators}
        if self._prompt is None:  # a model without text
            return self._pipeline(images * 2 - 1, output_type="pt", **asked).images
        # Without a prompt, the conditional and the unconditional prediction are the same one.
        guidance = GUIDANCE if self._prompt else 1.0
        asked |= {"guidance_scale": guidance, "noise_level": NOISE_LEVEL}
        return self._pipeline([self._prompt] * len(images), images, output_type="pt", **asked).images


def _unseeded(images: torch.Tensor) -> torch.Tensor:
    raise AssertionError("a pass of LatentDiffusion is made for the images that seed it")


def _load(folder: Path, method: LDMSuperResolution, precision: str, device: str) -> Any:
    """The pipeline in evaluation mode, with a deterministic scheduler."""
    import diffusers

    found, wanted = _pipeline_class(folder), method.pipeline
    if found != wanted:
        raise UserError(
            f"{folder} holds {found}, and upscaler={method.name} is a {wanted}: give the folder or hub id of one."
        )
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    # A safety checker would blacken images without a word.
    options: dict[str, Any] = {"safety_checker": None} if "StableDiffusion" in wanted else {}
    try:
        pipeline = getattr(diffusers, wanted).from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, **options
        )
    except Exception as error:  # missing or damaged parts raise whatever their loaders do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"diffusers cannot load {folder} ({reason}): download the model again.") from error
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _pipeline_class(folder: Path) -> str:
    """The class that model_index.json names."""
    try:
        return str(json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is not a model of diffusers ({type(error).__name__} at its model_index.json): give a folder "
            "that save_pretrained or hf download wrote."
        ) from None
