"""What public trainings and samplers ask of a GPU at each step, and the milliseconds that a step takes here.

    python tests/bench/bench_public.py [--steps 40] [--repeats 3] [--threads 1] [--device cpu] [--only WORDS]

Kernels, waits and uploads a step are counted without a GPU (wavedp.testing.launches). The time is that of the steps
beyond a first tenth of them, the median of some repeats; on a GPU it shows how far the host's starting of kernels is
from the floor of some 5 microseconds each. Sizes are those of 28×28 images at level 1 and of the default configuration.
"""

import argparse
import statistics
import time

import torch

from wavedp.config import DiffusionConfig, SamplingConfig, configure
from wavedp.generators.blur_diffusion.model import BlurDiffusionModel
from wavedp.generators.spectral_ar.model import SpectralARModel
from wavedp.progress import silent
from wavedp.testing import launches
from wavedp.tokenizers import training, untrained
from wavedp.tokenizers.spectral.network import spectral_network
from wavedp.upscalers.wavelet_detail import losses, network

IMAGES = torch.rand(256, 1, 28, 28)
COARSE, LABELS = IMAGES[:, :, ::2, ::2].contiguous(), torch.arange(256) % 10


def wavelet_detail(steps, device, joins):
    losses.JOINS = joins  # share of the training after which the discriminator joins
    config = configure("upscaler", "wavelet_detail", train_steps=steps, train_batch=64)
    network.fit_public(IMAGES, config, device, silent)


def tokenizer(steps, device):
    config = configure("tokenizer", "spectral", train_steps=steps + 12)  # its learning rate needs so many to rise
    training.fit(lambda: spectral_network(config, (1, 28, 28)), IMAGES, config, device, silent)


def transformer(steps, device):
    tokens = untrained(configure("tokenizer", "scalar"), (1, 28, 28), 1)
    return SpectralARModel(configure("generator", "spectral_ar", pretrain_steps=steps), tokens, tokens, 10, device)


def u_net(steps, device):
    config = configure("generator", "blur_diffusion", pretrain_steps=steps)
    return BlurDiffusionModel(config, DiffusionConfig(), "quartic", (1, 14, 14), 10, device)


def sample_tokens(steps, device):
    """A step is a batch of 64 images, all their 98 tokens."""
    model = transformer(1, device)
    weights = model._model(model.tokenizer, 10).to_empty(device="cpu").state_dict()
    labels = torch.arange(64 * steps) % 10
    weights = {name: torch.zeros_like(value) for name, value in weights.items()}
    model.sample(weights, labels, SamplingConfig(n=len(labels), batch_size=64), 0, silent)


def sample_images(steps, device):
    """A step is one of the diffusion, of 64 images."""
    model = u_net(1, device)
    weights = {name: torch.zeros_like(value, device="cpu") for name, value in model.network(10).state_dict().items()}
    sampling = SamplingConfig(n=64, batch_size=64, diffusion_steps=steps)
    model.sample(weights, torch.arange(64) % 10, sampling, 0, silent)


WORK = {
    "wavelet_detail, no discriminator": (lambda n, device: wavelet_detail(n, device, 2.0), 1.0),
    "wavelet_detail, discriminator": (lambda n, device: wavelet_detail(n, device, 0.0), 1.0),
    "spectral tokenizer": (tokenizer, 1.0),
    "spectral_ar pretraining": (lambda n, device: transformer(n, device).fit_public(COARSE, LABELS, 0, silent), 1.0),
    "spectral_ar sampling, a batch": (sample_tokens, 0.1),
    "blur_diffusion pretraining": (lambda n, device: u_net(n, device).fit_public(COARSE, LABELS, 0, silent), 1.0),
    "blur_diffusion sampling": (sample_images, 1.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="work whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"steps on {options.device}, {options.threads} threads, median of {options.repeats}")
    for name, (run, share) in WORK.items():
        if options.only not in name:
            continue
        steps = max(int(options.steps * share), 2)
        few = max(steps // 10, 1)
        found = launches.per_step(lambda n, run=run: run(n, "meta"), 12, 20)
        taken = []
        for _ in range(options.repeats):
            seconds = {}
            for number in (few, steps):
                start = time.perf_counter()
                run(number, options.device)  # ends with numbers on the CPU, so a GPU is done
                seconds[number] = time.perf_counter() - start
            taken.append((seconds[steps] - seconds[few]) / (steps - few))
        print(
            f"{name:>33}: {found.kernels:7.1f} kernels, {found.waits:.1f} waits, "
            f"{found.uploads:.1f} uploads a step; {1e3 * statistics.median(taken):8.2f} ms a step",
            flush=True,
        )


if __name__ == "__main__":
    main()
