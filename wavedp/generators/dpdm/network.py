"""The U-Net that F is in D(x; σ) = skip x + out F(in x; noise) (wavedp.diffusion.edm).

Shapes: B records, C channels, h w pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from wavedp.generators.conditions import Condition
from wavedp.generators.dpdm import EDMConfig


class EDMUNet(nn.Module):
    """Like the NCSN++ of DPDM (arXiv 2210.09929) and DPImageBench, of diffusers' parts: residual blocks of one width,
    which halve and double the image too; GroupNorm in groups of four channels, so that nothing mixes records; a
    positional embedding of the noise, to which the condition adds; attention of one head at sides up to
    `attention_side` and in the middle. Every residual branch and the output begin at 0, as there.

    forward(noisy B C h w, noise B float32, conditions) -> B C h w. It halves the image `halvings` times, or as often as
    the sides allow.
    """

    def __init__(self, shape: tuple[int, int, int], condition: Condition, config: EDMConfig) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # slow to import, and needed only here

        channels, height, width = shape
        sides = [max(height, width)]
        while len(sides) <= config.halvings and height % 2 ** len(sides) == 0 and width % 2 ** len(sides) == 0:
            sides.append(sides[0] // 2 ** len(sides))
        attends = [side <= config.attention_side for side in sides]
        self.condition = condition
        self.unet = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            layers_per_block=config.layers,
            block_out_channels=(config.channels,) * len(sides),
            down_block_types=tuple("AttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
            up_block_types=tuple("AttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
            downsample_type="resnet",
            upsample_type="resnet",
            time_embedding_dim=embedding_width(config),
            norm_num_groups=config.channels // 4,
            attention_head_dim=config.channels,  # one head
            class_embed_type="identity",
        )
        for name, layer in self.named_modules():
            if name.endswith(("conv2", "conv_out", "to_out.0")):
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            # Attention returns channels-last images, for which convolutions get zero per-record gradients in Opacus.
            if type(layer).__name__ == "Attention":
                layer.register_forward_hook(lambda layer, inputs, output: output.contiguous())

    def forward(self, noisy: Tensor, noise: Tensor, conditions: Tensor) -> Tensor:
        found = self.unet(noisy, noise, class_labels=self.condition(conditions)[:, 0])  # type: ignore[operator]
        return found.sample


def embedding_width(config: EDMConfig) -> int:
    """The width of the noise's embedding and of the condition's: twice the network's, as with NCSN++'s multiplier 2."""
    return 2 * config.channels
