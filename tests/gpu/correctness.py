"""Sections of tests/gpu/check.py that hold a device against the CPU.

A device's results are computed in other microbatches and batches than the CPU's, so that on the CPU alone the same code
has something to find. Tolerances are relative L2 distances: what float32, TF32 (10 bits) and bfloat16 (7 bits) leave
after a few layers.

    b  records   C  clipping norm   B  expected batch   L  tokens
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from setting import Missing, Row, Setting
from torch import Tensor, nn

MODES = ("bookkeeping", "hooks", "ghost")
ALLOWED = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 4e-2}
"""Of a clipped sum, against plain autograd over single records."""
FIT_ALLOWED = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2}
"""Of the way that the weights of a fit of a few steps go: the noise is the same, and most of that way."""


def row(name: str, error: float, allowed: float) -> Row:
    """A comparison; what is not finite is not equal."""
    if not math.isfinite(error):
        return without(name, "failed", f"the error is {error}")
    return {"name": name, "error": float(error), "allowed": allowed,
            "status": "passed" if error <= allowed else "failed", "reason": ""}  # fmt: skip


def without(name: str, status: str, reason: str) -> Row:
    """A row in which nothing was compared."""
    return {"name": name, "error": None, "allowed": None, "status": status, "reason": reason}


def distance(found: Sequence[Tensor], expected: Sequence[Tensor], start: Sequence[Tensor] | None = None) -> float:
    """|found - expected| / |expected - start|, L2 over all tensors together."""
    origin = [torch.zeros_like(tensor) for tensor in expected] if start is None else start
    off = sum(float((a.cpu().double() - b.cpu().double()).square().sum()) for a, b in zip(found, expected, strict=True))
    way = sum(float((b.cpu().double() - o.cpu().double()).square().sum())
              for b, o in zip(expected, origin, strict=True))  # fmt: skip
    return math.sqrt(off / way) if way else math.inf


def layer_cases() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """A layer and the shape of one record's input, so that each rule of wavedp.privacy.layer_rules runs in every
    branch: direct and Gram weights, strides, groups, padding modes, positions and none. Embeddings take ids below 7."""
    return {
        "Linear": (lambda: nn.Linear(5, 4), (5,)),
        "Linear, positions": (lambda: nn.Linear(5, 4, bias=False), (7, 5)),
        "Linear, Gram": (lambda: nn.Linear(64, 64), (2, 64)),
        "Conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 7, 6)),
        "Conv2d, stride and dilation": (
            lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), (4, 9, 7)),
        "Conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 7, 6)),
        "Conv2d, pointwise": (lambda: nn.Conv2d(4, 6, 1), (4, 5, 5)),
        "Conv2d, reflect": (lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (4, 7, 6)),
        "Conv2d, Gram": (lambda: nn.Conv2d(32, 32, 3, padding=1), (32, 2, 2)),
        "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (4, 11)),
        "Conv3d": (lambda: nn.Conv3d(4, 6, 3, stride=(2, 1, 2), padding=1, groups=2), (4, 5, 4, 6)),
        "Conv3d, circular": (lambda: nn.Conv3d(4, 6, 3, padding=1, padding_mode="circular"), (4, 4, 3, 5)),
        "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7)),
        "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (4, 5, 4)),
        "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2, stride=(2, 1, 2), padding=(0, 1, 0)), (4, 3, 4, 3)),
        "Embedding": (lambda: nn.Embedding(7, 5), (6,)),
        "Embedding, padding": (lambda: nn.Embedding(7, 5, padding_idx=2), (6,)),
        "LayerNorm": (lambda: nn.LayerNorm(5), (7, 5)),
        "LayerNorm, images": (lambda: nn.LayerNorm((4, 5)), (2, 4, 5)),
        "RMSNorm": (lambda: nn.RMSNorm(5), (7, 5)),
        "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 5, 6)),
    }  # fmt: skip


def clipped_sums_of_layers(setting: Setting) -> Iterator[Row]:
    """Each layer rule in every grad_sample_mode and precision, against autograd over single records in float64."""
    from wavedp.privacy.layer_rules import RULES

    cases = layer_cases()
    covered = {type(make()) for make, _ in cases.values()}
    yield row("layer rules without a case", len(set(RULES) - covered), 0)
    for name, (make, shape) in cases.items():
        torch.manual_seed(0)
        layer = make()
        for parameter in layer.parameters():  # ones and zeros would hide a forgotten affine map
            nn.init.normal_(parameter)
        by_id = isinstance(layer, nn.Embedding)
        x = torch.randint(7, (5, *shape)) if by_id else torch.randn(5, *shape)
        yield from _against_autograd(name, layer, _squared, (x,), setting, exact=torch.float64)


def clipped_sums_of_models(setting: Setting) -> Iterator[Row]:
    """The record losses of both generators, with two views and two noises, in every mode and precision."""
    sizes = {"width": 32, "depth": 2, "heads": 4}
    problems = {
        "transformer": transformer(setting, 5, **sizes, views=2),
        "transformer, one view": transformer(setting, 5, **sizes, views=1),  # what ghost can split
        "unet": unet(setting, 5),
    }
    for name, (model, loss, batch) in problems.items():
        yield from _against_autograd(name, model, loss, batch, setting, exact=torch.float32)


def transformer(
    setting: Setting, records: int, width: int = 32, depth: int = 2, heads: int = 4, views: int = 1
) -> tuple[nn.Module, Callable[..., Tensor], tuple[Any, ...]]:
    """spectral_ar over the scalar tokens of 14×14 images, its record loss and a batch."""
    from wavedp import tokenizers
    from wavedp.config import PrivacyConfig, configure
    from wavedp.generators.conditions import ClassCondition
    from wavedp.generators.spectral_ar.transformer import SpectralTransformer
    from wavedp.generators.token_model import record_loss

    tokenizer = tokenizers.untrained(configure("tokenizer", "scalar"), (1, 28, 28), 1)
    torch.manual_seed(0)
    model = SpectralTransformer(tokenizer, ClassCondition(10, width), width, depth, heads)
    loss = record_loss(tokenizer, PrivacyConfig(views=views), 0.0)
    return model, loss, (torch.rand(records, 1, 14, 14), torch.randint(10, (records,)))


def unet(
    setting: Setting, records: int, side: int = 8, channels: int = 16, layers: int = 1, noises: int = 2, views: int = 2
) -> tuple[nn.Module, Callable[..., Tensor], tuple[Any, ...]]:
    """blur_diffusion's U-Net, its record loss and a batch: images, labels, and the record's uniform numbers."""
    from wavedp.config import DiffusionConfig
    from wavedp.generators.blur_diffusion import model as blur_diffusion
    from wavedp.generators.conditions import ClassCondition
    from wavedp.generators.denoising import draws_of

    config, shape = DiffusionConfig(channels=channels, layers=layers, multiplicity=noises), (1, side, side)
    torch.manual_seed(0)
    model = blur_diffusion.Denoiser(shape, ClassCondition(10, 4 * channels), config)
    with torch.no_grad():
        for parameter in model.parameters():  # its last convolution and biases start near zero
            parameter += 0.05 * torch.randn_like(parameter)
    process = blur_diffusion.forward_process(config, "none")
    loss = blur_diffusion.record_loss(process, config, 0.0, views, noises)
    draws = torch.rand(records, draws_of(shape, views, noises))
    return model, loss, (torch.rand(records, *shape), torch.randint(10, (records,)), draws)


def private_fits(setting: Setting) -> Iterator[Row]:
    """A short private fit of each generator: the weights go the CPU's way, under the same release id, in every
    precision and mode; one that was stopped ends where the unbroken one ends."""
    for name in ("spectral_ar", "blur_diffusion"):
        trial, images, labels = _small_trial(name)
        start = _generator(trial, "cpu").fit_public(images[:64], labels[:64], 0, _silent)
        brief = setting.small and name == "blur_diffusion"
        modes = ("bookkeeping",) if brief else ("bookkeeping", "hooks")
        for precision in setting.precisions[-1:] if brief else setting.precisions:
            trial = _privacy(trial, precision=precision)
            with_cpu = _privacy(trial, grad_sample_mode="bookkeeping", microbatch_size=40)
            expected = _fit(with_cpu, "cpu", start, images, labels)
            for mode in modes:
                about = f"{name}, {mode} {precision}"
                mine = _privacy(trial, grad_sample_mode=mode, microbatch_size=10)
                try:
                    found = _fit(mine, setting.device, start, images, labels)
                except ModuleNotFoundError as error:
                    yield without(about, "skipped", f"the package {error.name} is not installed")
                    continue
                yield row(about, _way(found.weights, expected.weights, start), FIT_ALLOWED[precision])
                yield row(f"{about}, other release ids", found.releases != expected.releases, 0)
            resumed = _fit(with_cpu, setting.device, start, images, labels, stop=2)
            yield row(
                f"{name}, stopped and resumed {precision}",
                _way(resumed.weights, expected.weights, start),
                FIT_ALLOWED[precision],
            )


def wavelets_and_tokens(setting: Setting) -> Iterator[Row]:
    """Analysis, synthesis, block means, and the codes of images, one image at a time and together."""
    from wavedp import tokenizers
    from wavedp.config import configure
    from wavedp.wavelets import coarse, decompose, reconstruct, spread

    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    there = images.to(setting.device)
    for wavelet in ("haar", "db2", "bior4.4"):
        expected = decompose(images, 2, wavelet)
        parts = [decompose(image[None], 2, wavelet) for image in there]
        found = [torch.cat(bands) for bands in zip(*((part.approximation, *part.details) for part in parts),
                                                   strict=True)]  # fmt: skip
        yield row(f"{wavelet}, analysis", distance(found, [expected.approximation, *expected.details]), 1e-6)
        back = reconstruct(decompose(there, 2, wavelet), wavelet)
        yield row(f"{wavelet}, analysis and synthesis", distance([back], [images]), 1e-6)
    yield row("block means", distance([coarse(there, 2)], [coarse(images, 2)]), 1e-6)
    yield row("block means, spread", distance([spread(there, 4)], [spread(images, 4)]), 0)
    gray = images[:, :1, :28, :28]
    for name in ("scalar", "spectral", "raster"):
        torch.manual_seed(0)
        tokenizer = tokenizers.untrained(configure("tokenizer", name), (1, 28, 28), 1)
        small = coarse(gray, 1)
        codes = tokenizer.encode(small)
        decoded = tokenizer.decode(codes)
        each = torch.cat([tokenizer.encode(image[None].to(setting.device)) for image in small])
        yield row(f"{name}, share of other codes", float((each.cpu() != codes).float().mean()), 0.005)
        yield row(f"{name}, decoded", distance([tokenizer.decode(codes.to(setting.device))], [decoded]), 1e-4)


def samplers(setting: Setting) -> Iterator[Row]:
    """Samples from the same uniforms and noise: exact arithmetic first, then as the product draws them, on CUDA in
    bfloat16."""
    from wavedp.config import SamplingConfig
    from wavedp.full_precision import full_precision

    device = torch.device(setting.device)
    model, _, _ = transformer(setting, 1)
    model = model.eval()
    labels = torch.arange(24) % 10
    uniforms = torch.rand(24, model.length, generator=torch.Generator().manual_seed(0))
    expected = model.sample(labels, uniforms)
    with full_precision(device):
        there = copy.deepcopy(model).to(device)
        for cached in (True, False):
            found = torch.cat([there.sample(a.to(device), b.to(device), cached=cached).cpu()
                               for a, b in zip(labels.split(16), uniforms.split(16), strict=True)])  # fmt: skip
            share = float((found != expected).float().mean())
            yield row(f"transformer, share of other codes{'' if cached else ', no cache'}", share, 0.01)
        denoiser, _, (images, conditions, _) = unet(setting, 6)
        times = torch.arange(6) * 150
        with torch.no_grad():
            expected = denoiser(images, times, conditions)
            there = copy.deepcopy(denoiser).to(device)
            pairs = zip(images.split(4), times.split(4), conditions.split(4), strict=True)
            found = torch.cat([there(*(item.to(device) for item in items)) for items in pairs])
        yield row("unet", distance([found], [expected]), 1e-4)
    for name in ("spectral_ar", "blur_diffusion"):
        trial, images, labels = _small_trial(name)
        start = _generator(trial, "cpu").fit_public(images[:64], labels[:64], 0, _silent)
        shown, sizes = torch.arange(40) % 4, (SamplingConfig(batch_size=40), SamplingConfig(batch_size=16))
        kwargs = [dataclasses.replace(size, diffusion_steps=4) for size in sizes]
        expected = _generator(trial, "cpu").sample(start, shown, kwargs[0], 0, _silent)
        found = _generator(trial, setting.device).sample(start, shown, kwargs[1], 0, _silent)
        means = [torch.stack([part[shown == k].mean(0) for k in range(4)]) for part in (found, expected)]
        yield row(f"{name} as it is used, class means", distance(means[:1], means[1:]), 0.05)
        yield row(f"{name} as it is used, deviations", abs(float(found.std() / expected.std()) - 1), 0.05)


def public_trainings(setting: Setting) -> Iterator[Row]:
    """Weights that a device trained on public images for a few steps are as good as the CPU's, by a loss on the CPU."""
    from wavedp.config import configure
    from wavedp.upscalers.wavelet_detail import network
    from wavedp.wavelets import coarse

    for name in ("spectral_ar", "blur_diffusion"):
        trial, images, labels = _small_trial(name)
        ends = [_generator(trial, device).fit_public(images, labels, 0, _silent) for device in ("cpu", setting.device)]
        untrained = dataclasses.replace(trial, generator=dataclasses.replace(trial.generator, pretrain_steps=0))
        ends.append(_generator(untrained, "cpu").fit_public(images, labels, 0, _silent))
        cpu, found, first = (
            _generator(trial, "cpu").log_likelihoods(weights, images[:32], labels[:32])[1].mean() for weights in ends
        )
        yield row(f"{name}, loss gained", abs(found - cpu) / abs(cpu - first), 0.1)
    full = torch.rand(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for detail in ("adversarial", "regression", "sampled"):
        config = configure("upscaler", "wavelet_detail", detail=detail, train_steps=10, train_batch=8, detail_width=16,
                           detail_depth=2)  # fmt: skip
        small = coarse(full, 1)
        expected, found = (
            network.complete(config, network.fit_public(full, config, device, _silent), "cpu", small, 2)
            for device in ("cpu", setting.device)
        )
        yield row(f"wavelet_detail, {detail}", distance([found], [expected]), 0.02)


def upscalers(setting: Setting) -> Iterator[Row]:
    """Images of stage two, in batches of three: ready-made functions, networks on torch, and the trained one."""
    from wavedp.config import configure
    from wavedp.errors import UserError
    from wavedp.upscalers import load
    from wavedp.upscalers.ncnn.weights import find_weights
    from wavedp.upscalers.wavelet_detail import network

    images = torch.rand(5, 1, 14, 14, generator=torch.Generator().manual_seed(0))

    def apart(model: Any) -> Tensor:
        return torch.cat([model.upscale(part, 2) for part in images.split(3)])

    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        config = configure("upscaler", name)
        yield row(name, distance([apart(load(config, setting.device))], [load(config, "cpu").upscale(images, 2)]), 1e-5)
    config = configure("upscaler", "wavelet_detail", detail_width=16, detail_depth=2)
    torch.manual_seed(0)
    built = network.build(config, 1)
    with torch.no_grad():
        for parameter in built.parameters():  # its blocks begin as the identity
            parameter += 0.05 * torch.randn_like(parameter)
    weights = built.state_dict()
    expected = network.complete(config, weights, "cpu", images, 2)
    found = torch.cat([network.complete(config, weights, setting.device, part, 2) for part in images.split(3)])
    yield row("wavelet_detail", distance([found], [expected]), 2e-3)
    names = ("animevideov3_x2",) if setting.small else ("animevideov3_x2", "realesrgan_x4plus", "realsr_df2k_x4")
    for name in names:
        fields: dict[str, Any] = {"engine": "torch", "weights": setting.weights}
        try:
            find_weights(name, setting.weights)
        except UserError as error:
            yield without(name, "skipped", str(error))
            continue
        expected = load(configure("upscaler", name, **fields), "cpu").upscale(images, 2)
        layouts: dict[str, dict[str, Any]] = {
            "": {},
            ", channels last": {"channels_last": True},
            ", tiles": {"tile": 16},
            ", bfloat16": {"precision": "bfloat16"},
        }
        for words, options in layouts.items():
            found = apart(load(configure("upscaler", name, **fields, **options), setting.device))
            yield row(f"{name}{words}", distance([found], [expected]), 2e-2 if words == ", bfloat16" else 2e-3)


def fid_features(setting: Setting) -> Iterator[Row]:
    """Features in each mode and precision, in other batches. error: of the largest feature."""
    from wavedp.config import MetricsConfig
    from wavedp.metrics.features import extract

    needs_network(setting)
    count = 3 if setting.small else 24
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ways = [("pytorch", "float32", 3e-4)]
    if not setting.small:
        ways += [("clean", "float32", 3e-4), ("tensorflow", "float32", 3e-4), ("clean", "bfloat16", 5e-2)]
    for mode, precision, allowed in ways:
        config = MetricsConfig(mode=mode, precision=precision, inception=setting.inception)
        expected = extract(images, config)
        found = extract(images, dataclasses.replace(config, batch_size=max(count // 2, 2)), device=setting.device)
        yield row(f"{mode} {precision}", float((found - expected).abs().max() / expected.abs().max()), allowed)


def metrics(setting: Setting) -> Iterator[Row]:
    """The numbers of a trial: FID, KID, precision and recall, spectra, the floor, and a classifier's accuracy, whose
    error is a difference of shares."""
    from wavedp import data
    from wavedp.config import DataConfig, MetricsConfig
    from wavedp.metrics import suite

    needs_network(setting)
    count = 6 if setting.small else 64
    real = data.load(DataConfig(name="procedural", n_records=4 * count, size=16), "train")
    images, labels = torch.tensor(real.images), torch.tensor(real.labels)
    config = MetricsConfig(
        mode="pytorch",
        fid_samples=count,
        reference_samples=count,
        reference_split="train",
        downstream_steps=30,
        also=({"name": "prdc", "k": 2}, "spectrum"),
        inception=setting.inception,
    )
    noisy = (images.float() + 20 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    sides: list[dict[str, float]] = []
    for device, batch in (("cpu", 50), (setting.device, 4)):
        mine = dataclasses.replace(config, batch_size=batch)
        load = lambda split: (images, labels)  # noqa: E731
        with tempfile.TemporaryDirectory() as cache:
            reference = suite.make_reference(load, mine, Path(cache), device=device)
            sides.append(suite.evaluate(noisy.to(torch.uint8)[:2 * count], labels[:2 * count], reference, load,
                                        lambda split: len(images), mine, 0, Path(cache), device=device))  # fmt: skip
    expected, found = sides
    yield row("names that only one side has", len(set(expected) ^ set(found)), 0)
    for name, value in expected.items():
        if name.startswith("acc"):
            yield row(name, abs(found[name] - value), 0.15)
        else:
            yield row(name, abs(found[name] - value) / max(abs(value), 0.01), 1e-2)


SECTIONS = (clipped_sums_of_layers, clipped_sums_of_models, private_fits, wavelets_and_tokens, samplers,
            public_trainings, upscalers, fid_features, metrics)  # fmt: skip


def _squared(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 0.5).square().flatten(1).sum(1)


def _against_autograd(
    name: str, model: nn.Module, loss: Callable[..., Tensor], batch: tuple[Any, ...], setting: Setting,
    exact: torch.dtype,
) -> Iterator[Row]:  # fmt: skip
    """Clipped sums of two microbatches of three and two records against Σ_i min(1, C/|g_i|) g_i, with C the median
    |g_i|: half are clipped."""
    double = copy.deepcopy(model).to(exact)
    inputs = [item.to(exact) if item.is_floating_point() else item for item in batch]
    parameters = [item for item in double.parameters() if item.requires_grad]
    each = [torch.autograd.grad(loss(double, *(item[place:place + 1] for item in inputs)).sum(), parameters,
                                materialize_grads=True, allow_unused=True)
            for place in range(len(batch[0]))]  # fmt: skip
    norms = [math.sqrt(sum(float(part.double().square().sum()) for part in gradient)) for gradient in each]
    bound = sorted(norms)[len(norms) // 2]
    expected = [sum(min(1.0, bound / norm) * part for norm, part in zip(norms, column, strict=True))
                for column in zip(*each, strict=True)]  # fmt: skip
    for mode in MODES:
        for precision in setting.precisions if mode != "ghost" else ("float32",):  # ghost refuses all others
            about = f"{name}, {mode} {precision}"
            try:
                found = _clipped(model, loss, batch, bound, mode, precision, setting.device)
            except ModuleNotFoundError as error:
                yield without(about, "skipped", f"the package {error.name} is not installed")
                continue
            if isinstance(found, str):
                here = _clipped(model, loss, batch, bound, mode, precision, "cpu")
                yield without(about, "refused" if here == found else "failed", found)
            else:
                yield row(about, distance(found, expected), ALLOWED[precision])


def _clipped(
    model: nn.Module, loss: Callable[..., Tensor], batch: tuple[Any, ...], bound: float, mode: Any, precision: str,
    device: str,
) -> list[Tensor] | str:  # fmt: skip
    """The clipped sum, or the words of a refusal."""
    from wavedp.errors import UserError
    from wavedp.privacy.clipping import RecordGradients

    there = copy.deepcopy(model).to(device).train()
    half = (len(batch[0]) + 1) // 2
    gradients = None
    try:
        gradients = RecordGradients(there, bound, mode, "flat", precision=precision)
        size = None if precision == "float32" else half  # as in a fit: a smaller microbatch is filled up
        parts = [gradients.clipped_sum(loss, [item[rows].to(device) for item in batch], size)
                 for rows in (slice(0, half), slice(half, None))]  # fmt: skip
    except UserError as refusal:
        return str(refusal)
    finally:
        if gradients is not None:
            gradients.close()
    return [a + b for a, b in zip(*parts, strict=True)]


def _small_trial(name: str) -> tuple[Any, Tensor, Tensor]:
    """A trial of this generator at level 1 on 16×16 images, and its coarse images and labels."""
    from wavedp import data
    from wavedp.config import DataConfig, DiffusionConfig, PrivacyConfig, TrialConfig, configure
    from wavedp.wavelets import coarse

    sizes = {"width": 32, "depth": 1} if name == "spectral_ar" else {}
    trial = TrialConfig(
        data=DataConfig(name="procedural", n_records=256, size=16),
        public=DataConfig(name="procedural", split="public", n_records=64, size=16),
        generator=configure("generator", name, pretrain_steps=12, pretrain_batch=16, **sizes),
        diffusion=DiffusionConfig(multiplicity=2),
        privacy=PrivacyConfig(epsilon=5.0, batch_size=24, steps=5, checkpoint_every=1, learning_rate=1e-3),
    )
    records = data.load(trial.data, "train")
    return trial, coarse(torch.tensor(records.images).float() / 255, 1), torch.tensor(records.labels)


def _privacy(trial: Any, **changes: Any) -> Any:
    return dataclasses.replace(trial, privacy=dataclasses.replace(trial.privacy, **changes))


def _generator(trial: Any, device: str) -> Any:
    from wavedp import methods

    return methods.generator(trial).build(trial, {"tokenizer": {}}, device)


class _Stopped(Exception):
    """Raised by a report, as wavedp.run does when its minutes are over."""


def _fit(trial: Any, device: str, start: dict[str, Tensor], images: Tensor, labels: Tensor, stop: int = 0) -> Any:
    """The private fit; stop: broken off after that many steps, and taken up again."""
    from wavedp import methods
    from wavedp.generators import FitSettings

    planned = methods.generator(trial).mechanisms(trial, len(images))

    def report(done: int, total: int) -> None:
        if done == stop:
            raise _Stopped

    with tempfile.TemporaryDirectory() as folder:
        settings = FitSettings(trial.privacy, planned, 0, Path(folder) / "checkpoint.safetensors")
        if stop:
            with contextlib.suppress(_Stopped):
                _generator(trial, device).fit_private(start, images, labels, settings, report)
        return _generator(trial, device).fit_private(start, images, labels, settings, _silent)


def _way(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Off by how much of the way from the start."""
    names = [name for name in expected if name in start and start[name].is_floating_point()]
    return distance(*([weights[name] for name in names] for weights in (found, expected, start)))


def needs_network(setting: Setting) -> None:
    """Raises Missing without the FID network."""
    from wavedp.errors import UserError
    from wavedp.metrics.network_file import find_network

    try:
        find_network(setting.inception)
    except UserError as error:
        raise Missing(str(error)) from error


def _silent(done: int, total: int) -> None:
    """Nobody reads it."""
