"""The spine of a trial: frozen dataclasses, every field in exactly one class (wavedp.fields).

`generator`, `tokenizer` and `upscaler` belong to the methods that they name: their fields are the method's own, and are
declared in its room (wavedp.methods). What several methods share is here, and a method says which of it it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from wavedp.errors import UserError
from wavedp.fields import (
    SEED,
    configure,
    differing,
    fields_of,
    fitting,
    from_dict,
    identity,
    method,
    methods,
    paths,
    performance,
    privacy,
    result,
    section_of,
    sections,
    to_dict,
)

__all__ = [
    "DataConfig",
    "DiffusionConfig",
    "MetricsConfig",
    "PrivacyConfig",
    "SamplingConfig",
    "TrialConfig",
    "configure",
    "fields_of",
    "from_dict",
    "identity",
    "sections",
    "settings_of",
    "to_dict",
    "trial_of",
    "with_absolute_paths",
]


def parts_of(where: str, given: Any) -> tuple[tuple[str, float | None], ...]:
    """The parts of a mixture, from a mapping {dataset: records, share or None for all} or such pairs; a part of 0
    records is left out. Raises UserError for anything else."""
    try:
        pairs = tuple((name, size) for name, size in dict(given or ()).items() if size is None or size != 0)
    except (TypeError, ValueError):
        pairs = ((None, 0),)
    for name, size in pairs:
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        if not isinstance(name, str) or not (size is None or whole or (isinstance(size, float) and 0 < size < 1)):
            raise UserError(
                f"{where}={given!r} are no parts: write {{dataset: number}} with a number of records, a share below 1, "
                "null for all records, or 0 for none."
            )
    return pairs


def names_of(where: str, given: Any) -> tuple[str, ...]:
    """Names of classes, in label order, from a list; none from None. Raises UserError for anything else."""
    names = tuple(given) if isinstance(given, list | tuple) else () if given is None else (None,)
    if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) != len(names):
        raise UserError(f"{where}={given!r} are no names of classes: write a list of different names.")
    return names  # type: ignore[return-value]


def words_of(where: str, given: Any) -> tuple[tuple[str, str], ...]:
    """Other words for names of classes, from a mapping {name: words} or such pairs. Raises UserError for others."""
    try:
        pairs = tuple(dict(given or ()).items())
    except (TypeError, ValueError):
        pairs = ((None, None),)
    if not all(isinstance(text, str) and text.strip() for pair in pairs for text in pair):
        raise UserError(f"{where}={given!r} are no words: write {{name of a class: other words for it}}.")
    return pairs


@dataclass(frozen=True)
class DataConfig:
    """A dataset: which images, at which size, divided how (wavedp.data)."""

    name: str = result("fashion_mnist")  # or another of wavedp.data, or one of your own
    # dpimagebench: train of fashion_mnist, cifar10 or celeba divided with seed 0; public: procedural images that
    # are not in official; celeba: mm_celeba_hq by CelebA's partition; coco2017: coco's images of 2017, not 2014
    split: Literal["official", "dpimagebench", "public", "celeba", "coco2017"] = result("official")
    size: int = result(28, within="[1, inf)")  # H = W in pixels; sets that are rendered or read from a folder take any
    channels: int = result(1, within="[1, 3]")  # 1 (grey) or 3 (RGB)
    limit: int | None = result(None, within="[1, inf)")  # keep only the first records of every split
    n_records: int = result(2048, within="[1, inf)")  # of the train split of procedural and avatars
    # Of icons: `permissive`, `all`, or SPDX ids joined by +; and the appearances of each picture of icons and emoji.
    licences: str = result("permissive", later=True)
    variants: int = result(1, later=True, within="[1, inf)")
    attribute: str | None = result(None, later=True)  # of celeba: the one that is the label; None: Male
    # What to do with train records that are equal: a private fit protects one record, not all copies of it.
    duplicates: Literal["refuse", "merge", "accept"] = privacy("refuse", later=True)
    path: str | None = performance(None, path=True)  # root of a dataset that the user has
    home: str = performance(".wavedp/data", path=True)  # downloads
    cache: str = performance("decoded")  # folder for decoded copies, below home unless absolute; off: none are kept
    ship: bool = performance(False)  # send the images through the store to nodes of a cluster that lack their files
    # Of mixture and chosen: the datasets that it is made of, and how much of each (wavedp.data.mixture).
    parts: tuple[tuple[str, float | None], ...] = result((), later=True, read=parts_of)
    # Of chosen: the classes that public images are sought for; none: those of the trial's data.
    names: tuple[str, ...] = result((), later=True, read=names_of)
    words: tuple[tuple[str, str], ...] = result((), later=True, read=words_of)  # sought in place of some names
    per_name: int = result(100, later=True, within="[1, inf)")  # different images for each name, at most
    named_share: float = result(0.5, later=True, within="[0, 1)")  # of the records: named images, repeated as needed

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", parts_of("parts", self.parts))
        object.__setattr__(self, "names", names_of("names", self.names))
        object.__setattr__(self, "words", words_of("words", self.words))


@dataclass(frozen=True)
class DiffusionConfig:
    """A diffusion with a blur schedule (wavedp.diffusion), and the size of its U-Net."""

    timesteps: int = result(1000, within="[1, inf)")  # T
    noise_schedule: Literal["linear", "cosine"] = result("cosine")  # of β
    blur_f_max: float | None = result(None, within="[0, inf)")  # f(T), in base kernel variances; None: paper's
    blur_sigma: float = result(0.4, within="(0, inf)")  # of the base kernel, pixels
    basis: Literal["dct", "zero_pad"] = result("dct")  # dct reflects at borders, zero_pad darkens them as in the paper
    heat_sigma_max: float = result(20.0, within="(0, inf)")  # of blur=heat, pixels
    blur_order: Literal["coarse_to_fine", "fine_to_coarse"] = result("coarse_to_fine")  # the latter is a control
    channels: int = result(16, within="[16, inf)")  # of the first level, a multiple of 16
    layers: int = result(1, within="[1, inf)")  # residual blocks a level
    multiplicity: int = result(2, within="[1, inf)")  # times and noises a view, averaged before clipping
    snr_gamma: float = result(5.0, within="[0, inf)")  # of the loss weights; 0: none


@dataclass(frozen=True)
class PrivacyConfig:
    """The private fit: the mechanism (PRIVACY) and the optimiser around it (RESULT)."""

    epsilon: float = privacy(10.0, within="[0, inf]")  # of one release; inf: no noise, no clipping; 0: public
    # None: 1 / (N ln N), DPImageBench's rule (N = 55,000 gives 1.666e-6).
    delta: float | None = privacy(None, within="(0, 1)")
    batch_size: int = privacy(128, within="[1, inf)")  # of a Poisson batch, expected; sample rate q = batch_size / N
    steps: int = privacy(320, within="[1, inf)")  # optimiser steps, empty batches included
    max_grad_norm: float = privacy(1.0, within="(0, inf)")  # clipping norm C of one record's gradient
    accountant: Literal["pld"] = privacy("pld")  # calibrates the noise; prv cross-checks it
    relation: Literal["add_or_remove_one"] = privacy("add_or_remove_one")
    clipping: Literal["flat", "normalize"] = privacy("flat")  # normalize also lengthens short gradients
    mean_share: float = privacy(0.0, within="[0, 1)")  # of epsilon, for class means of the coarsest band first
    noise_source: Literal["seeded", "secure"] = privacy("seeded", later=True)  # secure cannot be repeated
    optimizer: Literal["adam", "sgd", "adam_bc"] = result("adam")  # adam_bc: without the noise's bias
    adam_floor: float = result(0.3, read_if={"optimizer": "adam_bc"}, within="(0, inf)")  # least divisor, in noise stds
    learning_rate: float = result(3e-3, within="(0, inf)")
    ema_decay: float = result(0.9, within="[0, 1)")  # of the weights that are sampled from
    views: int = result(1, within="[1, 10]")  # augmented copies of a record, averaged before clipping
    trained: Literal["all", "attention", "lora"] = result("all")  # which weights move
    lora_rank: int = result(8, read_if={"trained": "lora"}, within="[1, inf)")
    scale_decay: float = result(1.0, within="(0, inf)")  # a token of scale s weighs scale_decay^s in the loss
    microbatch_size: int | Literal["auto"] = performance(64, within="[1, inf)")  # records a pass; auto: what fits
    # How gradients are taken apart by record; auto: the fastest way that the model allows (wavedp.privacy.clipping).
    grad_sample_mode: Literal["auto", "hooks", "ghost", "bookkeeping"] = performance("auto")
    checkpoint_every: int = performance(20, within="[1, inf)")  # steps
    # Of the model's products in the private fit; norms, sums and noise are float32 (wavedp.privacy.clipping).
    precision: Literal["float32", "tf32", "bfloat16"] = result("float32", later=True)


@dataclass(frozen=True)
class SamplingConfig:
    """Coarse samples, and how they are drawn."""

    n: int = result(1000, within="[1, inf)")  # classes, or prompts, in equal shares
    temperature: float = result(0.85, within="(0, inf)")  # of the token distribution, as the next two
    top_k: int | None = result(None, within="[1, inf)")
    top_p: float | None = result(None, within="(0, 1]")
    guidance: float = result(1.0, within="[0, inf)")  # above 1 needs generator.condition_dropout
    diffusion_steps: int = result(20, within="[1, inf)")  # of diffusion, as the next two (wavedp.diffusion.scheduler)
    algorithm: Literal["reverse_diffusion", "ancestral", "ddim", "dpmsolver++"] = result("dpmsolver++")
    timestep_spacing: Literal["uniform", "quadratic", "logsnr", "blur_aware"] = result("logsnr")
    seed: int = result(0, later=True, within=SEED)  # other samples of the same private fit; they cost no ε
    prompts: str | None = performance(None, path=True)  # file of public prompts, one a line; its content is in the key
    batch_size: int = performance(500, within="[1, inf)")


@dataclass(frozen=True)
class MetricsConfig:
    """Settings of `evaluate` (wavedp.metrics)."""

    mode: Literal["clean", "pytorch", "tensorflow"] = result("clean")  # whose resize
    precision: Literal["float32", "bfloat16"] = result("float32")  # of the feature network; part of a metric's name
    fid_samples: int = result(1000, within="[2, inf)")  # generated images for FID and KID
    reference_split: Literal["train", "val", "test"] = result("test")
    reference_samples: int | None = result(2000, within="[2, inf)")  # None: all of the split
    kid: bool = result(True)
    downstream_steps: int = result(400, read_if={"downstream": "cnn"}, within="[0, inf)")  # of the CNN; 0: none
    downstream: Literal["cnn", "dpimagebench", "light"] = result("cnn", later=True)  # what learns from the samples
    floor: bool = result(True, before=False)  # also the FID between two parts of the real split
    second_network: Literal["effnetlite0", "file"] | None = result(None, later=True)  # for a Fréchet distance more
    also: tuple[Any, ...] = methods("metric")  # further ones: names, or sections of a metric's own options
    second_network_file: str | None = performance(None, path=True)  # TorchScript; its content is in the key
    inception: str | None = performance(None, path=True)  # path of the FID network; None: search
    batch_size: int = performance(10, within="[1, inf)")  # images a forward pass

    def __post_init__(self) -> None:
        chosen = (section_of("metric", "metrics.also", item) for item in self.also)
        object.__setattr__(self, "also", tuple(chosen))


@dataclass(frozen=True)
class TrialConfig:
    """One point of a study. Methods may be given by name: TrialConfig(upscaler="bicubic")."""

    level: int = result(1, within="[0, 16]")  # wavelet level of the private coarse image, of side H / 2^level
    blur: str = result("none")  # f(i): none, linear, log, quadratic, cubic, quartic, triangular, heat
    seed: int = result(0, within=SEED)  # replicate: moves the private fit, the samples and the downstream test
    device: str = performance("auto")
    data: DataConfig = field(default_factory=DataConfig)
    public: DataConfig | None = field(default_factory=lambda: DataConfig(name="openclipart"))
    tokenizer: Any = method("tokenizer")
    generator: Any = method("generator")
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    upscaler: Any = method("upscaler")
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        for kind in METHODS:
            object.__setattr__(self, kind, section_of(kind, f"TrialConfig.{kind}", getattr(self, kind)))


METHODS = ("tokenizer", "generator", "upscaler")


def trial_of(values: dict[str, Any]) -> TrialConfig:
    """A trial from composed or recorded sections, where a method's section may hold fields of others of its kind: those
    of a preset, or of the time when all methods of a kind shared one section. Raises UserError as `from_dict`."""
    fitted = {kind: fitting(kind, values[kind]) for kind in METHODS if isinstance(values.get(kind), dict)}
    return from_dict(TrialConfig, {**values, **fitted})


def settings_of(trial: TrialConfig) -> dict[str, Any]:
    """What of a trial is not at its default, by section, as JSON values: `trial_of` reads it back."""
    found: dict[str, Any] = {}
    for item in fields(TrialConfig):
        mine = getattr(trial, item.name)
        if mine != getattr(TrialConfig(), item.name):
            found[item.name] = differing(mine) if is_dataclass(mine) else mine
    return found


def with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The same sections with every path absolute: workers run in folders of their own. What does not exist is left to
    whoever opens it, unless it is a path of the data: an upscaler's may be a hub id."""
    trial, found = trial_of(values), dict(values)
    for name in sections(TrialConfig):
        section, config = values.get(name), getattr(trial, name)
        if not isinstance(section, dict) or config is None:
            continue
        found[name] = _with_absolute_paths(section, type(config), always=name not in METHODS)
    if isinstance(metrics := found.get("metrics"), dict) and metrics.get("also"):
        also = [
            _with_absolute_paths(item, type(own), always=False) if isinstance(item, dict) else item
            for item, own in zip(metrics["also"], trial.metrics.also, strict=True)
        ]
        found["metrics"] = {**metrics, "also": also}
    return found


def _with_absolute_paths(section: dict[str, Any], cls: type, always: bool) -> dict[str, Any]:
    """always: also those that do not exist."""
    given = {name: Path(section[name]).expanduser() for name in paths(cls) if section.get(name)}
    return {**section, **{name: str(path.absolute()) for name, path in given.items() if always or path.exists()}}
