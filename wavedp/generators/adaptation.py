"""Selection of the weights that a private fit trains.

    all         all weights
    attention   keys, queries, values and outputs of attention, and the condition's embedding
    lora        W + 2 U D with U D of low rank, for every linear layer of the transformer's blocks, or of the U-Net's
                attention (arXiv 2106.09685), and the condition's embedding

The condition's embedding is always trained, because the sensitive classes differ from the public ones. `merge` adds the
low-rank updates to their layers, so that released weights have the layout of the public ones. peft is not used: it
requires transformers and accelerate for these few lines.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from wavedp.config import PrivacyConfig
from wavedp.errors import UserError

SCALE = 2.0  # α / r, as in the public DP fine-tuning of VAR (sprintml/finetuning_var_dp: r = 16, α = 32)


class LowRank(nn.Module):
    """Frozen linear layer with a trainable update of rank r that is initially zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / math.sqrt(base.in_features))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + SCALE * self.up(self.down(x))


def adapt(model: nn.Module, privacy: PrivacyConfig, seed: int) -> None:
    """`train_only` what the section privacy says."""
    train_only(model, privacy.trained, privacy.lora_rank if privacy.trained == "lora" else 0, seed)


def train_only(model: nn.Module, trained: Literal["all", "attention", "lora"], rank: int, seed: int) -> None:
    """Freeze the weights that are not trained, and add low-rank updates, in place.

    model: has `condition`; its attention layers are named as in SpectralTransformer or in diffusers. rank: of the
    updates. Raises UserError for a rank below 1 or not below both sides of a layer.
    """
    if trained == "all":
        return
    model.requires_grad_(False)
    model.condition.requires_grad_(True)
    torch.manual_seed(seed)
    for path, parent in list(model.named_modules()):
        of_block, of_attention = path.startswith("blocks."), ".attentions." in path
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.Linear) or not (of_block or of_attention):
                continue
            if trained == "attention":
                layer.requires_grad_(of_attention or name in ("qkv", "out", "wqkv", "wo"))
            elif not 1 <= rank < min(layer.in_features, layer.out_features):
                raise UserError(
                    f"lora_rank={rank} is not a low rank of a {layer.out_features}×{layer.in_features} layer: "
                    f"use 1 to {min(layer.in_features, layer.out_features) - 1}, or privacy.trained=all."
                )
            else:
                parent.register_module(name, LowRank(layer, rank).to(layer.weight.device))


def merge(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with every low-rank update added to its layer, under the names from before `adapt`."""
    merged = {}
    for name, value in weights.items():
        layer, _, last = name.rpartition(".base.")
        if layer and last == "weight":
            value = value + SCALE * weights[f"{layer}.up.weight"] @ weights[f"{layer}.down.weight"]
        if layer:
            merged[f"{layer}.{last}"] = value
        elif (
            not name.endswith((".down.weight", ".up.weight")) or f"{name.rsplit('.', 2)[0]}.base.weight" not in weights
        ):
            merged[name] = value
    return merged
