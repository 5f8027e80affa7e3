"""A dataset in one file: stripes of two directions, computed, so that it depends on no file."""

import numpy as np

from wavedp.data.dataset import square_shape


class Stripes:
    """See wavedp.data.Source for what a dataset must answer."""

    DIVISIONS = ("official",)

    def shape(self, config):
        """C, H, W."""
        return square_shape(config)

    def classes(self, config):
        """Directions."""
        return ("across", "down")

    def count(self, config, split):
        """As many as the config says for train, and a quarter of it for the others."""
        return config.n_records if split == "train" else max(config.n_records // 4, 1)

    def has_captions(self, config):
        """None."""
        return False

    def files(self, config):
        """None."""
        return []

    def read(self, config, split, n):
        """The first n records."""
        rng = np.random.default_rng({"train": 1, "val": 2, "test": 3}[split])
        count = self.count(config, split)
        phase, period = rng.integers(0, 8, count)[:n], rng.integers(3, 9, count)[:n]
        labels = np.arange(n, dtype=np.int64) % 2
        position = np.arange(config.size)
        bright = (position[None] + phase[:, None]) % period[:, None] < period[:, None] // 2  # n S
        images = np.broadcast_to(bright[:, None, :, None], (n, config.channels, config.size, config.size)).copy()
        images[labels == 1] = images[labels == 1].transpose(0, 1, 3, 2)
        grain = rng.integers(0, 20, images.shape)  # without it, most stripes would be there several times
        return (images * 200 + 20 + grain).astype(np.uint8), labels, None
