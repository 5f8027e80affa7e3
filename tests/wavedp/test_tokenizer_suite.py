"""The suite that ships for tokenizers: every built-in one passes it, and broken ones fail."""

import pytest
import torch

from wavedp.config import configure
from wavedp.fields import fitting
from wavedp.testing.tokenizers import TokenizerSuite
from wavedp.tokenizers.scalar import Scalar
from wavedp.tokenizers.scalar.model import ScalarTokenizer

SMALL = {
    "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "codes": 8, "detail_codes": 16, "train_steps": 2,
    "train_batch": 4, "coarsest": 4,
}  # fmt: skip


def small(name, **changes):
    values = fitting("tokenizer", {"name": name, **SMALL, **changes})
    return configure("tokenizer", values.pop("name"), **values)


class TestScalar(TokenizerSuite):
    def config(self):
        return small("scalar")


class TestScalarFine(TokenizerSuite):
    """conf/tokenizer/scalar_fine.yaml, but for `coarsest`."""

    def config(self):
        return small(
            "scalar", bins=256, digits=2, detail_bins=101, detail_range=0.5, companding=30.0, detail_digits="apart"
        )  # fmt: skip


class TestSpectral(TokenizerSuite):
    def config(self):
        return small("spectral")


class TestSpectralCausalDecoder(TokenizerSuite):
    """Its encoder lets coarse codes see finer scales."""

    coarse_codes_are_a_prefix = False

    def config(self):
        return small("spectral", scale_causal="decoder")


class TestSpectralWithoutCausality(TokenizerSuite):
    """For whole images only."""

    def config(self):
        return small("spectral", scale_causal="none")


class TestRaster(TokenizerSuite):
    def config(self):
        return small("raster")


class Relative(ScalarTokenizer):
    """Codes count from the batch's mean."""

    def encode(self, images):
        return super().encode((images - images.mean() + 0.5).clamp(0, 1))


class Offset(ScalarTokenizer):
    """Details count on where the approximation ends."""

    def encode(self, images):
        codes = super().encode(images)
        codes[:, self.spans[-1].start :] += self.config.bins
        return codes


class Sparse(ScalarTokenizer):
    """A span is missing."""

    def __init__(self, config, shape):
        super().__init__(config, shape)
        self.spans = self.spans[:1]
        self.length += 1


class Overflowing(ScalarTokenizer):
    """Decodes beyond the range of images."""

    def decode(self, codes):
        return 2 * super().decode(codes)


class Fickle(ScalarTokenizer):
    """Rounds at random."""

    def encode(self, images):
        return super().encode((images + 0.2 * torch.rand_like(images)).clamp(0, 1))


@pytest.mark.parametrize(
    ("model", "noticed", "words"),
    [
        (Relative, "a_code_depends_on_its_own_image_only", "guarantee for one record is void"),
        (Offset, "codes_are_in_the_range_of_their_codebooks", "begin at 0 in each codebook"),
        (Sparse, "length_spans_and_positions_agree", "spans must follow each other from 0 to the length"),
        (Overflowing, "any_codes_decode_to_images", "end with .clamp"),
        (Fickle, "it_repeats_itself_and_writes_into_nothing", "built again gives other codes"),
    ],
)
def test_a_fault_is_noticed_and_named(model, noticed, words, monkeypatch):
    class Suite(TokenizerSuite):
        def config(self):
            return small("scalar")

    def build(self, config, shape, level, weights):
        return model(config, (shape[0], shape[1] >> level, shape[2] >> level))

    monkeypatch.setattr(Scalar, "build", build)
    with pytest.raises(AssertionError) as caught:
        getattr(Suite(), f"test_{noticed}")()
    assert words in str(caught.value)
