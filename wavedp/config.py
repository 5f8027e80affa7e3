"""The spine of a trial: frozen dataclasses, every field in exactly one class (wavedp.fields).

`generator`, `tokenizer` and `upscaler` belong to the methods that they name: their fields are the method's own, and are
declared in its room (wavedp.methods). What several methods share is here, and a method says which of it it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wavedp.fields import (
    configure,
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
    "to_dict",
    "trial_of",
    "with_absolute_paths",
]


@dataclass(frozen=True)
class DataConfig:
    """A dataset: which images, at which size, divided how (wavedp.data)."""

    name: str = result("fashion_mnist")  # or openclipart, photographs, procedural, folder, decoded, one of your own
    # dpimagebench: fashion_mnist's train divided 55,000/5,000, seed 0; public: procedural images that official lacks
    split: Literal["official", "dpimagebench", "public"] = result("official")
    size: int = result(28)  # H = W in pixels; sets that are rendered or read from a folder take any
    channels: int = result(1)  # 1 (grey) or 3 (RGB)
    limit: int | None = result(None)  # keep only the first records of every split
    n_records: int = result(2048)  # of the procedural set's train split
    # What to do with train records that are equal: a private fit protects one record, not all copies of it.
    duplicates: Literal["refuse", "merge", "accept"] = privacy("refuse", later=True)
    path: str | None = performance(None, path=True)  # root of a folder dataset
    home: str = performance(".wavedp/data", path=True)  # downloads
    cache: str = performance("decoded")  # folder for decoded copies, below home unless absolute; off: none are kept


@dataclass(frozen=True)
class DiffusionConfig:
    """A diffusion with a blur schedule (wavedp.diffusion), and the size of its U-Net."""

    timesteps: int = result(1000)  # T
    noise_schedule: Literal["linear", "cosine"] = result("cosine")  # of β
    blur_f_max: float | None = result(None)  # f(T), in variances of the base kernel; None: the paper's
    blur_sigma: float = result(0.4)  # of the base kernel, pixels
    basis: Literal["dct", "zero_pad"] = result("dct")  # dct reflects at borders, zero_pad darkens them as in the paper
    heat_sigma_max: float = result(20.0)  # of blur=heat, pixels
    blur_order: Literal["coarse_to_fine", "fine_to_coarse"] = result("coarse_to_fine")  # the latter is a control
    channels: int = result(16)  # of the first level, a multiple of 16
    layers: int = result(1)  # residual blocks a level
    multiplicity: int = result(2)  # times and noises a view, averaged before clipping
    snr_gamma: float = result(5.0)  # of the loss weights; 0: none


@dataclass(frozen=True)
class PrivacyConfig:
    """The private fit: the mechanism (PRIVACY) and the optimiser around it (RESULT)."""

    epsilon: float = privacy(10.0)  # of one release; inf: no noise, no clipping; 0: no private data used
    delta: float | None = privacy(None)  # None: 1 / (N ln N), DPImageBench's rule (N = 55,000 gives 1.666e-6)
    batch_size: int = privacy(128)  # expected size of a Poisson batch; sample rate q = batch_size / N
    steps: int = privacy(320)  # optimiser steps, empty batches included
    max_grad_norm: float = privacy(1.0)  # clipping norm C of one record's gradient
    accountant: Literal["pld"] = privacy("pld")  # calibrates the noise; prv cross-checks it
    relation: Literal["add_or_remove_one"] = privacy("add_or_remove_one")
    clipping: Literal["flat", "normalize"] = privacy("flat")  # normalize also lengthens short gradients
    mean_share: float = privacy(0.0)  # of epsilon, in [0, 1), for class means of the coarsest band before the fit
    noise_source: Literal["seeded", "secure"] = privacy("seeded", later=True)  # secure cannot be repeated
    optimizer: Literal["adam", "sgd", "adam_bc"] = result("adam")  # adam_bc: without the noise's bias
    adam_floor: float = result(0.3, read_if={"optimizer": "adam_bc"})  # least divisor, in noise deviations
    learning_rate: float = result(3e-3)
    ema_decay: float = result(0.9)  # of the weights that are sampled from
    views: int = result(1)  # augmented copies of a record, averaged before clipping
    trained: Literal["all", "attention", "lora"] = result("all")  # which weights move
    lora_rank: int = result(8, read_if={"trained": "lora"})
    scale_decay: float = result(1.0)  # a token of scale s weighs scale_decay^s in the loss
    microbatch_size: int = performance(64)  # records a forward pass
    # How gradients are taken apart by record; auto: the fastest way that the model allows (wavedp.privacy.clipping).
    grad_sample_mode: Literal["auto", "hooks", "ghost", "bookkeeping"] = performance("auto")
    checkpoint_every: int = performance(20)  # steps


@dataclass(frozen=True)
class SamplingConfig:
    """Coarse samples, and how they are drawn."""

    n: int = result(1000)  # classes, or prompts, in equal shares
    temperature: float = result(0.85)  # of the token distribution, as the next two
    top_k: int | None = result(None)
    top_p: float | None = result(None)
    guidance: float = result(1.0)  # above 1 needs generator.condition_dropout
    diffusion_steps: int = result(20)  # of diffusion, as the next two (wavedp.diffusion.scheduler)
    algorithm: Literal["reverse_diffusion", "ancestral", "ddim", "dpmsolver++"] = result("dpmsolver++")
    timestep_spacing: Literal["uniform", "quadratic", "logsnr", "blur_aware"] = result("logsnr")
    seed: int = result(0, later=True)  # other samples of the same private fit; they cost no ε
    prompts: str | None = performance(None, path=True)  # file of public prompts, one a line; its content is in the key
    batch_size: int = performance(500)


@dataclass(frozen=True)
class MetricsConfig:
    """Settings of `evaluate` (wavedp.metrics)."""

    mode: Literal["clean", "pytorch", "tensorflow"] = result("clean")  # whose resize
    precision: Literal["float32", "bfloat16"] = result("float32")  # of the feature network; part of a metric's name
    fid_samples: int = result(1000)  # generated images for FID and KID
    reference_split: Literal["train", "val", "test"] = result("test")
    reference_samples: int | None = result(2000)  # None: all of the split
    kid: bool = result(True)
    downstream_steps: int = result(400, read_if={"downstream": "cnn"})  # of the small CNN; 0: no accuracy
    downstream: Literal["cnn", "dpimagebench", "small"] = result("cnn", later=True)  # what learns from the samples
    floor: bool = result(True, before=False)  # also the FID between two parts of the real split
    second_network: Literal["effnetlite0", "file"] | None = result(None, later=True)  # for a Fréchet distance more
    also: tuple[Any, ...] = methods("metric")  # further ones: names, or sections of a metric's own options
    second_network_file: str | None = performance(None, path=True)  # TorchScript; its content is in the key
    inception: str | None = performance(None, path=True)  # path of the FID network; None: search
    batch_size: int = performance(10)  # images a forward pass

    def __post_init__(self) -> None:
        chosen = (section_of("metric", "metrics.also", item) for item in self.also)
        object.__setattr__(self, "also", tuple(chosen))


@dataclass(frozen=True)
class TrialConfig:
    """One point of a study. Methods may be given by name: TrialConfig(upscaler="bicubic")."""

    level: int = result(1)  # wavelet level of the private coarse image, of side H / 2^level
    blur: str = result("none")  # f(i): none, linear, log, quadratic, cubic, quartic, triangular, heat
    seed: int = result(0)  # replicate: moves the private fit, the samples and the downstream test
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


def with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The same sections with every path absolute: workers run in folders of their own. What does not exist is left to
    whoever opens it, unless it is a path of the data: an upscaler's may be a hub id."""
    trial, found = trial_of(values), dict(values)
    for name in sections(TrialConfig):
        section, config = values.get(name), getattr(trial, name)
        if not isinstance(section, dict) or config is None:
            continue
        changes = {}
        for field_name in paths(type(config)):
            path = section.get(field_name)
            if path and (name not in METHODS or Path(path).expanduser().exists()):
                changes[field_name] = str(Path(path).expanduser().absolute())
        found[name] = {**section, **changes}
    return found
