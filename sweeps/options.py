"""The options of a group axis, composed as the command that chooses one would compose it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from sweeps.overrides import parsed
from wavedp import registry
from wavedp.config import METHODS, with_absolute_paths
from wavedp.errors import UserError, nearest


def option_loader(overrides: Sequence[str], base: dict[str, Any]) -> Callable[[str, Any], Any]:
    """load(group, option) for sweeps.plan: what the same command composes to with this option of the group, so that a
    preset's and a sweep file's values hold for it too."""
    config_name = HydraConfig.get().job.config_name if HydraConfig.initialized() else None

    def composed(group: str, choice: list[str]) -> Any:
        chosen = {_choice_of(group), f"{group}.name"}
        places = {text: _place(text) for text in overrides}
        others = [text for text, place in places.items() if place not in chosen and not place.startswith("sweep.")]
        node = hydra.compose(config_name or "config", overrides=[*others, *choice])
        values = OmegaConf.to_container(node, resolve=True)
        assert isinstance(values, dict)
        return with_absolute_paths({**base, group: values[group]})[group]

    def load(group: str, option: str | None) -> Any:
        if option is None and group == "public":
            return None
        try:
            return composed(group, [f"{_choice_of(group)}={option}"])
        except MissingConfigException as error:
            if option and group in METHODS and (":" in option or option in registry.names(group)):
                return composed(group, [f"~{group}", f"++{group}.name={option}"])  # a method that has no yaml
            raise no_option(error, [f"sweep axis {group}={option}"]) from None

    return load


def no_option(error: MissingConfigException, overrides: Sequence[str]) -> UserError:
    """What to say of an option that a group does not have. overrides: what was typed, where it may be found."""
    group, _, option = (error.missing_cfg_file or "").partition("/")
    written = next((text.lstrip("+") for text in overrides if text.endswith(f"={option}")), f"{group}={option}")
    none = " (public=null is none)" if written.startswith(("data@public=", "public=")) else ""
    return UserError(f"{written} is not an option{none}: {nearest(option, error.options or ())}")


def _choice_of(group: str) -> str:
    return "data@public" if group == "public" else group


def _place(text: str) -> str:
    each = parsed(text)
    return f"{each.key_or_group}@{each.package}" if each.package else each.key_or_group
