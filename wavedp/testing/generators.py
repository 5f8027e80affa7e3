"""Tests that every generator must pass, for built-in ones and your own.

Subclass `GeneratorSuite` in a test file, and pytest runs its tests on what `config` returns:

    from wavedp.config import configure
    from wavedp.testing.generators import GeneratorSuite

    class TestMine(GeneratorSuite):
        def config(self):
            return configure("generator", "my_package.mine:Mine", width=16)

It plans, pretrains, fits and samples small procedural images, by the stages that a study runs. Every failure says what
broke and where to look. Passing is no proof of privacy: the planned noise is priced and hidden leaks are searched for,
but whether `fit_private` is the mechanism that it reports takes a proof, or an audit (wavedp.audit).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from wavedp import chain, checks, data, registry, stages, text
from wavedp.config import DataConfig, DiffusionConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig
from wavedp.data import overlap
from wavedp.errors import UserError
from wavedp.generators import FitSettings, Generator, Pretrains, PrivateFit, Scores
from wavedp.methods import Weights, canonical
from wavedp.privacy import accounting
from wavedp.progress import Report, silent
from wavedp.store import Store
from wavedp.testing import declarations
from wavedp.wavelets import coarse

EPSILON, LITTLE = 4.0, 0.05
PAIRS = 8  # fits to dark and to bright images, which the noise must hide
ROUNDING = 1e-4  # largest difference between samples that are the same up to the order of floating-point sums
DRAWN = 6  # samples


class Killed(Exception):
    """Ends a fit in its middle."""


class GeneratorSuite:
    """A subclass gives `config`, and `trial` where the small trial does not suit it.

    other: values to change fields of the Config to, by field, where `content` needs another than the suite's own.
    epsilon_zero: whether it makes images without private data; None: whether it learns from public images.
    """

    other: ClassVar[Mapping[str, Any]] = {}
    epsilon_zero: bool | None = None

    _kept: ClassVar[dict[Any, Any]]
    _folder: ClassVar[TemporaryDirectory[str] | None]

    def __init_subclass__(cls) -> None:
        cls._kept, cls._folder = {}, None

    @classmethod
    def teardown_class(cls) -> None:
        """Lets go of what the class's tests shared: weights, fits and the store."""
        cls._kept.clear()
        if cls._folder is not None:
            cls._folder.cleanup()
            cls._folder = None

    def config(self) -> Any:
        """The generator's configuration, the same at every call. One that trains should train for a few steps."""
        raise NotImplementedError("a subclass of GeneratorSuite returns its generator's configuration from config()")

    def trial(self, base: TrialConfig) -> TrialConfig:
        """The trial to test it in: `base`, or a variant of it. In `base`, shared fields that the generator does not
        read are at their defaults."""
        return base

    # The declaration

    def test_its_config_is_frozen_and_every_field_has_a_class_and_a_default(self) -> None:
        declarations.check_config(self._method().Config)

    def test_its_content_is_json_and_moves_with_every_field_that_changes_results(self) -> None:
        declarations.check_content(self._method(), self.config(), self.other)

    def test_it_needs_only_what_a_trial_has(self) -> None:
        trial = self._trial()
        declarations.check_needs(self._method().needs(trial), trial, inputs=("tokenizer",))

    def test_planning_imports_no_torch(self) -> None:
        declarations.check_planning("generator", self._trial())

    def test_it_accepts_its_trial(self) -> None:
        warned = checks.check(self._given())
        sentences = isinstance(warned, list) and all(isinstance(item, str) for item in warned)
        assert sentences, f"check() returned {warned!r}: return a list of sentences that warn, or []"

    # The plan

    def test_the_plan_stays_within_the_budget(self) -> None:
        trial = self._private_trial()
        planned, n = chain.mechanisms(trial), self._n_records(trial)
        assert planned, (
            "mechanisms() names nothing and the fit kind is `dp`: whatever looks at sensitive images must be there"
        )
        delta = accounting.delta(trial.privacy, n)
        spent = accounting.compose(list(planned.values()), delta)
        assert spent <= trial.privacy.epsilon, (
            f"mechanisms() spends epsilon={spent:.4g} at delta={delta:.3g}, and privacy.epsilon is "
            f"{trial.privacy.epsilon:g}: calibrate them together (wavedp.privacy.accounting.calibrate, its `alongside`)"
        )
        more = chain.mechanisms(dataclasses.replace(trial, privacy=_privacy(trial, 2 * EPSILON)))
        assert accounting.compose(list(more.values()), delta) > spent, (
            "twice the budget spends no more: mechanisms() must be calibrated to privacy.epsilon"
        )

    def test_without_privacy_the_plan_has_no_noise(self) -> None:
        trial = self._private_trial(math.inf)
        planned, private = chain.mechanisms(trial), chain.mechanisms(self._trial())
        assert planned.keys() == private.keys(), (
            f"at epsilon=inf the plan is {sorted(planned)}, else {sorted(private)}: keep the purposes, with σ = 0"
        )
        noisy = [purpose for purpose, item in planned.items() if item.noise_multiplier]
        assert not noisy, f"at epsilon=inf {noisy} has noise: mechanisms() must give σ = 0, as `calibrate` does"

    # The private fit

    def test_the_fit_runs_what_was_planned(self) -> None:
        for epsilon in (EPSILON, math.inf):
            trial = self._private_trial(epsilon)
            planned, fit = chain.mechanisms(trial), self._fitted(trial)
            assert fit.mechanisms == planned, (
                f"fit_private ran {fit.mechanisms} and mechanisms() planned {planned}: the budget was set by the plan, "
                "so the fit may run that and nothing else (FitSettings.mechanisms), and must report what it ran"
            )
            assert fit.releases.keys() == planned.keys(), (
                f"fit_private gave release ids for {sorted(fit.releases)} and ran {sorted(planned)}: give an id for "
                "each purpose, which the ledger tells releases apart by"
            )
            ids = list(fit.releases.values())
            named = all(isinstance(item, str) and item for item in ids) and len(set(ids)) == len(ids)
            assert named, f"release ids are {ids}: they must be texts, and differ between purposes"

    def test_the_chain_writes_a_ledger_line_for_each_mechanism(self) -> None:
        trial = self._private_trial()
        artifact, _ = stages.make("private_fit", trial, self._store(), "cpu")
        lines = {line["purpose"]: line for line in artifact.json("ledger")}
        planned = chain.mechanisms(trial)
        assert lines.keys() == planned.keys(), f"the ledger has lines for {sorted(lines)}, the plan {sorted(planned)}"
        for purpose, item in planned.items():
            ran = (lines[purpose]["sample_rate"], lines[purpose]["noise_multiplier"], lines[purpose]["steps"])
            assert ran == (item.sample_rate, item.noise_multiplier, item.steps), f"the line of {purpose} says {ran}"

    def test_the_same_fit_is_the_same_release(self) -> None:
        trial = self._private_trial()
        fit = self._fitted(trial)
        torch.rand(1)  # moves the global generator, which must not matter
        again = self._fit(trial)
        assert again.releases == fit.releases, (
            "the same fit again has other release ids, and each counts as spent: an id may depend on settings, seed, "
            "records and first weights only (wavedp.privacy.training.release_id)"
        )
        _same_weights(again.weights, fit.weights, "the same fit again gave other weights: draw noise from generators "
                      "seeded by derive_seed(fit.seed, purpose, release), never from torch's global one")  # fmt: skip
        other = self._fit(trial, seed=6)
        moved = any(not torch.equal(other.weights[name], fit.weights[name]) for name in fit.weights)
        assert moved, (
            "another seed gave the same weights, so no noise was drawn from fit.seed: the noise must be secret, and "
            "other for every release"
        )

    def test_other_first_weights_are_another_release(self) -> None:
        trial, first = self._private_trial(), self._first()
        if not isinstance(self._model(trial), Pretrains):
            pytest.skip("it does not learn from public images")
        other = {name: x + 1e-3 if x.is_floating_point() else x for name, x in first.items()}
        fit, moved = self._fitted(trial), self._fit(trial, first=other)
        for purpose, item in fit.mechanisms.items():
            if (item.sample_rate, item.steps) == (1, 1):
                continue  # one Gaussian release, of records that the first weights have no part in
            assert moved.releases[purpose] != fit.releases[purpose], (
                f"{purpose} has one id for two sets of first weights, so one noise hides two results and their "
                "difference shows the records: the first weights must enter the release id"
            )

    def test_a_fit_looks_only_at_the_images_it_is_given(self) -> None:
        trial = self._private_trial()
        model, (images, conditions), first = self._model(trial), self._records(trial), self._first()
        before = {name: x.clone() for name, x in first.items()}
        given = images.clone(), conditions[:].clone()
        with patch.object(data, "load", _refuse("fit_private called wavedp.data.load: it may use only the records that "
                          "it is given, which are those the ledger prices")):  # fmt: skip
            self._run(model, trial, first, images, conditions)
        assert torch.equal(images, given[0]), "fit_private wrote into its images: look for methods that end in _"
        assert torch.equal(conditions[:], given[1]), (
            "fit_private wrote into its conditions: look for methods that end in _"
        )
        _same_weights(first, before, "fit_private wrote into the weights that it begins with: clone them first")

    def test_noise_hides_the_records_at_a_tiny_budget(self) -> None:
        """Fits to dark and to bright images, each with noise of its own: weights that always differ in one direction
        carry something that no noise was added to."""
        trial = self._private_trial(LITTLE)
        images, _ = self._records(trial)
        differences: dict[str, list[Tensor]] = {}
        for seed in range(PAIRS):
            dark, bright = (
                self._fit(trial, images=torch.full_like(images, value), seed=seed).weights for value in (0.1, 0.9)
            )
            for name in dark:
                differences.setdefault(name, []).append((bright[name] - dark[name]).double().flatten())
        for name, found in differences.items():
            # Noise that has passed through a training has few directions, perhaps one, so that two differences may well
            # agree by chance; all PAIRS do so once in 2^(PAIRS - 1).
            rows = torch.nn.functional.normalize(torch.stack(found), dim=1)
            cosine = float((rows @ rows.T).triu(1).sum()) / (PAIRS * (PAIRS - 1) / 2)
            chance = max(0.5, 3 / math.sqrt(rows.shape[1]))
            assert cosine <= chance, (
                f"at epsilon={LITTLE} the weights {name} of dark and of bright images differ in the same direction "
                f"whatever the noise (mean cosine {cosine:.2f}, by chance at most {chance:.2f}): something of the "
                "records reaches them without the planned noise"
            )

    def test_a_killed_fit_ends_in_the_same_release(self) -> None:
        trial = self._private_trial()
        whole = self._fitted(trial)
        with TemporaryDirectory() as folder:
            checkpoint = Path(folder, "checkpoint.safetensors")
            with suppress(Killed):
                self._fit(trial, checkpoint=checkpoint, report=_kill)
            resumed = self._fit(trial, checkpoint=checkpoint)
        assert resumed.releases == whole.releases, (
            "a fit that was killed and run again with its checkpoint has other release ids: the plan pays for one"
        )
        _same_weights(resumed.weights, whole.weights, "a fit that was killed and run again gave other weights: a "
                      "checkpoint must hold the optimiser and the generators of noise and sampling too")  # fmt: skip

    def test_its_weights_survive_the_store(self) -> None:
        weights = self._sampled_weights()
        assert isinstance(weights, dict), f"weights are a {type(weights).__name__}: give a flat dict of tensors"
        for name, value in weights.items():
            assert isinstance(name, str), f"weights have the name {name!r}: use text"
            assert isinstance(value, Tensor), f"weights[{name!r}] is a {type(value).__name__}, not a tensor"
            assert value.device.type == "cpu", f"weights[{name!r}] is on {value.device}: move it with .cpu()"
            assert not value.requires_grad, f"weights[{name!r}] has a gradient: detach it"
        try:
            stored = load(save({name: value.contiguous() for name, value in weights.items()}))
        except RuntimeError as error:  # two names of one memory
            raise AssertionError(
                f"safetensors refuses the weights ({error}): clone tensors that share memory"
            ) from error
        _same_weights(stored, weights, "weights changed in safetensors: look for strides and data types")

    # Samples

    def test_samples_are_coarse_images_one_for_each_condition(self) -> None:
        samples, shape = self._samples(), chain.coarse_shape(self._trial())
        assert tuple(samples.shape) == (DRAWN, *shape), (
            f"{DRAWN} conditions gave samples of {tuple(samples.shape)}, not {(DRAWN, *shape)}: one coarse image each"
        )
        assert samples.dtype == torch.float32, f"samples are {samples.dtype}: end with .float()"
        assert samples.isfinite().all(), "samples have NaN or infinity: look for a division by 0, or too large weights"
        low, high = float(samples.min()), float(samples.max())
        assert 0 <= low <= high <= 1, f"samples lie in [{low:.3f}, {high:.3f}], not in [0, 1]: end with .clamp(0, 1)"

    def test_weights_that_are_not_finite_make_no_images(self) -> None:
        weights = self._sampled_weights()
        broken = {name: x * math.nan if x.is_floating_point() else x for name, x in weights.items()}
        try:
            images = self._sample(weights=broken)
        except UserError:
            return
        assert not images.isfinite().all(), (
            "weights of NaN made images like any others: where sample() turns numbers into codes or clips them, refuse "
            "what is not finite (wavedp.finite), or let it pass on to the images, which the stage refuses"
        )

    def test_the_seed_decides_samples_and_the_batch_size_does_not(self) -> None:
        samples = self._samples()
        torch.rand(1)
        for batch_size in (2, DRAWN):
            again = self._sample(batch_size=batch_size)
            apart = float((again - samples).abs().max())
            assert apart <= ROUNDING, (
                f"batches of {batch_size} moved a sample by {apart:.4f}: draw all noise before the first batch, or "
                "each image's from a generator of its own row (derive_seed(seed, 'coarse_samples', row)), and put "
                "networks into evaluation mode"
            )
        if self._kind() != "real":
            assert not torch.equal(self._sample(seed=2), samples), (
                "another seed gave the same samples: `sample` must draw from the seed that it is given"
            )

    # Without private data

    def test_at_epsilon_0_no_sensitive_image_is_looked_at(self) -> None:
        if self._kind() == "real":
            pytest.skip("it keeps sensitive images, whatever epsilon says")
        trial = self._trial(0.0)
        method, public = self._method(), self.epsilon_zero
        assert method.fit_kind(trial) == "public", "privacy.epsilon=0 means that no private data is used: fit_kind()"
        if public is None:
            public = isinstance(self._model(trial), Pretrains)
        if not public:
            assert _refuses(trial), "it learns nothing from public images: check() must refuse privacy.epsilon=0"
            return
        keys, build, opened = chain.keys(trial), method.build, []

        def without_fit(*arguments: Any) -> Any:
            model = build(*arguments)
            model.fit_private = _refuse("fit_private was called at privacy.epsilon=0")
            return model

        def watched(config: DataConfig, split: Any) -> Any:
            opened.append(config)
            return _load(config, split)

        overlap.refuse_shared(trial.data, chain.public_reads(trial))  # compares with public images, once a process
        with (
            TemporaryDirectory() as folder,
            patch.object(method, "build", without_fit),
            patch.object(data, "load", watched),
        ):
            artifact, _ = stages.make("coarse_samples", trial, Store(folder), "cpu")
        assert artifact.key == keys["coarse_samples"]
        assert trial.data not in opened, "a stage looked at sensitive images at privacy.epsilon=0"
        assert len(artifact.tensors("samples")["images"]) == trial.sampling.n

    # Abilities

    def test_public_training_is_a_function_of_its_seed(self) -> None:
        model = self._model(self._trial())
        if not isinstance(model, Pretrains):
            pytest.skip("it does not learn from public images")
        trial = self._trial()
        with TemporaryDirectory() as folder:
            store = Store(folder)
            torch.rand(1)
            artifact, _ = stages.make("pretrain", trial, store, "cpu")
        _same_weights(artifact.tensors("weights"), self._first(), "fit_public gave other weights the second time: seed "
                      "the weights and the batches by derive_seed(seed, 'pretrain')")  # fmt: skip
        before = {name: x.clone() for name, x in self._first().items()}
        start = model.start(self._first())
        assert isinstance(start, dict), "start() gives weights, as the private fit begins with them"
        _same_weights(self._first(), before, "start() wrote into the public weights: clone what it changes")

    def test_log_likelihoods_are_of_each_record_by_itself(self) -> None:
        trial = self._trial()
        model = self._model(trial)
        if not isinstance(model, Scores) or self._method().conditioning(trial) != "class":
            pytest.skip("it gives no log-likelihoods")
        weights, (images, labels) = self._sampled_weights(), self._records(trial)
        found = model.log_likelihoods(weights, images[:5], labels[:5])
        one = model.log_likelihoods(weights, images[3:4], labels[3:4])
        for values, value in zip(found, one, strict=True):
            assert values.shape == (5,) and values.dtype == np.float64, "log_likelihoods gives B float64, twice"  # noqa: PT018
            assert np.isfinite(values).all(), "a log-likelihood is not finite"
            assert abs(values[3] - value[0]) <= 1e-3 * max(1.0, abs(values[3])), (
                "a record's log-likelihood depends on the records beside it: put the network into evaluation mode, and "
                "give all records the same noise"
            )

    # What the tests share

    def _method(self) -> Any:
        return registry.find("generator", self.config().name)

    def _kind(self) -> str:
        return self._method().fit_kind(self._trial())

    def _given(self) -> TrialConfig:
        """The subclass's trial, as it is."""
        images = DataConfig(name="procedural", size=16, n_records=64)
        base = TrialConfig(
            data=images,
            public=dataclasses.replace(images, split="public", n_records=32),
            generator=self.config(),
            diffusion=DiffusionConfig(timesteps=20, multiplicity=1),
            privacy=PrivacyConfig(epsilon=EPSILON, batch_size=16, steps=3, checkpoint_every=1),
            sampling=SamplingConfig(n=DRAWN, diffusion_steps=3, batch_size=4),
            upscaler="nearest",
            metrics=MetricsConfig(fid_samples=4, downstream_steps=0),
        )
        return self.trial(canonical(base))

    def _trial(self, epsilon: float = EPSILON) -> TrialConfig:
        trial = self._given()
        return canonical(dataclasses.replace(trial, privacy=_privacy(trial, epsilon)))

    def _private_trial(self, epsilon: float = EPSILON) -> TrialConfig:
        """Skips the test of a generator that runs no mechanism on sensitive images."""
        trial = self._trial(epsilon)
        kind = self._method().fit_kind(trial)
        if kind not in ("dp", "nonprivate"):
            pytest.skip(f"its fit kind is {kind}, whatever epsilon says")
        wanted = "nonprivate" if math.isinf(epsilon) else "dp"
        assert kind == wanted, f"fit_kind() says {kind} at epsilon={epsilon:g}: it must be {wanted}"
        return trial

    def _n_records(self, trial: TrialConfig) -> int:
        return data.n_records(trial.data, "train")

    def _store(self) -> Store:
        cls = type(self)
        if cls._folder is None:
            cls._folder = TemporaryDirectory()
        return Store(cls._folder.name)

    def _once(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _model(self, trial: TrialConfig) -> Generator:
        """The model that the stages build."""
        tokens, _ = stages.make("tokenizer", trial, self._store(), "cpu")
        return stages.build_generator(trial, {"tokenizer": tokens}, "cpu")

    def _first(self) -> Weights:
        """The weights of the stage `pretrain`."""
        artifact, _ = stages.make("pretrain", self._trial(), self._store(), "cpu")
        return self._once("first", lambda: artifact.tensors("weights"))

    def _records(self, trial: TrialConfig) -> tuple[Tensor, Tensor]:
        """Coarse images and conditions as the stage `private_fit` gives them."""
        records = data.load(trial.data, "train")
        images = coarse(torch.tensor(records.images).float() / 255, trial.level)
        if self._method().conditioning(trial) != "text":
            return images, torch.tensor(records.labels)
        encode = stages.encoder_of(trial, self._model(trial))
        return images, stages.conditions_of(records, trial, encode, Path(gettempdir()))

    def _run(
        self,
        model: Generator,
        trial: TrialConfig,
        first: Weights,
        images: Tensor,
        conditions: Tensor,
        seed: int = 5,
        checkpoint: Path | None = None,
        report: Report = silent,
    ) -> PrivateFit:
        with TemporaryDirectory() as folder:
            path = checkpoint or Path(folder, "checkpoint.safetensors")
            planned = chain.mechanisms(trial)
            return model.fit_private(first, images, conditions, FitSettings(trial.privacy, planned, seed, path), report)

    def _fit(
        self,
        trial: TrialConfig,
        first: Weights | None = None,
        images: Tensor | None = None,
        seed: int = 5,
        checkpoint: Path | None = None,
        report: Report = silent,
    ) -> PrivateFit:
        own, conditions = self._records(trial)
        weights = {name: x.clone() for name, x in (self._first() if first is None else first).items()}
        given = own if images is None else images
        return self._run(self._model(trial), trial, weights, given, conditions, seed, checkpoint, report)

    def _fitted(self, trial: TrialConfig) -> PrivateFit:
        """One fit for each epsilon."""
        return self._once(("fit", trial.privacy.epsilon), lambda: self._fit(trial))

    def _sampled_weights(self) -> Weights:
        """Those that the fit returned; without a fit, those of the stage `private_fit`."""
        if self._kind() != "public":
            return self._fitted(self._trial()).weights
        artifact, _ = stages.make("private_fit", self._trial(), self._store(), "cpu")
        return artifact.tensors("weights")

    def _sample(self, batch_size: int = 4, seed: int = 1, weights: Weights | None = None) -> Tensor:
        trial = self._trial()
        by_text = self._method().conditioning(trial) == "text"
        if by_text and (self._method().encodes_captions or self._method().text_tokens(trial)):
            encode = stages.encoder_of(trial, self._model(trial))
            conditions = encode([f"picture {number}" for number in range(DRAWN)])
        elif by_text:
            conditions = torch.nn.functional.normalize(torch.randn(DRAWN, text.EMBEDDING_WIDTH,
                                                       generator=torch.Generator().manual_seed(0)), dim=1)  # fmt: skip
        else:
            conditions = torch.arange(DRAWN) % data.n_classes(trial.data)
        sampling = dataclasses.replace(trial.sampling, batch_size=batch_size)
        weights = self._sampled_weights() if weights is None else weights
        return self._model(trial).sample(weights, conditions, sampling, seed, silent)

    def _samples(self) -> Tensor:
        return self._once("samples", self._sample)


_load = data.load


def _privacy(trial: TrialConfig, epsilon: float) -> PrivacyConfig:
    return dataclasses.replace(trial.privacy, epsilon=epsilon)


def _refuses(trial: TrialConfig) -> bool:
    try:
        checks.check(trial)
    except UserError:
        return True
    return False


def _kill(done: int, total: int) -> None:
    raise Killed


def _refuse(sentence: str) -> Callable[..., Any]:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(sentence)

    return refuse


def _same_weights(found: Weights, wanted: Weights, sentence: str) -> None:
    assert found.keys() == wanted.keys(), f"{sentence} (the names differ: {sorted(found.keys() ^ wanted.keys())[:3]})"
    for name, value in wanted.items():
        assert torch.equal(found[name], value), f"{sentence} ({name} differs)"
