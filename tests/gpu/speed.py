"""Sections of tests/gpu/check.py that measure: seconds, images a second, and device memory.

Private steps are timed in `fit_private` itself, between two of its reports, so sampling, transfers, noise and the
optimiser are in them; the first steps, which choose kernels and microbatches and compare records, are not.
Medians count.

    B  expected batch   K  noises of a record
"""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from correctness import distance, needs_network, row, transformer, unet
from setting import Row, Setting

MODES = ("bookkeeping", "hooks", "ghost")


def transformer_step(setting: Setting) -> Iterator[Row]:
    """A private step of the transformer of width 256 and depth 6, 98 tokens, B = 2,048, beside one without privacy."""
    sizes = {"width": 32, "depth": 1, "heads": 4} if setting.small else {"width": 256, "depth": 6, "heads": 8}
    n, batch = (512, 32) if setting.small else (60000, 2048)
    model, loss, records = transformer(setting, n, **sizes, views=1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    yield from _steps_of_modes(setting, (model, start, loss, records, 0), batch, MODES)


def unet_large_step(setting: Setting) -> Iterator[Row]:
    """A private step of the U-Net of 32 channels and 2 layers, 28×28, K = 32, B = 4,096. Where the whole step would
    take more than six seconds, its time is that of a sixteenth of B, times sixteen (projected true)."""
    n, batch, rows = (256, 16, 8) if setting.small else (60000, 4096, 64)
    sizes = {"side": 8, "noises": 2} if setting.small else {"side": 28, "channels": 32, "layers": 2, "noises": 32}
    model, loss, records = unet(setting, 1, views=1, **sizes)
    draws = records[-1].shape[1]
    started = _now(setting)
    there = model.to(setting.device).train()
    for place in range(3):
        if place == 1:
            started = _now(setting)
        loss(there, *(item.to(setting.device) for item in records)).sum().backward()
    alone = (_now(setting) - started) / 2
    model.zero_grad()
    yield {"name": "one record alone, which a fit does 64 times", "value": alone, "unit": "s", "peak_gib": None}
    images, labels = torch.rand(n, 1, sizes["side"], sizes["side"]), torch.randint(10, (n,))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fastest = setting.precisions[-1]
    wanted = [("plain", fastest), ("bookkeeping", fastest), ("bookkeeping", "float32")]
    for mode, precision in dict.fromkeys(wanted):
        about = f"{mode} {precision}"
        if mode != "plain" and 64 * alone > 45:
            yield _nothing(about, f"comparing 64 records alone would take {64 * alone:.0f} s")
            continue
        problem = (model, start, loss, (images, labels), draws)
        part = _step(setting, about, problem, mode, precision, max(batch // 16, 8), rows, steps=3)
        if part["value"] is None or setting.small:
            yield part
        elif 16 * part["value"] > 6:
            yield part | {"value": 16 * part["value"], "projected": True}
        else:
            yield _step(setting, about, problem, mode, precision, batch, rows, steps=4) | {"projected": False}


def wavelet_detail_training(setting: Setting) -> Iterator[Row]:
    """4,000 steps of 64 images of 28×28, from the median step before and after the discriminator joins."""
    from wavedp.config import configure
    from wavedp.upscalers.wavelet_detail import network
    from wavedp.upscalers.wavelet_detail.losses import JOINS

    steps = 12 if setting.small else 300
    sizes = {"detail_width": 16, "detail_depth": 1, "train_batch": 4} if setting.small else {"train_batch": 64}
    config = configure("upscaler", "wavelet_detail", train_steps=steps, **sizes)
    clock = _Clock(setting)
    network.fit_public(torch.rand(256, 1, 28, 28), config, setting.device, clock)
    joins = math.ceil(JOINS * steps)
    before, after = _median(clock.seconds[joins // 4 : joins]), _median(clock.seconds[joins + (steps - joins) // 4 :])
    value = 4000 * (JOINS * before + (1 - JOINS) * after)
    name = "4,000 steps of 64" if not setting.small else "4,000 steps, small"
    yield {"name": name, "value": value, "unit": "s", "peak_gib": clock.peak(), "step_before": before,
           "step_after": after, "slowest_step": max(clock.seconds)}  # fmt: skip


def fid_features_speed(setting: Setting) -> Iterator[Row]:
    """FID features a second, pytorch's resize, in batches of 500; the network is loaded before."""
    from wavedp.config import MetricsConfig
    from wavedp.metrics.features import extract

    needs_network(setting)
    count, batch = (4, 2) if setting.small else (10000, 500)
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    for precision in ("float32",) if setting.small else ("float32", "bfloat16"):
        config = MetricsConfig(mode="pytorch", precision=precision, inception=setting.inception, batch_size=batch)
        extract(images[: count // 5 + 1], config, device=setting.device)
        _forget_peak(setting)
        started = _now(setting)
        extract(images, config, device=setting.device)
        yield {"name": precision, "value": count / (_now(setting) - started), "unit": "images/s",
               "peak_gib": _peak(setting), "batch": batch}  # fmt: skip


def unet_step(setting: Setting) -> Iterator[Row]:
    """A private step of the U-Net of 32 channels and 2 layers, 14×14, K = 2, B = 512."""
    n, batch = (256, 16) if setting.small else (60000, 512)
    sizes = {"side": 8} if setting.small else {"side": 14, "channels": 32, "layers": 2}
    model, loss, records = unet(setting, 1, noises=2, views=1, **sizes)
    images, labels = torch.rand(n, 1, sizes["side"], sizes["side"]), torch.randint(10, (n,))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    problem = (model, start, loss, (images, labels), records[-1].shape[1])
    modes = ("bookkeeping",) if setting.small else ("bookkeeping", "hooks")
    yield from _steps_of_modes(setting, problem, batch, modes)


def sampling_speed(setting: Setting) -> Iterator[Row]:
    """Coarse samples and full-size images a second, as the stages make them."""
    from wavedp.config import DataConfig, DiffusionConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure
    from wavedp.methods import generator
    from wavedp.upscalers.wavelet_detail import network

    count = 8 if setting.small else 2500
    data = DataConfig(name="procedural", n_records=64, size=28)
    sizes = {"width": 32, "depth": 1} if setting.small else {"width": 256, "depth": 6, "heads": 8}
    channels = {} if setting.small else {"channels": 32, "layers": 2}
    for name, own in (("spectral_ar", sizes), ("blur_diffusion", {})):
        trial = TrialConfig(data=data, public=None, generator=configure("generator", name, pretrain_steps=0, **own),
                            diffusion=DiffusionConfig(**channels), privacy=PrivacyConfig())  # fmt: skip
        model = generator(trial).build(trial, {"tokenizer": {}}, setting.device)
        weights = model.fit_public(torch.zeros(0, 1, 14, 14), torch.zeros(0, dtype=torch.long), 0, _silent)
        sampling = SamplingConfig(n=count, batch_size=count, diffusion_steps=2 if setting.small else 20)
        model.sample(weights, torch.arange(count) % 10, sampling, 0, _silent)
        _forget_peak(setting)
        started = _now(setting)
        model.sample(weights, torch.arange(count) % 10, sampling, 0, _silent)
        yield {"name": f"{name}, {count} at once", "value": count / (_now(setting) - started), "unit": "images/s",
               "peak_gib": _peak(setting)}  # fmt: skip
    config = configure("upscaler", "wavelet_detail")
    found, images = network.build(config, 1).state_dict(), torch.rand(count, 1, 14, 14)
    network.complete(config, found, setting.device, images[:50], 2)
    started = _now(setting)
    for part in images.split(50):  # as the stage upscale
        network.complete(config, found, setting.device, part, 2)
    yield {"name": "wavelet_detail, 50 at once", "value": count / (_now(setting) - started), "unit": "images/s",
           "peak_gib": None}  # fmt: skip


def pretraining_step(setting: Setting) -> Iterator[Row]:
    """A step of public pretraining of 256 images of 14×14."""
    from wavedp.config import DataConfig, DiffusionConfig, TrialConfig, configure
    from wavedp.methods import generator

    steps, batch = (6, 8) if setting.small else (60, 256)
    images, labels = torch.rand(512, 1, 14, 14), torch.randint(10, (512,))
    data = DataConfig(name="procedural", n_records=64, size=28)
    sizes = {"width": 32, "depth": 1} if setting.small else {"width": 256, "depth": 6, "heads": 8}
    channels = {} if setting.small else {"channels": 32, "layers": 2}
    for name, own in (("spectral_ar", sizes), ("blur_diffusion", {})):
        config = configure("generator", name, pretrain_steps=steps, pretrain_batch=batch, **own)
        trial = TrialConfig(data=data, public=None, generator=config, diffusion=DiffusionConfig(**channels))
        clock = _Clock(setting)
        generator(trial).build(trial, {"tokenizer": {}}, setting.device).fit_public(images, labels, 0, clock)
        yield {"name": name, "value": _median(clock.seconds[steps // 3 :]), "unit": "s", "peak_gib": clock.peak(),
               "slowest_step": max(clock.seconds)}  # fmt: skip


def out_of_memory(setting: Setting) -> Iterator[Row]:
    """Where a microbatch is too large for the card, a fit goes on in smaller ones, and ends where one of small
    microbatches ends. The card's memory is bounded for this process meanwhile; a CPU's is said to be full by a stand-in
    that refuses more than 20 records."""
    sizes = {"width": 32, "depth": 1, "heads": 4} if setting.small else {"width": 256, "depth": 6, "heads": 8}
    n, batch = (512, 32) if setting.small else (20000, 1024)
    model, loss, records = transformer(setting, n, **sizes, views=1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    ends, refusals, few = {}, {}, 12 if setting.small else 48
    for rows in (few, 2 * batch, "auto"):
        with bounded_memory(setting, gib=4, records=20):
            clock = _fit(setting, (model, start, loss, records, 0), "bookkeeping", "float32", batch, rows, steps=3)
        ends[rows] = [value.cpu().clone() for value in model.state_dict().values()]
        refusals[rows] = clock.refusals
    first = list(start.values())
    for rows, words in ((2 * batch, "a microbatch of twice the batch"), ("auto", "auto")):
        yield row(words, distance(ends[rows], ends[few], first), 2e-3)
        yield row(f"{words}, memory sufficed", not refusals[rows], 0)
    yield row(f"{few} records, halvings", refusals[few], 0)


@contextlib.contextmanager
def bounded_memory(setting: Setting, gib: float, records: int) -> Iterator[None]:
    """On CUDA, this process gets no more than so much memory; on the CPU no sum of more than so many records."""
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    from wavedp.privacy.clipping import RecordGradients

    original = RecordGradients.clipped_sum

    def refused(self: Any, loss: Any, batch: Any, *rest: Any) -> Any:
        if len(batch[0]) > records:
            raise torch.OutOfMemoryError("a stand-in for a full card")
        return original(self, loss, batch, *rest)

    RecordGradients.clipped_sum = refused  # type: ignore[method-assign]
    try:
        yield
    finally:
        RecordGradients.clipped_sum = original  # type: ignore[method-assign]


SECTIONS = (transformer_step, unet_large_step, wavelet_detail_training, fid_features_speed, unet_step, sampling_speed,
            pretraining_step)  # fmt: skip

Problem = tuple[Any, dict[str, torch.Tensor], Callable[..., torch.Tensor], tuple[Any, ...], int]
"""Model, its first weights, loss, records, and the uniform numbers that a record's loss takes."""


class _Clock(logging.Handler):
    """A report that keeps the seconds of each step, first included, and a handler that counts how often memory did not
    suffice."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(logging.WARNING)
        self.setting, self.refusals = setting, 0
        self.seconds: list[float] = []
        _forget_peak(setting)
        self.last = _now(setting)

    def __call__(self, done: int, total: int) -> None:
        now = _now(self.setting)
        self.seconds.append(now - self.last)
        self.last = now

    def emit(self, record: logging.LogRecord) -> None:
        self.refusals += record.getMessage().startswith("Out of memory")

    def peak(self) -> float | None:
        return _peak(self.setting)


def _steps_of_modes(setting: Setting, problem: Problem, batch: int, modes: tuple[str, ...]) -> Iterator[Row]:
    """The fastest precision first, without privacy before each mode; microbatches as large as memory allows."""
    for precision in reversed(setting.precisions):
        for mode in ("plain", *(mode for mode in modes if mode != "ghost" or precision == "float32")):
            about = f"{mode} {precision}"
            yield _step(setting, about, problem, mode, precision, batch, "auto")


def _step(
    setting: Setting,
    about: str,
    problem: Problem,
    mode: str,
    precision: str,
    batch: int,
    rows: int | str,
    steps: int = 8,
) -> Row:
    """A row of the median step after the first two (or all but the first, of few)."""
    from wavedp.errors import UserError

    steps = min(steps, 3) if setting.small else steps
    try:
        clock = _fit(setting, problem, mode, precision, batch, rows, steps)
    except ModuleNotFoundError as error:
        return _nothing(about, f"the package {error.name} is not installed")
    except torch.OutOfMemoryError:
        return _nothing(about, f"out of memory with microbatch_size={rows}")
    except UserError as refusal:
        return _nothing(about, f"refused: {refusal}")
    counted = clock.seconds[2 if steps > 4 else 1 :]
    return {"name": about, "value": _median(counted), "unit": "s", "peak_gib": clock.peak(), "batch": batch,
            "microbatch": rows, "halvings": clock.refusals, "steps": counted,
            "first_step": clock.seconds[0]}  # fmt: skip


def _fit(
    setting: Setting, problem: Problem, mode: str, precision: str, batch: int, rows: int | str, steps: int
) -> _Clock:
    """fit_private from the first weights, on the clock."""
    from wavedp.config import PrivacyConfig
    from wavedp.privacy import accounting
    from wavedp.privacy.training import fit_private

    model, start, loss, records, draws = problem
    model.load_state_dict(start)
    config = PrivacyConfig(
        epsilon=math.inf if mode == "plain" else 10.0, batch_size=batch, steps=steps, microbatch_size=rows,
        grad_sample_mode="auto" if mode == "plain" else mode, precision=precision,
    )  # fmt: skip
    sigma = accounting.mechanisms(config, len(records[0]))[-1].noise_multiplier
    clock = _Clock(setting)
    log = logging.getLogger("wavedp.privacy")
    log.addHandler(clock)
    try:
        fit_private(model, loss, records, config, noise_multiplier=sigma, seed=0, draws=draws, device=setting.device,
                    report=clock)  # fmt: skip
    finally:
        log.removeHandler(clock)
    return clock


def _nothing(name: str, reason: str) -> Row:
    return {"name": name, "value": None, "unit": "", "peak_gib": None, "reason": reason}


def _now(setting: Setting) -> float:
    """Seconds, once the device is done."""
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _forget_peak(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _peak(setting: Setting) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else None


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _silent(done: int, total: int) -> None:
    """Nobody reads it."""
