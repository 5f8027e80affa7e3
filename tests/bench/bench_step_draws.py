"""A step's randomness drawn at its beginning, and drawn ahead by a thread: seconds a step while a device computes.

    python tests/bench/bench_step_draws.py [--records 60000] [--batch 4096] [--draws 1570] [--parameters 1540000]
        [--milliseconds 50] [--steps 8] [--repeats 3] [--device cpu]

The defaults are the U-Net of generator=blur_diffusion at 28×28, two noises a record. Nothing is trained: a device that
leaves the processor free for so many milliseconds a step is played by a pause on the CPU; on cuda it is that many
milliseconds of matrix products. Both ways take turns; medians count.
"""

import argparse
import statistics
import time
from functools import partial

import torch

from wavedp.privacy import step_draws
from wavedp.privacy.step_draws import Draws
from wavedp.privacy.training import poisson_sample


def computing(device, milliseconds):
    """A function that keeps the device busy for about so long, and returns once it is done."""
    if device.type != "cuda":
        return lambda: time.sleep(milliseconds / 1000)
    matrix = torch.randn(4096, 4096, device=device)

    def products(count):
        start = time.perf_counter()
        for _ in range(count):
            matrix @ matrix
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    products(8)
    count = max(1, round(milliseconds / 1000 / products(32) * 32))
    return lambda: products(count)


def seconds_a_step(options, ahead, work):
    device = torch.device(options.device)
    step_draws.AHEAD = (device.type,) if ahead else ()
    generators = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    chance = torch.Generator().manual_seed(2)
    sample = partial(poisson_sample, options.records, options.batch / options.records)
    noisy, steps = [torch.empty(options.parameters, device=device)], range(options.steps)

    def draw(step, records):
        return torch.rand(records, options.draws, generator=chance)

    with Draws(*generators, sample, draw, noisy, steps, device) as draws:
        draws.of(0)  # nothing could be drawn ahead of it
        start = time.perf_counter()
        for step in steps[1:]:
            work()
            found = draws.of(step)
            found.chance.to(device, non_blocking=True)
            step_draws.normal(noisy[0].shape, noisy[0].dtype, found.noise).to(device)
        work()
        return (time.perf_counter() - start) / (options.steps - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--draws", type=int, default=2 * 785)
    parser.add_argument("--parameters", type=int, default=1_540_000)
    parser.add_argument("--milliseconds", type=float, default=50.0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    work = computing(torch.device(options.device), options.milliseconds)
    found = {False: [], True: []}
    for _ in range(options.repeats):
        for ahead, times in found.items():
            times.append(seconds_a_step(options, ahead, work))
    inline, ahead = (statistics.median(times) for times in found.values())
    print(
        f"{options.batch} of {options.records} records, {options.draws} draws each, {options.parameters:,} parameters"
    )
    print(f"torch {torch.__version__} on {options.device}, {options.milliseconds:.0f} ms of computing a step")
    print(f"at its beginning {inline * 1000:7.1f} ms a step")
    print(f"           ahead {ahead * 1000:7.1f} ms a step, {ahead / inline:.2f}x")


if __name__ == "__main__":
    main()
