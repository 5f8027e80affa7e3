"""Tests that every tokenizer must pass, for built-in ones and your own.

Subclass `TokenizerSuite` in a test file, and pytest runs its tests on what `config` returns:

    from wavedp.config import configure
    from wavedp.testing.tokenizers import TokenizerSuite

    class TestMine(TokenizerSuite):
        def config(self):
            return configure("tokenizer", "my_package.mine:Mine", train_steps=2)

One that trains learns from a few procedural images. Every failure says what broke and where to look.

Shapes: B images, C channels (1 or 3), h w pixels of the coarse image, L tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from wavedp import data, registry, tokenizers
from wavedp.config import DataConfig, TrialConfig
from wavedp.methods import Trains, Weights
from wavedp.progress import silent
from wavedp.testing import declarations
from wavedp.tokenizers import Tokenizer
from wavedp.wavelets import coarse


class TokenizerSuite:
    """A subclass gives `config`.

    size: of the square full images. channels: of them. other: values to change fields of the Config to, by field, where
    `content` needs another than the suite's own. coarse_codes_are_a_prefix: whether the codes of a coarse image are
    the first ones of the whole image's, for a tokenizer that all levels share.
    """

    size: int = 16
    channels: Sequence[int] = (1, 3)
    other: ClassVar[Mapping[str, Any]] = {}
    coarse_codes_are_a_prefix: bool = True

    _kept: ClassVar[dict[Any, Any]]

    def __init_subclass__(cls) -> None:
        cls._kept = {}

    @classmethod
    def teardown_class(cls) -> None:
        """Lets go of what the class's tests shared: the weights."""
        cls._kept.clear()

    def config(self) -> Any:
        """The tokenizer's configuration, the same at every call. One that trains should train for a few steps."""
        raise NotImplementedError("a subclass of TokenizerSuite returns its tokenizer's configuration from config()")

    # The declaration

    def test_its_config_is_frozen_and_every_field_has_a_class_and_a_default(self) -> None:
        declarations.check_config(self._method().Config)

    def test_its_content_is_json_and_moves_with_every_field_that_changes_results(self) -> None:
        declarations.check_content(self._method(), self.config(), self.other)

    def test_it_needs_only_what_a_trial_has(self) -> None:
        for level in self._levels():
            trial = self._trial(1, level)
            declarations.check_needs(self._method().needs(trial), trial, inputs=())

    def test_planning_imports_no_torch(self) -> None:
        declarations.check_planning("tokenizer", self._trial(1, 0))

    def test_it_accepts_its_trials(self) -> None:
        warned = self._method().check(self._trial(1, 0))
        sentences = isinstance(warned, list) and all(isinstance(item, str) for item in warned)
        assert sentences, f"check() returned {warned!r}: return a list of sentences that warn; [] where there are none"

    # Its sequence

    def test_length_spans_and_positions_agree(self) -> None:
        for channels, level, made in self._made():
            starts, stops = [span.start for span in made.spans], [span.stop for span in made.spans]
            joined = starts == [0, *stops[:-1]] and stops[-1] == made.length
            assert joined and all(a < b for a, b in zip(starts, stops, strict=True)), (  # noqa: PT018
                f"at level {level} the spans are {made.spans} and the length is {made.length}: spans must follow each "
                "other from 0 to the length"
            )
            sizes: dict[int, int] = {}
            for span in made.spans:
                assert span.size == sizes.setdefault(span.codebook, span.size) and span.size > 1, (  # noqa: PT018
                    f"codebook {span.codebook} has {span.size} and {sizes[span.codebook]} codes: one size for each, "
                    "2 or more"
                )
            shape = tuple(made.positions.shape)
            assert shape == (made.length, 3), (
                f"positions are {shape}: one (scale, row, column) for each of {made.length}"
            )
            assert made.positions.dtype == torch.int64, f"positions are {made.positions.dtype}: use int64"
            assert made.positions.min() >= 0, "positions are negative: rows and columns count from 0"
            scales = made.positions[:, 0]
            assert scales[0] == 0 and (scales.diff() >= 0).all(), (  # noqa: PT018
                "scales must begin at 0 and never fall: coarse tokens come first, finer ones are drawn given them"
            )
            times = made.positions.unique(dim=0, return_counts=True)[1].max()
            assert times <= channels, (
                f"a place on a scale occurs {int(times)} times in positions: at most once a channel, of {channels}"
            )

    def test_an_untrained_one_has_the_same_sequence(self) -> None:
        for channels, level, made in self._made():
            other = self._method().untrained(self.config(), self._shape(channels), level)
            same = other.length == made.length and other.spans == made.spans
            assert same and torch.equal(other.positions, made.positions), (  # noqa: PT018
                "untrained() has other tokens than the trained tokenizer, by which plans are checked"
            )

    # Codes

    def test_codes_are_in_the_range_of_their_codebooks(self) -> None:
        for channels, level, made in self._made():
            codes = made.encode(self._images(channels, level))
            wanted = (6, made.length)
            assert tuple(codes.shape) == wanted, f"6 images became codes of {tuple(codes.shape)}, not {wanted}"
            assert codes.dtype == torch.int64, f"codes are {codes.dtype}: use int64"
            for span in made.spans:
                part = codes[:, span.start : span.stop]
                assert 0 <= int(part.min()) <= int(part.max()) < span.size, (
                    f"codes {span.start} to {span.stop - 1} are in {int(part.min())} to {int(part.max())}: they must "
                    f"be in 0 to {span.size - 1}, and begin at 0 in each codebook"
                )

    def test_any_codes_decode_to_images(self) -> None:
        for channels, level, made in self._made():
            images = self._images(channels, level)
            generator = torch.Generator().manual_seed(0)
            drawn = torch.cat(
                [torch.randint(s.size, (6, s.stop - s.start), generator=generator) for s in made.spans], dim=1
            )
            for codes, named in ((made.encode(images), "encode's"), (drawn, "random")):
                decoded = made.decode(codes)
                assert decoded.shape == images.shape, (
                    f"{named} codes decoded to {tuple(decoded.shape)}, not the coarse image's {tuple(images.shape)}"
                )
                assert decoded.dtype == torch.float32, f"decode gave {decoded.dtype}: end with .float()"
                assert decoded.isfinite().all(), f"{named} codes decoded to NaN or infinity"
                low, high = float(decoded.min()), float(decoded.max())
                assert 0 <= low <= high <= 1, f"{named} codes decoded to [{low:.3f}, {high:.3f}]: end with .clamp(0, 1)"

    def test_a_code_depends_on_its_own_image_only(self) -> None:
        """A record's tokens must be a function of the record: one image is one record."""
        for channels, level, made in self._made():
            images = self._images(channels, level)
            codes = made.encode(images)
            for i in range(len(images)):
                assert torch.equal(made.encode(images[i : i + 1])[0], codes[i]), (
                    f"image {i} of a batch has other codes in a batch of one: encode() must look at each image by "
                    "itself, or a private fit's guarantee for one record is void; look for statistics over the batch, "
                    "and batch norm in training mode"
                )

    def test_it_repeats_itself_and_writes_into_nothing(self) -> None:
        for channels, level, made in self._made():
            images = self._images(channels, level)
            given = images.clone()
            codes = made.encode(given)
            assert torch.equal(given, images), "encode() wrote into its images: look for methods that end in _"
            torch.rand(1)  # moves the global generator, which must not matter
            again = self._build(channels, level)
            assert torch.equal(again.encode(images), codes), "the same tokenizer built again gives other codes"
            kept = codes.clone()
            assert torch.equal(again.decode(codes), made.decode(codes)), "the same codes decoded to other images"
            assert torch.equal(codes, kept), "decode() wrote into its codes: look for methods that end in _"

    def test_coarse_codes_are_the_first_of_the_whole_image_s(self) -> None:
        """For levels that share a tokenizer: a generator pretrained on all scales goes on with the coarse ones."""
        method, config = self._method(), self.config()
        shared = all(method.training_level(level) in (None, 0) for level in self._levels())
        if not shared:
            return
        for channels in self.channels:
            whole, images = self._build(channels, 0), self._images(channels, 0)
            codes = whole.encode(images)
            for level in self._levels():
                part = tokenizers.untrained(config, self._shape(channels), level)
                same = torch.equal(part.positions, whole.positions[: part.length])
                same = same and [s.size for s in part.spans] == [s.size for s in whole.spans[: len(part.spans)]]
                assert same, f"the tokens of level {level} are not the first of the whole image's: order them by scale"
                if self.coarse_codes_are_a_prefix:
                    found = self._build(channels, level).encode(coarse(images, level))
                    assert torch.equal(found, codes[:, : part.length]), (
                        f"the codes of the coarse image of level {level} are not the first of the whole image's: a "
                        "code of a scale may see that scale and coarser ones only"
                    )

    # Training

    def test_training_is_a_function_of_its_configuration(self) -> None:
        method = self._method()
        if not isinstance(method, Trains):
            return
        level = self._levels()[-1]
        once, again = self._weights(1, level), self._train(1, level)
        assert once.keys() == again.keys(), "training again gave weights of other names"
        for name, value in once.items():
            assert torch.equal(again[name], value), (
                f"training again gave other weights ({name}): seed weights and batches by derive_seed(public_seed, …)"
            )

    # What the tests share

    def _method(self) -> Any:
        return registry.find("tokenizer", self.config().name)

    def _levels(self) -> range:
        return self._method().levels(self.config(), self._shape(1))

    def _shape(self, channels: int) -> tuple[int, int, int]:
        return (channels, self.size, self.size)

    def _trial(self, channels: int, level: int) -> TrialConfig:
        images = DataConfig(name="procedural", size=self.size, n_records=32, channels=channels)
        public = dataclasses.replace(images, split="public", n_records=64)
        return TrialConfig(
            level=level,
            data=images,
            public=public,
            tokenizer=self.config(),
            generator="spectral_ar",
            upscaler="nearest",
        )

    def _images(self, channels: int, level: int) -> Tensor:
        shown = data.load(self._trial(channels, level).data, "train").images[:6]
        return coarse(torch.tensor(shown).float() / 255, level)

    def _train(self, channels: int, level: int) -> Weights:
        trial, method = self._trial(channels, level), self._method()
        trained = method.training_level(level)
        if not isinstance(method, Trains) or trained is None:
            return {}
        images = torch.tensor(data.load(trial.public, "train").images).float() / 255  # type: ignore[arg-type]
        return method.train(trial, coarse(images, trained), "cpu", silent, None)[0]

    def _weights(self, channels: int, level: int) -> Weights:
        """One training for each level of public images."""
        place = (channels, self._method().training_level(level))
        if place not in self._kept:
            self._kept[place] = self._train(channels, level)
        return self._kept[place]

    def _build(self, channels: int, level: int) -> Tokenizer:
        return tokenizers.build(self.config(), self._shape(channels), level, self._weights(channels, level))

    def _made(self) -> list[tuple[int, int, Tokenizer]]:
        """Channels, level and tokenizer."""
        return [(c, level, self._build(c, level)) for c in self.channels for level in self._levels()]
