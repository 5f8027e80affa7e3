"""The price of blurring: the forward process with and without its change of basis, and the memory it holds.

    python tests/bench/bench_blur.py [--repeats 15] [--threads 1]

The two take turns, so that a busy machine slows both; medians count. Memory is what an operator keeps and the peak that
one call allocates (CPU, float32), against the batch itself.
"""

import argparse
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from wavedp.diffusion.scheduler import BlurDiffusionScheduler


def pure_noise(alpha_bar, images, noise, timesteps):
    kept = alpha_bar[timesteps, None, None, None].float()
    return kept.sqrt() * images + (1 - kept).sqrt() * noise


def peak_bytes(call):
    """The most that is allocated at one moment of the call, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    now = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scheduler = BlurDiffusionScheduler()
    alpha_bar = torch.cumprod(1 - scheduler.betas, 0)
    print(f"median of {options.repeats} alternating, {options.threads} threads, torch {torch.__version__}")
    for batch, side in [(16, 32), (16, 64), (16, 128), (4, 256)]:
        images, noise = torch.randn(2, batch, 3, side, side)
        timesteps = torch.randint(0, 1000, (batch,))
        operator = scheduler.operator(images)
        calls = {
            "noise": lambda i=images, n=noise, t=timesteps: pure_noise(alpha_bar, i, n, t),
            "basis": lambda i=images, o=operator: o.to_modes(i),
            "coefficients": lambda o=operator, t=timesteps: [log.exp() for log in o.log_coefficients(t)],
            "blur": lambda i=images, n=noise, t=timesteps: scheduler.add_noise(i, n, t),
        }
        seconds = {name: [] for name in calls}
        for _ in range(options.repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
        median = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
        kept = sum(x.numel() * x.element_size() for x in vars(operator).values() if torch.is_tensor(x))
        table = 2 * 1000 * side**2 * 4
        print(
            f"{batch:>3}×3×{side}²  noise {median['noise']:7.2f} ms, blur {median['blur']:7.2f} ms (a change of basis "
            f"{median['basis']:.2f}, coefficients {median['coefficients']:.2f})  operator {kept / 2**20:.2f} MiB "
            f"(tables of a and s: {table / 2**20:.0f}), peak {peak_bytes(calls['blur']) / 2**20:.1f} MiB for a batch "
            f"of {images.numel() * 4 / 2**20:.1f}"
        )


if __name__ == "__main__":
    main()
