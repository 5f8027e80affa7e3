"""The Haar transform by slices, by the general filters, and by PyWavelets; analysis and synthesis of one level.

    python tests/bench/bench_wavelets.py [--repeats 15] [--threads 1]

All take turns, so that a busy machine slows all of them; medians count. The general filters are those of every longer
wavelet, given Haar's two taps.
"""

import argparse
import statistics
import time

import pywt
import torch
from torch.nn import functional as F

from wavedp.wavelets import decompose, reconstruct

TAPS = [torch.tensor(taps) for taps in (pywt.Wavelet("haar").dec_lo, pywt.Wavelet("haar").dec_hi)]


def filtered(x, taps, axis):
    x = x.movedim(axis, -1)
    y = F.conv1d(x.reshape(-1, 1, x.shape[-1]), taps.flip(0).view(1, 1, -1), stride=2)
    return y.view(*x.shape[:-1], -1).movedim(-1, axis)


def general(images):
    return [filtered(filtered(images, rows, -2), columns, -1) for rows in TAPS for columns in TAPS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.rand(64, 3, 256, 256)
    pyramid, array = decompose(images, 1), images.numpy()
    bands = pywt.wavedec2(array, "haar", level=1)
    calls = {
        "analysis, slices": lambda: decompose(images, 1),
        "analysis, filters": lambda: general(images),
        "analysis, PyWavelets": lambda: pywt.wavedec2(array, "haar", level=1),
        "synthesis, slices": lambda: reconstruct(pyramid),
        "synthesis, PyWavelets": lambda: pywt.waverec2(bands, "haar"),
    }
    seconds = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    print(f"64×3×256², median of {options.repeats} alternating, {options.threads} threads, torch {torch.__version__}")
    for name, times in seconds.items():
        base = statistics.median(seconds[name.split(",")[0] + ", PyWavelets"])
        print(
            f"{name:>21}  {1e3 * statistics.median(times):7.1f} ms  {statistics.median(times) / base:5.2f}x PyWavelets"
        )


if __name__ == "__main__":
    main()
