"""Pipeline that draws images from a U-Net with a BlurDiffusionScheduler, with or without classes.

Shapes: B images, C channels, H W pixels. The network works on data in [-1, 1]; returned images are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from wavedp.diffusion.blur import check_name
from wavedp.diffusion.scheduler import BlurDiffusionScheduler
from wavedp.errors import UserError

OUTPUTS = ("pil", "np", "pt")


class BlurDiffusionPipeline(DiffusionPipeline):
    """unet: conditioned on class labels if it has num_class_embeds. scheduler: the one it was trained with."""

    model_cpu_offload_seq: Any = "unet"
    unet: Any  # a UNet2DModel; diffusers types its config as a dict, but it has attributes
    scheduler: BlurDiffusionScheduler

    def __init__(self, unet: UNet2DModel, scheduler: BlurDiffusionScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: int | Sequence[int] | Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Generate `batch_size` images.

        class_labels: one per image, or one for all. height, width: pixels, by default the U-Net's sample_size.
        num_inference_steps: 1 to T. generator: one for all, or one per image, which makes each image independent of the
        rest of the batch. output_type: pil (a list), np (B H W C float32 in [0, 1]) or pt (B C H W float32 in [0, 1]).
        Returns ImagePipelineOutput, or with return_dict=False a tuple that holds only the images.
        Raises UserError for invalid labels, sizes, numbers of steps and output types.
        """
        check_name("output_type", output_type, OUTPUTS)
        device = self._execution_device
        height, width = self._size(height, width)
        labels = self._labels(class_labels, batch_size)
        labels = labels if labels is None else labels.to(device)
        self.scheduler.set_timesteps(num_inference_steps)
        # The sample stays float32 whatever the network's precision: the change of basis would lose too much in less.
        shape = (batch_size, self.unet.config.in_channels, height, width)
        images = randn_tensor(shape, generator=generator, device=device) * self.scheduler.init_noise_sigma
        for t in self.progress_bar(self.scheduler.timesteps):
            output = self.unet(images.to(self.unet.dtype), t, class_labels=labels).sample
            images = self.scheduler.step(output, t, images, generator=generator, return_dict=False)[0]
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        native = self.unet.config.sample_size
        rows, columns = native if isinstance(native, list | tuple) else (native, native)
        height, width = height or rows, width or columns
        if height is None or width is None:
            raise UserError("this U-Net has no size of its own (sample_size=null): give height and width.")
        block = 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % block or width % block:
            raise UserError(
                f"images of {height}×{width} do not fit this U-Net: use a height and width divisible by {block}."
            )
        return height, width

    def _labels(self, class_labels: int | Sequence[int] | Tensor | None, batch_size: int) -> Tensor | None:
        n_classes = self.unet.config.num_class_embeds
        if n_classes is None:
            if class_labels is not None:
                raise UserError(
                    "class_labels were given to a U-Net without classes: leave them out, or use another model."
                )
            return None
        if class_labels is None:
            raise UserError(f"this U-Net draws {n_classes} classes: give class_labels, from 0 to {n_classes - 1}.")
        labels = torch.as_tensor(class_labels, dtype=torch.long).flatten()
        if len(labels) not in (1, batch_size):
            raise UserError(f"{len(labels)} class_labels do not fit batch_size={batch_size}: give one for each image.")
        if labels.min() < 0 or labels.max() >= n_classes:
            wrong = int(labels[(labels < 0) | (labels >= n_classes)][0])
            raise UserError(f"class label {wrong} is not one of {n_classes} classes: use 0 to {n_classes - 1}.")
        return labels.expand(batch_size)
