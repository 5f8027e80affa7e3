"""U-Net of generator=blur_diffusion and upscaler=blur_diffusion.

Shapes: B records, C channels, h w pixels, T diffusion steps.
"""

from __future__ import annotations

from torch import Tensor, nn

from wavedp.config import DiffusionConfig
from wavedp.generators.conditions import Condition


class Denoiser(nn.Module):
    """diffusers' U-Net with GroupNorm only, so that nothing mixes records; the condition adds to the time embedding.

    forward(noisy B C h w in about [-1, 1], timesteps B int64 in 0..T-1, conditions) -> B C h w, the predicted v.
    It halves the image as often as the sides allow, at most twice; attention is in the middle block, or `everywhere`.
    """

    def __init__(
        self, shape: tuple[int, int, int], condition: Condition, config: DiffusionConfig, everywhere: bool = False
    ) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # slow to import, and needed only here

        channels, height, width = shape
        levels = 1
        while levels < 3 and height % 2**levels == 0 and width % 2**levels == 0:
            levels += 1
        self.condition = condition
        self.unet = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            layers_per_block=config.layers,
            block_out_channels=tuple(config.channels * min(2**i, 2) for i in range(levels)),
            down_block_types=("AttnDownBlock2D" if everywhere else "DownBlock2D",) * levels,
            up_block_types=("AttnUpBlock2D" if everywhere else "UpBlock2D",) * levels,
            norm_num_groups=8,
            attention_head_dim=16,
            class_embed_type="identity",
        )
        # Attention returns channels-last images, for which convolutions get zero per-record gradients in Opacus 1.6.
        for path, layer in self.named_modules():
            if path.rpartition(".")[0].endswith("attentions"):
                layer.register_forward_hook(lambda layer, inputs, output: output.contiguous())

    def forward(self, noisy: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
        found = self.unet(noisy, timesteps, class_labels=self.condition(conditions)[:, 0])  # type: ignore[operator]
        return found.sample
