"""`ldm_sr` and `sd_x4`: the latent diffusion models of arXiv 2112.10752 that enlarge by 4, through diffusers.

    upscaler.path: a folder that diffusers wrote    -> the key has the sha256 of its files
    upscaler.path: a hub id (null: the usual one)   -> the key has the id and the commit in upscaler.revision

Nothing is downloaded: a model of the hub must be in its cache already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from wavedp import weight_files
from wavedp.fields import performance, result
from wavedp.upscalers import LowPass, Origin, Upscaler, UpscalerMethod


@dataclass(frozen=True)
class LDMConfig(LowPass):
    """The place of the model, and its steps, precision and batches."""

    name: str = result("ldm_sr")
    diffusion_steps: int = result(100, within="[1, inf)")
    precision: Literal["float32", "bfloat16"] = result("float32", later=True)
    path: str | None = performance(None, path=True)  # folder or hub id; its content or its id is in the key
    revision: str | None = performance(None)  # commit of the hub id; it is in the key with it
    batch_size: int = performance(8, within="[1, inf)")  # images a pass


@dataclass(frozen=True)
class StableDiffusionConfig(LDMConfig):
    """The same, and a prompt."""

    name: str = result("sd_x4")
    diffusion_steps: int = result(75, within="[1, inf)")
    prompt: str = result("", later=True)  # public text, the same for every image; empty: none


class LDMSuperResolution(UpscalerMethod):
    """Latent diffusion without text."""

    name, Config, factor = "ldm_sr", LDMConfig, "x4"
    origin = Origin(
        "Apache-2.0 (hub page)",
        "arXiv:2112.10752, huggingface.co/CompVis/ldm-super-resolution-4x-openimages",
        "Open Images (the repository's name)",
        ("Open Images",),
    )
    hub_id = "CompVis/ldm-super-resolution-4x-openimages"
    pipeline = "LDMSuperResolutionPipeline"

    def content(self, config: Any) -> dict[str, Any]:
        """Also the weights. Raises UserError for a path that does not exist, or a hub id without a commit."""
        return {
            **super().content(config),
            "model": weight_files.hub_identity(config.path, config.revision, self.hub_id),
        }

    def load(self, config: Any, device: str) -> Upscaler:
        """The pipeline of diffusers."""
        from wavedp.upscalers.latent_diffusion.model import LatentDiffusion

        return LatentDiffusion(self, config, device)

    def found(self) -> str:
        """Looks into the hub's cache."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.hub_id, "model_index.json")
        return "found" if isinstance(path, str) else f"not found: run hf download {self.hub_id}"


class StableDiffusionX4(LDMSuperResolution):
    """Stable Diffusion's upscaler."""

    name, Config = "sd_x4", StableDiffusionConfig
    origin = Origin(
        "CreativeML Open RAIL++-M (model card)",
        "arXiv:2112.10752, huggingface.co/stabilityai/stable-diffusion-x4-upscaler",
        "10 million images of LAION larger than 2048×2048 (model card)",
        ("LAION",),
    )
    hub_id = "stabilityai/stable-diffusion-x4-upscaler"
    pipeline = "StableDiffusionUpscalePipeline"
