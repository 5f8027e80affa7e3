"""What a trial is made of: frozen dataclasses, one per stage, every field in exactly one class.

    PRIVACY      enters the stage key and the ledger (changing it changes the guarantee)
    RESULT       enters the stage key (changing it changes the numbers)
    PERFORMANCE  enters neither: must not change results beyond rounding (device, threads, microbatch size, paths)

`fields_of(config, *classes)` is the only way a stage key sees a config, so a field cannot be forgotten or leak in.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal, get_args, get_type_hints

from wavedp.errors import UserError

FieldClass = Literal["privacy", "result", "performance"]


def privacy(default: Any, later: bool = False) -> Any:
    """A field that changes the privacy guarantee. later: added after studies were published, so that at its default it
    is in no identity, and their keys stay what they are."""
    return field(default=default, metadata={"class": "privacy", "later": later})


def result(default: Any, later: bool = False, before: Any = None) -> Any:
    """A field that changes the numbers a stage produces. later: as in `privacy`. before: what was done when there was
    no such field, if that is not the default now: it is that value which is in no identity."""
    metadata = {"class": "result", "later": later or before is not None}
    return field(default=default, metadata=metadata if before is None else {**metadata, "before": before})


def performance(default: Any) -> Any:
    """A field that changes only how fast, where or with how much memory a stage runs."""
    return field(default=default, metadata={"class": "performance"})


@dataclass(frozen=True)
class DataConfig:
    """A dataset: which images, at which size, divided how.

    name: fashion_mnist | openclipart | photographs | procedural | folder.
    split: `official` (the publisher's train and test) or `dpimagebench` (its train divided 55,000/5,000 with seed 0).
    size, channels: H = W in pixels; 1 (grey) or 3 (RGB). Sets that are rendered or read from a folder take any size.
    limit: keep only the first `limit` records of every split (None: all).
    n_records: size of the procedural set's train split.
    path: root of a folder dataset. home: where downloads and rendered copies are kept.
    """

    name: str = result("fashion_mnist")
    split: Literal["official", "dpimagebench"] = result("official")
    size: int = result(28)
    channels: int = result(1)
    limit: int | None = result(None)
    n_records: int = result(2048)
    path: str | None = performance(None)
    home: str = performance(".wavedp/data")


@dataclass(frozen=True)
class TokenizerConfig:
    """Coarse images to codes. Fields below `coarsest` are for the learned tokenizers alone.

    name: scalar | spectral | raster (see wavedp.tokenizers). wavelet, bins, detail_bins, detail_range: of scalar, see
    wavedp.tokenizers.scalar for ranges and error. coarsest: halve the image until its side is at most this, or odd.
    patch: side of a patch of the coarsest scale, in its pixels. codes, detail_codes: of the codebook for the
    approximation (raster: the only one) and for all details. code_width: of a code vector.
    width, heads, encoder_depth, decoder_depth: of the transformers. scale_causal: which of them see no finer scale.
    train_steps, train_batch, train_learning_rate: of the public training; the rate rises, then falls along a cosine.
    commitment, perceptual, adversarial: weights of the losses (the last two published as 0.1; 0: off).
    """

    name: str = result("scalar")
    wavelet: str = result("haar")
    bins: int = result(32)
    detail_bins: int = result(7)
    detail_range: float = result(0.3)
    coarsest: int = result(8)
    patch: int = result(1)
    codes: int = result(64)
    detail_codes: int = result(256)
    code_width: int = result(8)
    width: int = result(64)
    heads: int = result(4)
    encoder_depth: int = result(2)
    decoder_depth: int = result(3)
    scale_causal: Literal["both", "decoder", "encoder", "none"] = result("both")
    train_steps: int = result(600)
    train_batch: int = result(32)
    train_learning_rate: float = result(1e-3)
    commitment: float = result(0.25)
    perceptual: float = result(0.0)
    adversarial: float = result(0.0)
    public_seed: int = result(0)


@dataclass(frozen=True)
class GeneratorConfig:
    """Stage one's model and its public pretraining.

    name: spectral_ar | blur_diffusion | public | real (see wavedp.generators). width, depth, heads: of the transformer.
    conditioning: on the class, or on captions through a frozen sentence encoder (wavedp.text).
    condition_dropout: how often a training image is shown without its condition, which guidance needs.
    pretrain_level: wavelet level of the public images (None: the trial's; 0: every scale, which all levels then share
    and upscaler=spectral needs). pretrain_steps: 0 leaves the weights random. pretrain_batch: images a step.
    pretrain_learning_rate: at the start; it falls to 0 along a cosine. public_seed: of weights and batches.
    """

    name: str = result("spectral_ar")
    width: int = result(64)
    depth: int = result(2)
    heads: int = result(4)
    conditioning: Literal["class", "text"] = result("class")
    condition_dropout: float = result(0.0)
    pretrain_level: int | None = result(None)
    pretrain_steps: int = result(300)
    pretrain_batch: int = result(128)
    pretrain_learning_rate: float = result(4e-3)
    public_seed: int = result(0)


@dataclass(frozen=True)
class DiffusionConfig:
    """What generator=blur_diffusion diffuses, and with which network.

    timesteps: T. noise_schedule: of β (wavedp.diffusion.blur). blur_f_max: f(T), in variances of the base kernel (None:
    the paper's 0.600625 for blur=log, 0.140625 for the others). blur_sigma: of the base kernel, pixels. basis: dct
    reflects at the borders, zero_pad darkens them as in the paper. heat_sigma_max: of blur=heat, pixels. blur_order: of
    generation; fine_to_coarse is the control that takes the lowest frequencies first.
    channels: of the U-Net's first level, a multiple of 16. layers: residual blocks a level. multiplicity: times and
    noises a view, averaged before clipping. snr_gamma: of the loss weights (0: none).
    """

    timesteps: int = result(1000)
    noise_schedule: Literal["linear", "cosine"] = result("cosine")
    blur_f_max: float | None = result(None)
    blur_sigma: float = result(0.4)
    basis: Literal["dct", "zero_pad"] = result("dct")
    heat_sigma_max: float = result(20.0)
    blur_order: Literal["coarse_to_fine", "fine_to_coarse"] = result("coarse_to_fine")
    channels: int = result(16)
    layers: int = result(1)
    multiplicity: int = result(2)
    snr_gamma: float = result(5.0)


@dataclass(frozen=True)
class PrivacyConfig:
    """The private fit: the mechanism (PRIVACY) and the optimiser around it (RESULT).

    epsilon: the budget of one release; `inf` is the non-private reference (no noise, no clipping).
    delta: probability of failure; None means 1 / (N ln N), DPImageBench's rule (its logs, N = 55,000 gives 1.666e-6).
    batch_size: expected size of a Poisson batch (records); sample rate q = batch_size / N.
    steps: optimiser steps, empty batches included. max_grad_norm: clipping norm C of one record's gradient.
    clipping: flat shortens gradients longer than C; normalize also lengthens the shorter ones (privacy.clipping).
    mean_share: share of epsilon, in [0, 1), for the class means of the coarsest band, released before the fit.
    noise_source: of sampling and noise, the trial's seed or (secure) the system's own secrets: then no run can be
    repeated (wavedp.privacy.randomness).
    accountant: pld calibrates the noise; prv cross-checks it. ema_decay: of the weights that are sampled from.
    views: augmented copies of a record whose gradients are averaged before clipping (see wavedp.views).
    trained: which weights the fit may move: all, attention and condition, or low-rank updates of rank lora_rank.
    scale_decay: a token of scale s weighs scale_decay^s in the loss (1: all alike; below 1: coarse ones count more).
    optimizer: adam_bc is Adam without the noise's bias in its second moment; adam_floor is the least it divides by, in
    standard deviations of that noise (privacy.optimizers; the other optimisers do not read it).
    microbatch_size: records per forward pass. grad_sample_mode: how gradients are split by record, Opacus' hooks or
    ghost, or bookkeeping, the fastest, for common layers (privacy.clipping). checkpoint_every: steps.
    """

    epsilon: float = privacy(10.0)
    delta: float | None = privacy(None)
    batch_size: int = privacy(128)
    steps: int = privacy(320)
    max_grad_norm: float = privacy(1.0)
    accountant: Literal["pld"] = privacy("pld")
    relation: Literal["add_or_remove_one"] = privacy("add_or_remove_one")
    clipping: Literal["flat", "normalize"] = privacy("flat")
    mean_share: float = privacy(0.0)
    noise_source: Literal["seeded", "secure"] = privacy("seeded", later=True)
    optimizer: Literal["adam", "sgd", "adam_bc"] = result("adam")
    adam_floor: float = result(0.3)
    learning_rate: float = result(3e-3)
    ema_decay: float = result(0.9)
    views: int = result(1)
    trained: Literal["all", "attention", "lora"] = result("all")
    lora_rank: int = result(8)
    scale_decay: float = result(1.0)
    microbatch_size: int = performance(64)
    grad_sample_mode: Literal["auto", "hooks", "ghost", "bookkeeping"] = performance("auto")
    checkpoint_every: int = performance(20)


@dataclass(frozen=True)
class SamplingConfig:
    """Coarse samples: n images, classes in equal shares. temperature, top_k, top_p: of the token distribution.

    guidance: 1 samples the conditional model; above 1 it moves on from the unconditional one (needs condition_dropout).
    prompts: a file with one public prompt a line, for conditioning=text (None: the captions of the public test split).
    Its content enters the key, not its path.
    diffusion_steps, algorithm, timestep_spacing: of generator=blur_diffusion (wavedp.diffusion.scheduler). seed: other
    samples of the same private fit, which cost no ε; the classifiers of `evaluate` are not moved by it.
    """

    n: int = result(1000)
    temperature: float = result(0.85)
    top_k: int | None = result(None)
    top_p: float | None = result(None)
    guidance: float = result(1.0)
    diffusion_steps: int = result(20)
    algorithm: Literal["reverse_diffusion", "ancestral", "ddim", "dpmsolver++"] = result("dpmsolver++")
    timestep_spacing: Literal["uniform", "quadratic", "logsnr", "blur_aware"] = result("logsnr")
    seed: int = result(0, later=True)
    prompts: str | None = performance(None)
    batch_size: int = performance(500)


@dataclass(frozen=True)
class UpscalerConfig:
    """Stage two. name: identity, nearest, bilinear, bicubic, lanczos, realesrgan_x4plus, realsr_df2k_x4,
    animevideov3_x2, animevideov3_x3, animevideov3_x4; spandrel: the network in the file `path`; ldm_sr, sd_x4: latent
    diffusion of the hub or of the folder `path`; spectral: the public generator completes the finer scales;
    blur_diffusion: a U-Net trained on public images, of the size and process in DiffusionConfig, deblurs;
    wavelet_detail: a network trained on public images draws the missing bands. temperature: of the tokens that spectral
    draws. train_steps, train_batch, train_learning_rate, public_seed: training of the last two, one model for all
    levels. blur: f(i) of blur_diffusion. diffusion_steps: it draws in, counted from pure noise; it enters where the
    blur is the level's; ldm_sr and sd_x4 draw in as many. weights: folder that holds the model's files (None: search).
    detail: what wavelet_detail learns by (upscalers.detail_losses). detail_perceptual, detail_adversarial: weights of
    detail=adversarial. detail_width, detail_depth: of its network.
    low_pass_consistency: replace the block means of what the model drew by the coarse image (the trained ones always
    do). engine: what runs the published networks. precision: of the networks, where torch runs them. tile: side of the
    tiles that large coarse images go through a network in (None: whole; wavedp.upscalers.tiling). prompt: public text
    for sd_x4. path, revision: the weights of spandrel, ldm_sr and sd_x4 (wavedp.weight_files); the key has their
    content or the hub id and commit, never a path. batch_size: images a pass. channels_last: memory layout of
    engine=torch."""

    name: str = result("realsr_df2k_x4")
    temperature: float = result(1.0)
    blur: str = result("quartic")
    train_steps: int = result(600)
    train_batch: int = result(64)
    train_learning_rate: float = result(2e-3)
    public_seed: int = result(0)
    diffusion_steps: int = result(20)
    weights: str | None = performance(None)
    detail: Literal["adversarial", "regression", "sampled"] = result("adversarial", later=True)
    detail_perceptual: float = result(0.0, later=True)
    detail_adversarial: float = result(0.03, later=True)
    detail_width: int = result(64, later=True)
    detail_depth: int = result(6, later=True)
    low_pass_consistency: bool = result(False, later=True)
    engine: Literal["ncnn", "torch"] = result("ncnn", later=True)
    precision: Literal["float32", "bfloat16"] = result("float32", later=True)
    tile: int | None = result(None, later=True)
    prompt: str = result("", later=True)
    revision: str | None = result(None, later=True)
    path: str | None = performance(None)
    batch_size: int = performance(50)
    channels_last: bool = performance(False)


@dataclass(frozen=True)
class MetricsConfig:
    """What `evaluate` measures.

    fid_samples: generated images used for FID and KID. reference_samples: real images of `reference_split` (None:
    all). mode: the resize, clean (clean-fid's), pytorch (pytorch-fid's and DPImageBench's) or tensorflow
    (torch-fidelity's and the first FID code's). precision: of the feature network; bfloat16 is faster on CPUs made
    for it and gives another number, under another name. downstream_steps: optimiser steps of the small CNN (0: no
    accuracy). downstream: what learns from the generated images, that CNN or the classifiers of a protocol in
    metrics.dpimagebench, which are tested on the test split. floor: the FID between two parts of the real split
    too, which a perfect generator would get. second_network: another one for a Fréchet distance beside the FID,
    effnetlite0 or the TorchScript file second_network_file, whose content enters the key, not its path
    (metrics.second_networks). inception: path of the FID network (None: search). batch_size: images a forward pass.
    """

    mode: Literal["clean", "pytorch", "tensorflow"] = result("clean")
    precision: Literal["float32", "bfloat16"] = result("float32")
    fid_samples: int = result(1000)
    reference_split: Literal["train", "val", "test"] = result("test")
    reference_samples: int | None = result(2000)
    kid: bool = result(True)
    downstream_steps: int = result(400)
    downstream: Literal["cnn", "dpimagebench", "small"] = result("cnn", later=True)
    floor: bool = result(True, before=False)
    second_network: Literal["effnetlite0", "file"] | None = result(None, later=True)
    second_network_file: str | None = performance(None)
    inception: str | None = performance(None)
    batch_size: int = performance(10)


@dataclass(frozen=True)
class TrialConfig:
    """One point of a study.

    level: wavelet level of the private coarse image (side H / 2^level). blur: f(i) of blur diffusion (none, linear,
    log, quadratic, cubic, quartic, triangular, heat), `none` for generators without one. seed: replicate; it moves the
    private fit, the samples and the downstream test.
    """

    level: int = result(1)
    blur: str = result("none")
    seed: int = result(0)
    device: str = performance("auto")
    data: DataConfig = field(default_factory=DataConfig)
    public: DataConfig | None = field(default_factory=lambda: DataConfig(name="openclipart"))
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    upscaler: UpscalerConfig = field(default_factory=UpscalerConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)


def fields_of(config: Any, *classes: FieldClass) -> dict[str, Any]:
    """The fields of one section (nested sections excluded) whose class is among `classes`, as plain JSON values.

    Raises TypeError for a field without a class: every field must be in exactly one.
    """
    chosen = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) or item.default_factory is not dataclasses.MISSING:
            continue
        if item.metadata.get("class") not in get_args(FieldClass):
            raise TypeError(f"{type(config).__name__}.{item.name} is in no field class")
        if item.metadata["class"] in classes:
            chosen[item.name] = "inf" if isinstance(value, float) and math.isinf(value) else value
    return chosen


def identity(config: Any) -> dict[str, Any]:
    """The fields that make two sections the same for a stage key: PRIVACY and RESULT, but for those added `later` that
    say what was done before them."""
    young = {
        item.name: item.metadata.get("before", item.default) for item in fields(config) if item.metadata.get("later")
    }
    chosen = fields_of(config, "privacy", "result")
    return {name: value for name, value in chosen.items() if name not in young or value != young[name]}


def sections(cls: type) -> list[str]:
    """The names of a config's fields, nested sections included."""
    return [item.name for item in fields(cls)]


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Build a config from plain nested dicts (what Hydra resolves to), strict about names and types.

    Raises UserError naming the key for an unknown field, a wrong type or a value outside a Literal.
    """
    hints = _hints(cls)
    known = {item.name for item in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"{cls.__name__} has no field {unknown[0]!r}: it has {', '.join(sorted(known))}.")
    return cls(**{name: _convert(f"{cls.__name__}.{name}", hints[name], value) for name, value in values.items()})


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of every field; `from_dict(type(config), to_dict(config)) == config`."""
    return dataclasses.asdict(config)


_hints = lru_cache(maxsize=None)(get_type_hints)  # a plan of 180 trials asks 1,620 times


def _convert(where: str, hint: Any, value: Any) -> Any:
    options = get_args(hint)
    if type(None) in options:
        if value is None:
            return None
        hint = next(option for option in options if option is not type(None))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a section of fields, not {value!r}.")
        return from_dict(hint, value)  # type: ignore[arg-type]
    if getattr(hint, "__origin__", None) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{where}={value!r} is not offered: use one of {', '.join(map(str, get_args(hint)))}.")
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise UserError(f"{where}={value!r} is not a number: give a number or `inf`.") from None
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}={value!r} must be {hint.__name__}, not {type(value).__name__}.")
