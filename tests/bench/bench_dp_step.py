"""What privacy costs in time: an optimiser step with `hooks` and `ghost` as multiples of the step without.

    python tests/bench/bench_dp_step.py [--repeats 7] [--records 128] [--threads 1]

The three take turns, in an order that reverses each round, so that a busy machine slows all of them; medians count.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from wavedp.privacy.clipping import RecordGradients, noisy_mean, plain_sum

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


def step(sum_of, optimizer, codes, noise_multiplier, noise):
    parameters = optimizer.param_groups[0]["params"]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in codes.split(MICROBATCH):
        for total, part in zip(sums, sum_of((batch,)), strict=True):
            total += part
    for parameter, mean in zip(parameters, noisy_mean(sums, noise_multiplier, 1.0, len(codes), noise), strict=True):
        parameter.grad = mean
    optimizer.step()


def make(mode):
    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    noise = torch.Generator().manual_seed(0)
    if mode == "plain":
        return lambda codes: step(lambda batch: plain_sum(model, loss_fn, batch), optimizer, codes, 0.0, noise)
    gradients = RecordGradients(model, 1.0, mode)
    return lambda codes: step(lambda batch: gradients.clipped_sum(loss_fn, batch), optimizer, codes, 1.0, noise)


def main():
    parser = argparse.ArgumentParser(description="Time of a private step over the same step without privacy")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--records", type=int, default=2 * MICROBATCH)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    codes = torch.randint(VOCABULARY, (options.records, TOKENS), generator=torch.Generator().manual_seed(1))
    steps = {mode: make(mode) for mode in ("plain", "hooks", "ghost", "bookkeeping")}
    seconds = {mode: [] for mode in steps}
    for mode in steps:  # warm up, and the comparison with autograd that the first microbatch pays for
        steps[mode](codes)
    for repeat in range(options.repeats):
        for mode in list(steps)[:: 1 if repeat % 2 == 0 else -1]:
            start = time.perf_counter()
            steps[mode](codes)
            seconds[mode].append(time.perf_counter() - start)
    medians = {mode: statistics.median(times) for mode, times in seconds.items()}
    parameters = sum(parameter.numel() for parameter in Transformer().parameters())
    print(f"{parameters:,} parameters, {TOKENS} tokens, {options.records} records in microbatches of {MICROBATCH}")
    print(f"{options.threads} threads, torch {torch.__version__}, median of {options.repeats} alternating repeats")
    for mode, median in medians.items():
        spread = f"{min(seconds[mode]):.3f}-{max(seconds[mode]):.3f}"
        rate = options.records / median
        print(f"{mode:>11}  {median / medians['plain']:5.2f}x  {rate:7.1f} records/s  {median:.3f} s ({spread})")


if __name__ == "__main__":
    main()
