"""Metrics of full-size samples, each in a file of its own, found by name in wavedp.registry.

    fid, kid, floor, fd, acc                                                   switched by fields of MetricsConfig
    prdc, spectrum, diversity, memorised, closer_to_train, text, clip_score, lpips_diversity, lpips_rebuilt,
    fid_infinity, inception_score, fld, one of your own                        asked for by `metrics.also`

`python -m wavedp.metrics REAL GENERATED` measures two folders with the same metrics, outside any study.

A number's name says how it was made: the metric, what it depends on, the generated images, and the real ones by split:

    fid_clean_1k_test        Fréchet distance, clean-fid's resize, 1,000 generated images against the whole test split
    kid_clean-bf16_1k_test2k kernel distance with features in bfloat16, against 2,000 images of the test split
    acc_cnn400_2k_test       accuracy of a CNN after 400 steps on 2,000 generated images, on the whole test split

Numbers of different names are not comparable: FID falls with the sample count, the split and the resize change it. The
counts also say how well a covariance of 2,048 features is known: of n images it has rank n - 1, so that an FID of 2,048
or fewer is for comparisons at the same counts only.

To add a metric, write a file as CONTRIBUTING.md has one: a frozen Config and a `MetricMethod` with `look`, `reference`
and `measure`. Give it an entry point in the group `wavedp.metrics`, or name it
`metrics.also=[package.module:Brightness]`. Its tests: subclass `wavedp.testing.metrics.MetricSuite`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wavedp import registry
from wavedp.config import DataConfig, MetricsConfig, TrialConfig, identity
from wavedp.errors import UserError
from wavedp.fields import is_read, once
from wavedp.methods import Method
from wavedp.metrics import network_file
from wavedp.metrics.views import Real, Sets, View, how

if TYPE_CHECKING:  # plans are made without torch
    from torch import Tensor

Better = Literal["lower", "higher"]

PRIMARY = "fid"
"""The metric that searches minimise and figures draw unless told otherwise."""


@dataclass(frozen=True)
class Meaning:
    """The meaning of numbers whose names begin alike, for captions. sentence: without its full stop; {generated}
    and {real} stand for the counts in the name, such as `1k` and `2k of the real test images`."""

    better: Better
    sentence: str


@dataclass(frozen=True)
class Given:
    """The images that a trial will have. counts(split): number of real images of a split. n_generated: samples of
    the trial. labelled: both have class labels. described: the samples were made from texts. n_classes: None if that is
    not known."""

    config: MetricsConfig
    counts: Callable[[str], int]
    n_generated: int
    labelled: bool = True
    described: bool = False
    n_classes: int | None = None
    shape: tuple[int, int, int] | None = None

    @property
    def sets(self) -> Sets:
        """The sets by their sizes, for names."""
        config = self.config
        real = reference_view(config, self.counts(config.reference_split))
        return Sets(config, View(config.fid_samples), View(self.n_generated), real, self.counts)


class MetricMethod(Method):
    """The declaration of a metric. own: the metric's Config.

    better, sentence: of numbers named `<name>_…`; a metric of several numbers overrides `meanings`. The sentence is as
    in `Meaning`. standing: whether the ledger line that every reference has speaks for this metric too.
    """

    better: ClassVar[Better] = "lower"
    sentence: ClassVar[str] = "as its name says"
    standing: ClassVar[bool] = False
    rebuilds: ClassVar[bool] = False

    def asked(self, config: MetricsConfig) -> bool:
        """True if a field of MetricsConfig asks for it; `metrics.also` can ask for any."""
        return False

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """The meaning of its numbers, by the beginning of their names."""
        return {self.name: Meaning(self.better, self.sentence)}

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """The full name of each number that `measure` gives, by a short name. Reads only sizes (and labels) of sets."""
        return {self.name: f"{self.name}_{sets.samples.name}_{sets.real.name}"}

    def require(self, own: Any, given: Given) -> None:
        """Refuse, before any training, what could not be measured after it; opens the files that it will need. Raises
        UserError."""

    def look(self, own: Any) -> str:
        """The ledger's words for its look at sensitive images, such as `power spectrum`. A metric without any is shown
        generated images only, unless it is `standing`."""
        return ""

    def reference_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """Splits of the sensitive data that `reference` looks at beside the reference split."""
        return ()

    def test_splits(self, own: Any, config: MetricsConfig) -> tuple[str, ...]:
        """Splits of the sensitive data that `measure` looks at."""
        return ()

    def reference_content(self, own: Any, config: MetricsConfig) -> list[Any]:
        """The configuration that `reference` reads beside the reference images and the mode and precision of their
        features, as JSON values: enters the key of the stage `reference`."""
        return [self.content(own)] if self.look(own) else []

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """Amounts of work in `reference`, for its progress; work that metrics share has one name."""
        return {}

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """Amounts of work in `measure`, likewise."""
        return {}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """The tensors to keep of the real images. Their names begin with the metric's; metrics share `features`,
        those of the reference images by the FID network."""
        return {}

    def measure(self, own: Any, sets: Sets, reference: Mapping[str, Tensor]) -> dict[str, float]:
        """The numbers by their full names; `wavedp.metrics.views.Estimate` is a number with its standard error.
        reference: at least what `reference` gave."""
        raise NotImplementedError(f"{self.name} measures nothing")


class FeatureMetric(MetricMethod):
    """A metric of the FID network's features (wavedp.metrics.features)."""

    def meanings(self, own: Any, config: MetricsConfig) -> dict[str, Meaning]:
        """By name and by how the features were made."""
        about = f"{self.sentence}{features_clause(config)}, {{generated}} generated against {{real}}"
        return {f"{self.name}_{how(config)}": Meaning(self.better, about)}

    def names(self, own: Any, sets: Sets) -> dict[str, str]:
        """<name>_<how>_<generated>_<real>."""
        return {self.name: f"{self.name}_{how(sets.config)}_{sets.samples.name}_{sets.real.name}"}

    def require(self, own: Any, given: Given) -> None:
        """The network's file is there."""
        network_file.find_network(given.config.inception)

    def reference_work(self, own: Any, real: Real) -> dict[str, int]:
        """Features of the reference images."""
        return {"features": real.images.count}

    def work(self, own: Any, sets: Sets) -> dict[str, int]:
        """Features of the samples."""
        return {"features": sets.samples.count}

    def reference(self, own: Any, real: Real) -> dict[str, Tensor]:
        """features: float32 n 2048 of the reference images."""
        return {"features": real.images.features()}


RESIZING = {
    "clean": "clean-fid's resizing",
    "pytorch": "pytorch-fid's resizing",
    "tensorflow": "TensorFlow 1's resizing, as torch-fidelity's",
}


def features_clause(config: MetricsConfig) -> str:
    """The FID network and its input, in words for captions."""
    precision = ", in bfloat16" if config.precision == "bfloat16" else ""
    return f"Inception-v3 pool features{precision}, {RESIZING[config.mode]}"


@once
def chosen(config: MetricsConfig) -> list[tuple[MetricMethod, Any]]:
    """The metrics that a trial is asked for, and the Config of each: those that fields switch on (with their section in
    `also` where they are named there too), then the others of `also`."""
    listed = [(registry.find("metric", own.name), own) for own in config.also]
    found = []
    for name in registry.BUILT_IN["metric"]:
        metric = registry.find("metric", name)
        if metric.asked(config):
            found.append(next((item for item in listed if item[0].name == name), (metric, metric.Config())))
    return found + [item for item in listed if item not in found]


def asked(config: MetricsConfig) -> list[Method]:
    """The metrics that a trial is asked for."""
    return [metric for metric, _ in chosen(config)]


def looking(config: MetricsConfig) -> list[Method]:
    """Those among them that are shown sensitive images."""
    return [metric for metric, own in chosen(config) if sees_real(metric, own)]


def sees_real(metric: MetricMethod, own: Any) -> bool:
    """True for a metric that is shown sensitive images, which the ledger then says."""
    return metric.standing or bool(metric.look(own))


def rebuilds(config: MetricsConfig) -> bool:
    """True if a metric of the trial enlarges coarse images by its stage two."""
    return any(metric.rebuilds for metric, _ in chosen(config))


def reference_content(config: MetricsConfig) -> list[Any]:
    """The configuration that the stage `reference` reads, as JSON values."""
    found: list[Any] = [config.mode, config.precision, config.reference_split, config.reference_samples]
    return found + [item for metric, own in chosen(config) for item in metric.reference_content(own, config)]


def content(config: MetricsConfig) -> dict[str, Any]:
    """The configuration that the stage `evaluate` reads, as JSON values."""
    read = {item.name for item in fields(config) if is_read(config, item)}
    found = {name: value for name, value in identity(config).items() if name in read}
    if config.also:
        found["also"] = [registry.find("metric", own.name).content(own) for own in config.also]
    return found


def reference_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    """Datasets and splits that the stage `reference` looks at."""
    config = trial.metrics
    more = [
        split
        for metric, own in chosen(config)
        if sees_real(metric, own)
        for split in metric.reference_splits(own, config)
    ]
    return [(trial.data, split) for split in dict.fromkeys([config.reference_split, *more])]


def evaluation_data(trial: TrialConfig) -> list[tuple[DataConfig, str]]:
    """Datasets and splits that the stage `evaluate` looks at: the reference split, and those that metrics test on."""
    config = trial.metrics
    more = [
        split for metric, own in chosen(config) if sees_real(metric, own) for split in metric.test_splits(own, config)
    ]
    return [(trial.data, split) for split in dict.fromkeys([config.reference_split, *more])]


def looks(config: MetricsConfig) -> list[tuple[str, str]]:
    """The purpose and the split of each ledger line for the looks of the trial's metrics, a line for each split.

    The line of the reference split begins as in every study, whatever was measured: a look that is asked for less is
    still the same look. Further metrics are named in it.
    """
    tests: dict[str, None] = {}
    further: list[str] = []
    others: dict[str, list[str]] = {}
    for metric, own in chosen(config):
        if metric.standing:
            tests |= dict.fromkeys(metric.test_splits(own, config))
        elif said := metric.look(own):
            further.append(said)
            for split in metric.reference_splits(own, config) + metric.test_splits(own, config):
                others.setdefault(split, []).append(said)
    where = "".join(f" on the {split} split" for split in tests if split != config.reference_split)
    others.pop(config.reference_split, None)
    said_by_split = {config.reference_split: ["FID and KID statistics", f"downstream test{where}", *further], **others}
    return [
        (f"evaluation on the {split} split ({', '.join(dict.fromkeys(said))})", split)
        for split, said in said_by_split.items()
    ]


def primary(config: MetricsConfig, n_reference: int) -> str:
    """The full name of the metric that searches minimise and figures draw."""
    metric, own = next(item for item in chosen(config) if item[0].name == PRIMARY)
    return metric.names(own, Given(config, lambda split: n_reference, config.fid_samples).sets)[PRIMARY]


def described(config: MetricsConfig) -> dict[str, dict[str, str]]:
    """The meanings of the metrics asked for, as study.yaml keeps them: {beginning of a name: {better, sentence}}."""
    found: dict[str, Meaning] = {}
    for metric, own in chosen(config):
        found |= metric.meanings(own, config)
    return {begins: asdict(meaning) for begins, meaning in found.items()}


def reference_view(config: MetricsConfig, n: int) -> View:
    """The reference images of a split of n, by their number."""
    used = n if config.reference_samples is None else min(config.reference_samples, n)
    return View(used, config.reference_split, whole=used == n)


def check(given: Given) -> None:
    """Refuse, before any training, what `evaluate` could not measure after it. Raises UserError."""
    config, n_reference = given.config, given.counts(given.config.reference_split)
    names: dict[str, str] = {}
    for metric, own in chosen(config):
        metric.require(own, given)
        for name in metric.names(own, given.sets).values():
            if name in names:
                raise UserError(f"metrics.also asks twice for {name}: leave one out, or give it other options.")
            names[name] = metric.name
    if config.fid_samples > given.n_generated:
        raise UserError(
            f"metrics.fid_samples={config.fid_samples} needs as many generated images, got {given.n_generated}: "
            "raise sampling.n or lower metrics.fid_samples."
        )
    if config.fid_samples < 2 or n_reference < 2 or config.reference_samples in (0, 1):
        raise UserError(
            f"FID needs two images on each side, got metrics.fid_samples={config.fid_samples}, "
            f"metrics.reference_samples={config.reference_samples} and a {config.reference_split} split of "
            f"{n_reference}: use more."
        )
