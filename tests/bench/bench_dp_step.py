"""The price of privacy: an optimiser step in each grad_sample_mode, in time and memory, as a multiple of one without.

    python tests/bench/bench_dp_step.py [--model transformer|unet] [--repeats 7] [--records 64 512] [--threads 1]

All take turns, in an order that reverses each round, so that a busy machine slows all of them; medians count, of wall
time and of processor time, which other processes disturb less. Memory is the peak that one step allocates beyond what
was there before (CPU tensors), in a pass of its own. unet: the Denoiser of generator=blur_diffusion at its default
size, 1×14×14 and multiplicity 2, which ghost refuses; `at once` sends both noises through it together. functorch is
Opacus' mode of that name (force_functorch), which the product does not offer; its clipping is ours. bfloat16 is
privacy.precision=bfloat16; ratios are to the plain step in float32.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from bench_blur import peak_bytes
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn import functional as F

from wavedp.config import DiffusionConfig
from wavedp.generators.blur_diffusion import model as blur_diffusion
from wavedp.generators.conditions import ClassCondition
from wavedp.generators.denoising import draws_of
from wavedp.privacy.clipping import RecordGradients, clipping_factors, noisy_mean, plain_sum

WIDTH, DEPTH, HEADS, TOKENS, VOCABULARY, MICROBATCH = 96, 3, 4, 98, 343, 64


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.grow, self.shrink = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):  # b L D -> b L D
        b, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, length, WIDTH)
        x = x + self.out(mixed)
        return x + self.shrink(F.gelu(self.grow(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.code, self.place = nn.Embedding(VOCABULARY + 1, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, codes):  # b L -> b L vocabulary
        shifted = F.pad(codes[:, :-1], (1, 0), value=VOCABULARY)
        places = torch.arange(TOKENS).expand(len(codes), -1).contiguous()
        return self.head(self.norm(self.blocks(self.code(shifted) + self.place(places))))


def loss_fn(model, codes):
    return F.cross_entropy(model(codes).transpose(1, 2), codes, reduction="none").sum(1)


def transformer(records):
    codes = torch.randint(VOCABULARY, (records, TOKENS), generator=torch.Generator().manual_seed(1))
    return Transformer, {"": loss_fn}, (codes,)


def unet(records):
    config, shape, n_classes = DiffusionConfig(), (1, 14, 14), 10
    generator = torch.Generator().manual_seed(1)
    batch = (
        torch.rand(records, *shape, generator=generator),
        torch.randint(n_classes, (records,), generator=generator),
        torch.rand(records, draws_of(shape, 1, config.multiplicity), generator=generator),
    )
    process = blur_diffusion.forward_process(config, "none")
    make_loss = partial(blur_diffusion.record_loss, process, config, 0.0, 1, config.multiplicity)
    losses = {"": make_loss(), "at once": make_loss(side_by_side=True)}
    make_model = lambda: blur_diffusion.Denoiser(shape, ClassCondition(n_classes, 4 * config.channels), config)  # noqa: E731
    return make_model, losses, batch


COMMON = ("plain", "plain bfloat16", "hooks", "functorch", "bookkeeping", "bookkeeping bfloat16")
MODELS = {
    "transformer": (transformer, (*COMMON, "ghost")),
    "unet": (unet, (*COMMON, "bookkeeping at once", "bookkeeping at once bfloat16")),
}


def step(sum_of, optimizer, batch, noise_multiplier, noise):
    parameters = optimizer.param_groups[0]["params"]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for part in zip(*(tensor.split(MICROBATCH) for tensor in batch), strict=True):
        for total, term in zip(sums, sum_of(part), strict=True):
            total += term
    for parameter, mean in zip(parameters, noisy_mean(sums, noise_multiplier, 1.0, len(batch[0]), noise), strict=True):
        parameter.grad = mean
    optimizer.step()


def functorch_sum(model, loss_fn, part):
    loss_fn(model, *part).sum().backward()
    split = []
    for parameter in model.parameters():
        calls = parameter.grad_sample if isinstance(parameter.grad_sample, list) else [parameter.grad_sample]
        split.append(torch.stack(calls).sum(0))
        parameter.grad = parameter.grad_sample = None
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in split]).norm(dim=0)
    factors = clipping_factors(norms, 1.0, "flat")
    return [torch.einsum("b,b...->...", factors, gradient) for gradient in split]


def make(name, make_model, losses, batch):
    mode, _, rest = name.partition(" ")
    precision = "bfloat16" if rest.endswith("bfloat16") else "float32"
    loss_fn = losses[rest.removesuffix("bfloat16").strip()]
    torch.manual_seed(0)
    model = make_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    noise = torch.Generator().manual_seed(0)
    if mode == "plain":
        return lambda: step(lambda part: plain_sum(model, loss_fn, part, precision), optimizer, batch, 0.0, noise)
    if mode == "functorch":
        watched = GradSampleModule(model, loss_reduction="sum", force_functorch=True)
        return lambda: step(lambda part: functorch_sum(watched, loss_fn, part), optimizer, batch, 1.0, noise)
    gradients = RecordGradients(model, 1.0, mode, precision=precision)
    return lambda: step(lambda part: gradients.clipped_sum(loss_fn, part), optimizer, batch, 1.0, noise)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="transformer")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--records", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for records in options.records:
        compare(options.model, records, options.repeats, options.threads)


def compare(name, records, repeats, threads):
    problem, modes = MODELS[name]
    make_model, losses, batch = problem(records)
    steps = {mode: make(mode, make_model, losses, batch) for mode in modes}
    seconds, busy = {mode: [] for mode in steps}, {mode: [] for mode in steps}
    for mode in steps:  # warm up, and the comparison with autograd that the first microbatch pays for
        steps[mode]()
    for repeat in range(repeats):
        for mode in list(steps)[:: 1 if repeat % 2 == 0 else -1]:
            start, work = time.perf_counter(), time.process_time()
            steps[mode]()
            seconds[mode].append(time.perf_counter() - start)
            busy[mode].append(time.process_time() - work)
    peaks = {mode: peak_bytes(steps[mode]) for mode in steps}
    medians = {mode: statistics.median(times) for mode, times in seconds.items()}
    parameters = sum(parameter.numel() for parameter in make_model().parameters())
    print(f"{name}: {parameters:,} parameters, {records} records in microbatches of {MICROBATCH}")
    print(f"{threads} threads, torch {torch.__version__}, median of {repeats} alternating repeats")
    for mode, median in medians.items():
        spread = f"{min(seconds[mode]):.3f}-{max(seconds[mode]):.3f}"
        rate, peak = records / median, peaks[mode] / 2**20
        work = statistics.median(busy[mode]) / statistics.median(busy["plain"])
        print(
            f"{mode:>28}  {median / medians['plain']:5.2f}x  processor {work:5.2f}x  {rate:7.1f} records/s  "
            f"{median:.3f} s ({spread})  peak {peak:6.1f} MiB, {peaks[mode] / peaks['plain']:.2f}x"
        )


if __name__ == "__main__":
    main()
