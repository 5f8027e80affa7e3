"""Methods by name: built in, installed by another package, or given as `package.module:Object`.

Nothing is imported before it is asked for, and asking imports a method's declaration only, which imports no torch.
A package of your own adds methods by entry points in its pyproject.toml:

    [project.entry-points."wavedp.generators"]      # or .tokenizers, .upscalers, .metrics, .datasets
    mine = "my_package.mine:Mine"

An object is a method (see wavedp.methods), or a class that makes one without arguments.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from functools import cache
from typing import Any

from wavedp.errors import UserError, nearest

KINDS = ("generator", "tokenizer", "upscaler", "metric")

BUILT_IN: dict[str, dict[str, str]] = {
    "generator": {
        "spectral_ar": "wavedp.generators.spectral_ar:SpectralAR",
        "blur_diffusion": "wavedp.generators.blur_diffusion:BlurDiffusion",
        "private_evolution": "wavedp.generators.private_evolution:PrivateEvolution",
        "public": "wavedp.generators.spectral_ar:PublicOnly",
        "real": "wavedp.generators.real:Real",
        "dp_gaussian": "wavedp.generators.dp_gaussian:DPGaussian",
        "dp_merf": "wavedp.generators.dp_merf:DPMERF",
        "dp_ldm": "wavedp.generators.dp_ldm:DPLDM",
        "dp_lora": "wavedp.generators.dp_ldm:DPLoRA",
        "dp_ldm_checkpoint": "wavedp.generators.dp_ldm_checkpoint:DPLDMCheckpoint",
        "dp_lora_checkpoint": "wavedp.generators.dp_ldm_checkpoint:DPLoRACheckpoint",
        "dp_llamagen": "wavedp.generators.dp_llamagen:DPLlamaGen",
        "dp_llamagen_checkpoint": "wavedp.generators.dp_llamagen_checkpoint:DPLlamaGenCheckpoint",
        "dpdm": "wavedp.generators.dpdm:DPDM",
        "dp_feta": "wavedp.generators.dp_feta:DPFETA",
        "feta_pro": "wavedp.generators.feta_pro:FETAPro",
        "pdp_diffusion": "wavedp.generators.dpdm:PDPDiffusion",
        "priv_image": "wavedp.generators.priv_image:PrivImage",
        "dp_ntk": "wavedp.generators.dp_ntk:DPNTK",
        "dp_kernel": "wavedp.generators.dp_kernel:DPKernel",
        "dp_mepf": "wavedp.generators.dp_mepf:DPMEPF",
    },
    "tokenizer": {
        "scalar": "wavedp.tokenizers.scalar:Scalar",
        "spectral": "wavedp.tokenizers.spectral:Spectral",
        "raster": "wavedp.tokenizers.raster:Raster",
        "llamagen": "wavedp.tokenizers.llamagen:LlamaGen",
    },
    "upscaler": {
        "identity": "wavedp.upscalers.classical:Identity",
        "nearest": "wavedp.upscalers.classical:Nearest",
        "bilinear": "wavedp.upscalers.classical:Bilinear",
        "bicubic": "wavedp.upscalers.classical:Bicubic",
        "lanczos": "wavedp.upscalers.classical:Lanczos",
        "realesrgan_x4plus": "wavedp.upscalers.ncnn:RealESRGANx4Plus",
        "realsr_df2k_x4": "wavedp.upscalers.ncnn:RealSRx4",
        "animevideov3_x2": "wavedp.upscalers.ncnn:AnimeVideoX2",
        "animevideov3_x3": "wavedp.upscalers.ncnn:AnimeVideoX3",
        "animevideov3_x4": "wavedp.upscalers.ncnn:AnimeVideoX4",
        "spandrel": "wavedp.upscalers.spandrel:Spandrel",
        "ldm_sr": "wavedp.upscalers.latent_diffusion:LDMSuperResolution",
        "sd_x4": "wavedp.upscalers.latent_diffusion:StableDiffusionX4",
        "spectral": "wavedp.upscalers.spectral:Spectral",
        "blur_diffusion": "wavedp.upscalers.blur_diffusion:BlurDiffusion",
        "wavelet_detail": "wavedp.upscalers.wavelet_detail:WaveletDetail",
    },
    "metric": {
        "fid": "wavedp.metrics.fid:FID",
        "kid": "wavedp.metrics.kid:KID",
        "floor": "wavedp.metrics.floor:Floor",
        "fd": "wavedp.metrics.fd:SecondFrechet",
        "acc": "wavedp.metrics.acc:Accuracy",
        "fid_infinity": "wavedp.metrics.fid:FIDInfinity",
        "prdc": "wavedp.metrics.prdc:PRDC",
        "spectrum": "wavedp.metrics.spectrum:Spectrum",
        "diversity": "wavedp.metrics.diversity:Diversity",
        "memorised": "wavedp.metrics.memorised:Memorised",
        "text": "wavedp.metrics.text:TextAlignment",
        "inception_score": "wavedp.metrics.inception_score:InceptionScore",
        "fld": "wavedp.metrics.fld:FLD",
        "closer_to_train": "wavedp.metrics.closer_to_train:CloserToTrain",
        "clip_score": "wavedp.metrics.clip_score:ClipScore",
        "lpips_diversity": "wavedp.metrics.lpips:LPIPSDiversity",
        "lpips_rebuilt": "wavedp.metrics.lpips:LPIPSRebuilt",
    },
}


_outside: set[str] = set()

DEFAULT = {"generator": "spectral_ar", "tokenizer": "scalar", "upscaler": "realsr_df2k_x4"}
"""The methods of a trial that says nothing else."""


@cache
def find(kind: str, name: str) -> Any:
    """The method. Raises UserError for an unknown name, or an object that cannot be imported or is not a method."""
    place = _places(kind).get(name, name if ":" in name else None)
    if place is None:
        raise UserError(f"{kind}={name!r} is not known: {nearest(name, names(kind), other='package.module:Object')}")
    method = imported(f"{kind}={name}", place)
    for member in ("name", "version", "Config"):
        if not hasattr(method, member):
            raise UserError(
                f"{kind}={name} is {place}, which has no {member}: see wavedp.methods for what it must have."
            )
    known = _places(kind)
    if known.get(method.name, place) != place:
        # Two methods of one name would share keys, and with them artifacts and releases.
        raise UserError(f"{kind}={name} is called {method.name!r}, as is {known[method.name]}: give it another name.")
    if ":" in name:
        _outside.add(name.partition(":")[0].partition(".")[0])
    return method


def imported(setting: str, place: str) -> Any:
    """The object at `package.module:Object`, made without arguments if it is a class. setting: what names it, for the
    sentence. Raises UserError if it cannot be imported."""
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{setting} cannot be imported from {place} ({error}): check the name, and that its package is "
            "installed or on PYTHONPATH."
        ) from error
    return found() if isinstance(found, type) else found


def each(kind: str) -> list[tuple[str, Any]]:
    """(name, method) of all that can be imported. A broken method of another package only matters to who asks for it:
    it is left out here, and said once in the log."""
    found = []
    for name in names(kind):
        try:
            found.append((name, find(kind, name)))
        except UserError as error:
            _say_once(str(error))
    return found


@cache
def _say_once(text: str) -> None:
    logging.getLogger("wavedp").warning("%s", text)


def names(kind: str) -> list[str]:
    """Every method of a kind that is known by name, the built-in ones first."""
    return list(_places(kind))


def outside_modules() -> set[str]:
    """The top-level modules of the methods that were found by `package.module:Object` in this process."""
    return set(_outside)


def is_outside(kind: str, name: str) -> bool:
    """True if the method comes from another package."""
    return name not in BUILT_IN[kind]


@cache
def _places(kind: str) -> dict[str, str]:
    """{name: module:Object}. A built-in name cannot be taken by another package."""
    installed = importlib.metadata.entry_points(group=f"wavedp.{kind}s")
    return BUILT_IN[kind] | {entry.name: entry.value for entry in installed if entry.name not in BUILT_IN[kind]}
