"""An upscaler in one file: bicubic, plus some of what going down and up once more would lose."""

from dataclasses import dataclass

from wavedp.fields import result
from wavedp.upscalers import UpscalerMethod


@dataclass(frozen=True)
class SharpenedConfig:
    """amount: of what is added."""

    name: str = result("sharpened")
    amount: float = result(0.5)


class Sharpened(UpscalerMethod):
    """The declaration."""

    name, Config = "sharpened", SharpenedConfig

    def load(self, config, device):
        """The model."""
        return SharpenedModel(config.amount)


class SharpenedModel:
    """The model."""

    name = "sharpened"

    def __init__(self, amount):
        self.amount = amount

    def upscale(self, images, factor):
        """B C h w -> B C h*factor w*factor."""
        from wavedp.resize import resize

        size = (images.shape[-2] * factor, images.shape[-1] * factor)
        large = resize(images, size, "bicubic")
        blurred = resize(resize(large, images.shape[-2:], "bilinear"), size, "bilinear")
        return (large + self.amount * (large - blurred)).clamp(0, 1)

    def bridge(self, factor):
        """Any factor fits."""
        return None
