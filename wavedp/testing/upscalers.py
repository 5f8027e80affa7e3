"""Tests that every upscaler must pass, for built-in ones and your own.

Subclass `UpscalerSuite` in a test file, and pytest runs its tests on what `config` returns:

    from wavedp.config import configure
    from wavedp.testing.upscalers import UpscalerSuite

    class TestSharpened(UpscalerSuite):
        def config(self):
            return configure("upscaler", "my_package.sharpened:Sharpened", amount=0.3)

In a notebook, `check_upscaler(model, factor)` checks a loaded model. Every failure says what broke and where to look.

Shapes: B images, C channels (1 or 3), h w pixels of the coarse image.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, get_args, get_type_hints

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavedp import chain, data, methods, registry
from wavedp.config import DataConfig, PrivacyConfig, SamplingConfig, TrialConfig, from_dict, to_dict
from wavedp.errors import UserError
from wavedp.generators import FitSettings, PrivateFit
from wavedp.methods import Inputs, Needs, Trains, Weights, canonical, variant
from wavedp.privacy import accounting
from wavedp.progress import silent
from wavedp.testing.declarations import another, check_config
from wavedp.upscalers import Origin, Upscaler

ROUNDING = 1e-5  # largest difference between results that are the same up to the order of floating-point sums
CONSTANTS = (0.0, 0.25, 1.0)


class UpscalerSuite:
    """A subclass gives `config`. `trial` and `inputs` are for upscalers that are built from a trial.

    factors: powers of two. channels: of the images. constant_tolerance: largest deviation from a constant input.
    block_mean_tolerance: largest mean absolute difference, of a channel, between the coarse image and the output's
    block means. other: values to change fields to, by field, where adding 1 gives one that the Config refuses.
    """

    factors: Sequence[int] = (1, 2, 4)
    channels: Sequence[int] = (1, 3)
    constant_tolerance = 0.1
    block_mean_tolerance = 0.08
    other: ClassVar[Mapping[str, Any]] = {}

    _kept: ClassVar[dict[Any, Any]]

    def __init_subclass__(cls) -> None:
        cls._kept = {}

    @classmethod
    def teardown_class(cls) -> None:
        """Lets go of what the class's tests shared: weights, models and what they drew."""
        cls._kept.clear()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Each test runs for every factor and number of channels that its arguments ask for."""
        for argument, values in (("factor", self.factors), ("channels", self.channels)):
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, values)

    def config(self) -> Any:
        """The upscaler's configuration, the same at every call. One that trains should train for a few steps."""
        raise NotImplementedError("a subclass of UpscalerSuite returns its upscaler's configuration from config()")

    def trial(self, channels: int, factor: int) -> TrialConfig:
        """A trial that uses it, with public images of this many channels. Overridden where it needs more."""
        images = DataConfig(name="procedural", size=16, n_records=64, channels=channels)
        public = dataclasses.replace(images, split="public")
        level = factor.bit_length() - 1
        return TrialConfig(level=level, data=images, public=public, generator="real", upscaler=self.config())

    def inputs(self, trial: TrialConfig) -> Inputs:
        """Weights that earlier stages make for `build`: those of its own training, and of its private fit if the trial
        has one. One set serves all factors."""
        method = methods.upscaler(trial)
        if not isinstance(method, Trains) or trial.public is None:
            return {}
        images = torch.tensor(data.load(trial.public, "train").images).float() / 255
        public = method.train(canonical(trial), images, "cpu", silent, None)[0]
        if methods.upscaler_privacy(trial) is None:
            return {"upscaler": public}
        return {"upscaler": public, "upscaler_fit": self._private_fit(trial, public).weights}

    def model(self, channels: int, factor: int) -> Upscaler:
        """The upscaler as the stage `upscale` builds it."""
        trial = canonical(self.trial(channels, factor))
        return methods.upscaler(trial).build(trial, self._weights(channels, factor), "cpu")

    def scenes(self, channels: int, factor: int) -> Tensor:
        """Coarse images 3 C h w: of the trial's size for upscalers that are built from a trial, else 9×14."""
        shape = chain.coarse_shape(self.trial(channels, factor)) if self._is_bound() else (channels, 9, 14)
        return coarse_scenes(3, *shape)

    # The declaration

    def test_it_says_its_name_version_and_origin(self) -> None:
        method, config = self._method(), self.config()
        named = isinstance(method.name, str) and method.name
        assert named, f"{_class(method)}.name={method.name!r} must be text: it enters every key"
        versioned = isinstance(method.version, int) and method.version >= 1
        assert versioned, f"{_class(method)}.version={method.version!r}: begin at 1, and add 1 when results change"
        assert isinstance(config, method.Config), (
            f"config() returns a {_class(config)}, not the {method.Config.__name__} that {_class(method)}.Config says"
        )
        assert isinstance(method.origin, Origin), (
            f"{_class(method)}.origin must be a wavedp.upscalers.Origin: users must know what the model was trained on"
        )
        for word in (method.factor, method.found()):
            assert isinstance(word, str), f"{_class(method)}.factor and found() must be text: they are table cells"

    def test_its_config_is_frozen_and_every_field_has_a_class_and_a_default(self) -> None:
        check_config(self._method().Config)

    def test_it_needs_only_what_a_trial_has(self) -> None:
        trial = self._trial()
        needs = self._method().needs(trial)
        assert isinstance(needs, Needs), f"needs() returned {needs!r}: return a wavedp.methods.Needs"
        for field in needs.fields:
            head, _, last = field.partition(".")
            section = getattr(trial, head, None)
            known = head == "tokenizer" or (hasattr(section, last) if last not in ("", "*") else hasattr(trial, head))
            assert known, f"needs().fields names {field!r}, which no trial has: see the sections in wavedp.config"
        unknown = set(needs.inputs) - set(chain.NAMES)
        assert not unknown, f"needs().inputs names {sorted(unknown)}: stages are {', '.join(chain.NAMES)}"

    def test_planning_imports_no_torch(self) -> None:
        """In another process, which finds the same key."""
        trial = self._trial()
        found = json.loads(_elsewhere(PLAN, json.dumps(to_dict(trial))))
        for when, named in (("importing", "importing the declaration"), ("planning", "needs() or content()")):
            assert not found[when], (
                f"{named} imported torch, and a plan of hundreds of trials must not: in the declaration's module, "
                "import torch, and what imports it, inside `load`, `build` or `train`"
            )
        assert found["key"] == _key(trial), (
            "another process found another key: content() must depend on the configuration and the content of files "
            "only, not on paths, times, hash() or the order of a set"
        )

    def test_it_accepts_its_trials(self, channels: int, factor: int) -> None:
        trial = self.trial(channels, factor)
        method = methods.upscaler(trial)
        warned = method.check(trial)
        sentences = isinstance(warned, list) and all(isinstance(item, str) for item in warned)
        assert sentences, f"check() returned {warned!r}: return a list of sentences that warn; [] where there are none"
        method.check_models(trial)

    # Its keys

    def test_its_content_is_json(self) -> None:
        method, config, trial = self._method(), self.config(), self._trial()
        contents = {"content()": method.content(config)}
        if isinstance(method, Trains):
            contents["training_content()"] = list(method.training_content(trial))  # type: ignore[attr-defined]
        for named, content in contents.items():
            try:
                same = json.loads(json.dumps(content, allow_nan=False)) == content
            except (TypeError, ValueError) as error:
                raise AssertionError(f"{named} is not JSON ({error}): use text, numbers, lists and dicts") from error
            assert same, f"{named} does not survive JSON: use lists instead of tuples, and text for the names in dicts"
        assert contents["content()"].get("name") == method.name, (
            f"content() must hold {{'name': {method.name!r}}}: begin with super().content(config)"
        )

    def test_its_key_moves_with_every_field_that_changes_results(self) -> None:
        for item in dataclasses.fields(self.config()):
            if item.name == "name" or item.metadata["class"] == "performance":
                continue
            conditions = item.metadata.get("read_if") or {}
            before = variant("upscaler", self.config(), **conditions)
            after = variant("upscaler", before, **{item.name: self._other(before, item.name)})
            keys = [_key(dataclasses.replace(self._trial(), upscaler=config)) for config in (before, after)]
            assert keys[0] != keys[1], (
                f"upscaler.{item.name} is a {item.metadata['class'].upper()} field and does not move the key: "
                "content() must hold it, or training_content() where only its training reads it"
            )

    def test_its_key_moves_with_every_shared_field_that_it_reads(self) -> None:
        trial = self._trial()
        for field in self._method().needs(trial).fields:
            head, _, last = field.partition(".")
            if last in ("", "*"):
                continue
            section = getattr(trial, head)
            item = next(item for item in dataclasses.fields(section) if item.name == last)
            section = dataclasses.replace(section, **(item.metadata.get("read_if") or {}))
            other = dataclasses.replace(section, **{last: another(section, last)})
            if other == section:  # it has one value only
                continue
            before, after = (dataclasses.replace(trial, **{head: each}) for each in (section, other))
            assert _key(before) != _key(after), (
                f"needs() says that {field} is read, and it does not move the key: training_content() must hold it "
                "(wavedp.methods.section), for an upscaler that trains; others cannot read shared fields"
            )

    def test_its_key_stays_with_performance_fields(self) -> None:
        config = self.config()
        for item in dataclasses.fields(config):
            # The content of files may enter the key, so that another path moves it.
            if item.metadata["class"] != "performance" or str in _types(config, item.name):
                continue
            changed = variant("upscaler", config, **{item.name: self._other(config, item.name)})
            assert _key(self._trial()) == _key(dataclasses.replace(self._trial(), upscaler=changed)), (
                f"upscaler.{item.name} is a PERFORMANCE field and moves the key: leave it out of content(), or make it "
                "a RESULT field if it changes results by more than rounding"
            )

    # Its private fit

    def test_its_private_fit_runs_what_was_planned_within_its_share(self) -> None:
        """For an upscaler with the ability `FitsPrivately`, where its Config asks for a fit."""
        trial = canonical(self._trial())
        settings = methods.upscaler_privacy(trial)
        if settings is None:
            return
        whole, planned = trial.privacy, chain.mechanisms(trial, "upscaler_fit")
        assert settings.epsilon < whole.epsilon, "fit_privacy() must leave a part of ε to the generator"
        delta = accounting.delta(whole, chain.n_records(trial.data, "train"))
        assert delta == accounting.delta(settings, chain.n_records(trial.data, "train")), "δ must be the trial's own"
        spent = accounting.compose(list(planned.values()), delta)
        assert spent <= settings.epsilon, f"{planned} spends {spent:.4g}, more than its share of {settings.epsilon:g}"
        public = self._weights(self.channels[0], self.factors[-1])["upscaler"]
        fit = self._private_fit(trial, public)
        assert fit.mechanisms == planned, f"fit_private() ran {fit.mechanisms} where {planned} was planned"
        assert fit.releases.keys() == planned.keys(), "fit_private() must give the noise id of each mechanism"
        assert fit.weights.keys() == public.keys(), "fit_private() must return the weights that `build` can read"
        assert any(not torch.equal(fit.weights[name], public[name]) for name in public), "the fit changed no weight"

    def test_its_private_fit_depends_on_what_its_key_holds(self) -> None:
        """One release serves trials that differ in the level, the generator or the sampling."""
        trial = self._trial()
        if methods.upscaler_privacy(trial) is None:
            return
        key = chain.keys(trial)["upscaler_fit"]
        same: list[dict[str, Any]] = [{"generator": "public"}, {"level": 1}, {"sampling": SamplingConfig(n=7, seed=1)}]
        for changes in same:
            other = chain.keys(dataclasses.replace(trial, **changes))["upscaler_fit"]
            assert other == key, f"the fit's key moves with {changes}, so that it would be released twice"
        for changes in ({"seed": 1}, {"privacy": PrivacyConfig(epsilon=3.0)}):
            other = chain.keys(dataclasses.replace(trial, **changes))["upscaler_fit"]
            assert other != key, f"the fit's key stays with {changes}, which make another release"

    # What it draws

    def test_its_model_has_its_name(self) -> None:
        model, name = self._model(self.channels[0], self.factors[-1]), self._method().name
        assert model.name == name, f"the model is called {model.name!r} and the method {name!r}: give both one name"

    def test_bridge_is_none_or_text(self, factor: int) -> None:
        check_bridge(self._model(self.channels[0], factor), factor)

    def test_shape_type_and_range(self, channels: int, factor: int) -> None:
        check_output(*self._drawing(channels, factor), factor)

    def test_weights_that_are_not_finite_make_no_images(self) -> None:
        """Of earlier stages; a file's are checked before any work, on a black image."""
        channels, factor = self.channels[0], self.factors[-1]
        trial, weights = canonical(self.trial(channels, factor)), self._weights(channels, factor)
        if not any(x.is_floating_point() for own in weights.values() for x in own.values()):
            return
        broken = {
            stage: {name: x * math.nan if x.is_floating_point() else x for name, x in own.items()}
            for stage, own in weights.items()
        }
        try:
            images = self._method().build(trial, broken, "cpu").upscale(self.scenes(channels, factor), factor)
        except UserError:
            return
        assert not images.isfinite().all(), (
            "weights of NaN made images like any others: refuse what is not finite before clipping (wavedp.finite), or "
            "let it pass on to the images, which the stage refuses"
        )

    def test_factor_1_changes_nothing(self, channels: int) -> None:
        if 1 not in self.factors:
            return
        check_unchanged(*self._drawing(channels, 1))

    def test_it_does_not_write_into_its_input_and_repeats_itself(self, channels: int, factor: int) -> None:
        check_repeats(self._model(channels, factor), *self._drawing(channels, factor), factor)

    def test_an_image_depends_on_itself_only(self, channels: int, factor: int) -> None:
        check_independence(self._model(channels, factor), *self._drawing(channels, factor), factor)

    def test_constants_stay_constant(self, channels: int, factor: int) -> None:
        shape = self.scenes(channels, factor).shape[1:]
        check_constants(self._model(channels, factor), shape, factor, self.constant_tolerance)

    def test_block_means_stay_close_to_the_coarse_image(self, channels: int, factor: int) -> None:
        check_block_means(*self._drawing(channels, factor), factor, self.block_mean_tolerance)

    def test_a_second_load_gives_the_same(self) -> None:
        channels, factor = self.channels[0], self.factors[-1]
        images, output = self._drawing(channels, factor)
        torch.rand(1)  # moves the global generator, which must not matter
        again = self.model(channels, factor).upscale(images.clone(), factor)
        _same(
            again,
            output,
            "a second load of the upscaler gave another output: load() must set every weight and seed, and noise must "
            "come from wavedp.seeds.generator_of(image), not from the global generator",
        )

    def test_another_process_gives_the_same(self) -> None:
        channels, factor = self.channels[0], self.factors[-1]
        images, output = self._drawing(channels, factor)
        with TemporaryDirectory() as folder:
            for stage, weights in {"images": {"": images}, **self._weights(channels, factor)}.items():
                save_file({name: x.contiguous() for name, x in weights.items()}, f"{folder}/{stage}.safetensors")
            _elsewhere(DRAW, folder, json.dumps(to_dict(self.trial(channels, factor))), str(factor))
            there = load_file(f"{folder}/drawn")[""]
        _same(
            there,
            output,
            "another process gave another output: look for hash(), which differs between processes, the order of a "
            "set, the time, or an unseeded generator",
        )

    # What the tests share

    def _private_fit(self, trial: TrialConfig, public: Weights) -> PrivateFit:
        """The private fit of a trial, from its public weights."""
        trial = canonical(trial)
        images = torch.tensor(data.load(trial.data, "train").images).float() / 255
        with TemporaryDirectory() as folder:
            planned, settings = chain.mechanisms(trial, "upscaler_fit"), chain.privacy_of(trial, "upscaler_fit")
            fit = FitSettings(settings, planned, 0, Path(folder) / "checkpoint")
            return methods.upscaler(trial).fit_private(trial, public, images, fit, "cpu", silent)

    def _method(self) -> Any:
        return registry.find("upscaler", self.config().name)

    def _trial(self) -> TrialConfig:
        return self.trial(self.channels[0], self.factors[-1])

    def _is_bound(self) -> bool:
        """True if earlier stages make its weights: each number of channels and each factor has its own model."""
        return bool(self._method().needs(self._trial()).inputs)

    def _other(self, config: Any, field: str) -> Any:
        return self.other[field] if field in self.other else another(config, field)

    def _weights(self, channels: int, factor: int) -> Inputs:
        """One training for each number of channels."""
        if ("weights", channels) not in self._kept:
            self._kept["weights", channels] = self.inputs(self.trial(channels, factor))
        return self._kept["weights", channels]

    def _model(self, channels: int, factor: int) -> Upscaler:
        place = ("model", channels, factor) if self._is_bound() else "model"
        if place not in self._kept:
            self._kept[place] = self.model(channels, factor)
        return self._kept[place]

    def _drawing(self, channels: int, factor: int) -> tuple[Tensor, Tensor]:
        """The scenes, and what is drawn of them."""
        if ("drawing", channels, factor) not in self._kept:
            images = self.scenes(channels, factor)
            output = self._model(channels, factor).upscale(images.clone(), factor)
            self._kept["drawing", channels, factor] = images, output
        return self._kept["drawing", channels, factor]


def check_upscaler(
    model: Upscaler, factor: int, constant_tolerance: float = 0.1, block_mean_tolerance: float = 0.08
) -> None:
    """Check a loaded model as `UpscalerSuite` does, on grey and RGB images that are not square. Raises AssertionError.

    Tolerances: as in `UpscalerSuite`.
    """
    check_bridge(model, factor)
    for channels in (1, 3):
        images = coarse_scenes(3, channels, 9, 14)
        output = model.upscale(images.clone(), factor)
        check_output(images, output, factor)
        check_repeats(model, images, output, factor)
        if factor == 1:
            check_unchanged(images, output)
        check_independence(model, images, output, factor)
        check_block_means(images, output, factor, block_mean_tolerance)
        check_constants(model, (channels, 7, 5), factor, constant_tolerance)


def coarse_scenes(count: int, channels: int, height: int, width: int) -> Tensor:
    """Block means [B C height width] of flat regions with sharp borders, like the coarse image of a scene.

    Photo models take a blurred field for a badly focused scene and draw edges into it, so smooth noise will not do.
    """
    generator = torch.Generator().manual_seed(0)
    size = (height * 4, width * 4)
    scenes = torch.zeros(count, channels, *size)
    for _ in range(3):
        coarse = torch.rand(count, 1, 4, 4, generator=generator)
        inside = F.interpolate(coarse, size, mode="bicubic", align_corners=True) > 0.5
        scenes = torch.where(inside, torch.rand(count, channels, 1, 1, generator=generator), scenes)
    return F.avg_pool2d(scenes, 4)


def check_bridge(model: Upscaler, factor: int) -> None:
    """None, or text."""
    note = model.bridge(factor)
    assert note is None or (isinstance(note, str) and note.strip()), (
        f"bridge({factor}) returned {note!r}: return None where the model's own factor fits, else how it is reached"
    )


def check_output(images: Tensor, output: Tensor, factor: int) -> None:
    """Shape, type and range."""
    count, channels, height, width = images.shape
    wanted = (count, channels, height * factor, width * factor)
    assert tuple(output.shape) == wanted, (
        f"{tuple(images.shape)} by {factor} became {tuple(output.shape)}, not {wanted}: return B C h*factor w*factor, "
        "with the channels that were given"
    )
    assert output.dtype == torch.float32, f"the output is {output.dtype}: end with .float()"
    assert output.isfinite().all(), "the output has NaN or infinity: look for a division by 0, or bfloat16 overflow"
    low, high = float(output.min()), float(output.max())
    assert low >= 0, f"the output falls to {low:.4f}: images are in [0, 1], end with .clamp(0, 1)"
    assert high <= 1, f"the output rises to {high:.4f}: images are in [0, 1], end with .clamp(0, 1)"


def check_unchanged(images: Tensor, output: Tensor) -> None:
    """At factor 1."""
    assert torch.equal(output, images), (
        f"factor 1 moved a pixel by {_difference(output, images):.4f}: at level 0 the coarse image is the whole image, "
        "so return it as it is"
    )


def check_repeats(model: Upscaler, images: Tensor, output: Tensor, factor: int) -> None:
    """The same images give the same output, to the bit, and stay as they were."""
    given = images.clone()
    again = model.upscale(given, factor)
    assert torch.equal(given, images), (
        "upscale() must not write into its input: look for methods that end in _ (mul_, clamp_) and for out="
    )
    assert torch.equal(again, output), (
        f"the same images must give the same output, and a pixel moved by {_difference(again, output):.4f}: take noise "
        "from wavedp.seeds.generator_of(image), and put the network into evaluation mode"
    )


def check_independence(model: Upscaler, images: Tensor, output: Tensor, factor: int) -> None:
    """An image gives the same in a batch of one, and in a batch in another order."""
    where = (
        "one image must not influence another: look for sums or maxima over the batch, noise that is drawn for the "
        "batch instead of by wavedp.seeds.generator_of(image), and batch norm in training mode"
    )
    for i in range(len(images)):
        _same(
            model.upscale(images[i : i + 1].clone(), factor)[0],
            output[i],
            f"image {i} of a batch differs from it in a batch of one: {where}",
        )
    _same(model.upscale(images.flip(0), factor).flip(0), output, f"images differ in a batch of reverse order: {where}")


def check_constants(model: Upscaler, shape: Sequence[int], factor: int, tolerance: float) -> None:
    """A constant image C h w stays constant."""
    for value in CONSTANTS:
        moved = _difference(model.upscale(torch.full((1, *shape), value), factor), torch.tensor(value))
        assert moved <= tolerance, (
            f"a constant {value} moved by {moved:.4f}, more than {tolerance}: look at the range that the network was "
            "trained on ([0, 1], [-1, 1] or [0, 255]) and at its padding; a network that is hardly trained may need a "
            "larger constant_tolerance"
        )


def check_block_means(images: Tensor, output: Tensor, factor: int, tolerance: float) -> None:
    """They are the coarse image, which the privacy budget paid for. Each channel counts, so that channels that changed
    places are noticed."""
    moved = float((F.avg_pool2d(output, factor) - images).abs().mean((0, 2, 3)).max())
    assert moved <= tolerance, (
        f"block means moved by {moved:.4f}, more than {tolerance}: look for a shift by a pixel, exchanged channels or "
        "a range other than [0, 1]; wavedp.upscalers.low_pass.keep_low_pass puts the coarse image back"
    )


def draw(folder: str, trial: str, factor: str) -> None:
    """In a process of its own: what the upscaler of a trial (JSON) draws of the images in a folder, with the weights
    there."""
    chosen = canonical(from_dict(TrialConfig, json.loads(trial)))
    method = methods.upscaler(chosen)
    weights = {file.stem: load_file(file) for file in Path(folder).glob("*.safetensors")}
    images = weights.pop("images")[""]
    save_file({"": method.build(chosen, weights, "cpu").upscale(images, int(factor)).contiguous()}, f"{folder}/drawn")


# For a process of its own that has imported nothing yet.
PLAN = """
import json, sys
from wavedp import registry
from wavedp.config import TrialConfig, from_dict
values = json.loads(sys.argv[1])
registry.find("upscaler", values["upscaler"]["name"])
importing = "torch" in sys.modules
trial = from_dict(TrialConfig, values)
from wavedp import chain
key = chain.keys(trial)["upscale"]
print(json.dumps({"importing": importing, "planning": "torch" in sys.modules, "key": key}))
"""
DRAW = """
import sys
from wavedp.testing.upscalers import draw
draw(*sys.argv[1:])
"""


def _elsewhere(code: str, *arguments: str) -> str:
    """Run code in a process that finds the same modules, and return its output."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, encoding="utf-8"
    )
    assert ran.returncode == 0, f"in a process of its own it fails: {ran.stderr}"
    return ran.stdout


def _key(trial: TrialConfig) -> str:
    return chain.keys(trial)["upscale"]


def _types(config: Any, field: str) -> tuple[Any, ...]:
    """int | None -> int, None."""
    hint = get_type_hints(type(config))[field]
    return get_args(hint) if type(None) in get_args(hint) else (hint,)


def _class(value: Any) -> str:
    return type(value).__name__


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _same(first: Tensor, second: Tensor, otherwise: str) -> None:
    moved = _difference(first, second)
    assert moved <= ROUNDING, f"{otherwise} (largest difference {moved:.2g})"
