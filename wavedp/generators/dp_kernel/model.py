"""DP-Kernel: a generator trained on a noisy mean embedding of a new Poisson batch at every step.

    D = C h w  numbers of an image   d  features   K  classes   B  expected batch   q = B / N   T  steps
    w  weight of the count   Δ  L2 sensitivity   σ  noise multiplier

The kernel is the mean of Gaussian kernels of several bandwidths s, times 1 for equal labels and 0 for others. (The
paper has their sum, which is as many times larger, and so is its sensitivity.)

The release of a step. Its features φ are random Fourier features with new, public frequencies: d/2 of them, as many of
each bandwidth, from N(0, I/s²), so that <φ(x), φ(y)> has the kernel as its mean. For each class [Σφ(x), w n] over the
batch is released with noise. Where the paper releases the function Σ k(x, ·) of the batch with a Gaussian process of
covariance (σΔ)² k as its noise, <φ(·), noisy Σφ> is such a function, with the covariance of these features: one draw of
d numbers, whose gradient by an image is noisy as well.

Sensitivity. |φ(x)| = 1 for every x (dp_merf.model), and a record of the batch enters the numbers of one class, as
[φ(x), w]: by adding or removing it all K (d + 1) numbers together change by exactly Δ = √(1 + w²), as in
mean_embedding.model, whose w it is. Guarantee of all steps: privacy.batch_releases. The frequencies, codes and labels
of generated images depend on no record.

The training. A step moves the weights by the gradient of Σ_k |E φ(G(·, k))|² - 2 <E φ(G(·, k)), Σφ / n̂_k>, which is
linear in the release: with n̂ right, its mean over batches, frequencies and noise is the exact one, whatever σ. n̂_k, the
mean of B's share of class k, is that of all noisy counts so far together with c counts of B / K, where c is the
variance of a noisy count, (σΔ / w)² + B / K, over (B / K)²: as by Bayes with that prior; it is at least 1 % of B / K.

    case                                   result
    a class without records                its images follow noise
    epsilon = inf                          exact sums of the same Poisson batches
    a plan for other batches, or whose     UserError, and nothing is released
    noise spends more than epsilon
    training diverged                      UserError
    stopped by an exception of `report`    resumes from a checkpoint, on the CPU bit-equal to an unbroken fit
"""

from __future__ import annotations

import math
import time
from functools import partial

import torch
from torch import Tensor

from wavedp import resume
from wavedp.config import SamplingConfig, identity
from wavedp.errors import UserError
from wavedp.finite import require_finite
from wavedp.generators import FitSettings, PrivateFit
from wavedp.generators.dp_kernel import PURPOSE, DPKernelConfig
from wavedp.generators.dp_merf.model import PUBLISHED_SIZE, embedded
from wavedp.generators.mean_embedding.model import count_weight, distance, sensitivity
from wavedp.generators.mean_embedding.network import CODE, ConvGenerator, drawn
from wavedp.methods import Weights
from wavedp.privacy import accounting, one_release
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.batch_releases import BatchReleases
from wavedp.privacy.checkpoint import State, digest
from wavedp.privacy.training import generators, release_id
from wavedp.progress import Report
from wavedp.seeds import derive_seed


class DPKernelModel:
    """shape: C h w of the coarse images."""

    def __init__(self, config: DPKernelConfig, shape: tuple[int, int, int], n_classes: int, device: str) -> None:
        self.config, self.shape, self.n_classes, self.device = config, shape, n_classes, device

    def fit_private(
        self, weights: Weights, images: Tensor, conditions: Tensor, fit: FitSettings, report: Report
    ) -> PrivateFit:
        """The generator's weights after T steps. conditions: labels B."""
        planned, config = fit.mechanisms[PURPOSE], self.config
        pixels, labels = one_release.checked(images, conditions, self.n_classes)
        _require_covered(planned, config, fit, len(pixels))
        fingerprint = {
            **identity(config),
            "noise_multiplier": planned.noise_multiplier,
            "seed": derive_seed(fit.seed, "fingerprint"),
            "n_classes": self.n_classes,
            "records": digest([("pixels", pixels), ("labels", labels)]),
        }
        release = release_id(fingerprint)
        sampling, noise = generators(fit.privacy, fit.seed, release)
        model = self._network(derive_seed(fit.seed, "dp_kernel", "first weights"))
        # Beside the weights, so that a checkpoint has them too: the noisy counts of all steps, added up.
        model.register_buffer("counts", torch.zeros(self.n_classes, dtype=torch.float64))
        optimizer = torch.optim.RMSprop(model.parameters(), lr=config.train_learning_rate)
        state = State(model, optimizer, {}, sampling, noise, fingerprint)
        first = state.load(fit.checkpoint) if fit.checkpoint is not None and fit.checkpoint.exists() else 0
        batches = BatchReleases(
            pixels, labels, self.n_classes, planned.sample_rate, sensitivity(config.features),
            planned.noise_multiplier, sampling, noise,
        )  # fmt: skip
        saved = time.monotonic()
        for step in range(first, config.steps):
            self.step(model, optimizer, batches, step)
            done, due = step + 1, time.monotonic() - saved >= resume.EVERY
            if due or done % resume.LOOK_EVERY == 0 or done == config.steps:
                require_finite(model.state_dict(), f"after step {done} the weights", "lower train_learning_rate")
            save = partial(state.save, fit.checkpoint, done, [planned])
            if fit.checkpoint is not None and due:
                save()
                saved = time.monotonic()
            try:
                report(done, config.steps)
            except BaseException:  # Ctrl-C too
                if fit.checkpoint is not None:
                    save()
                raise
        released = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        del released["counts"]
        return PrivateFit(released, {PURPOSE: planned}, {PURPOSE: release})

    def step(self, model: ConvGenerator, optimizer: torch.optim.Optimizer, batches: BatchReleases, step: int) -> None:
        """Release a batch, and move the weights by it."""
        config = self.config
        omega = self.frequencies(step).to(self.device)
        weight = count_weight(config.features)

        def summed(part: Tensor) -> Tensor:
            total = embedded(part.to(self.device), omega).double().sum(0)
            return torch.cat([total, total.new_tensor([weight * len(part)])])

        released = batches.next(summed)
        counted = model.get_buffer("counts").add_(released[:, -1].to(self.device) / weight)
        each, share = config.train_batch // self.n_classes, config.batch / self.n_classes
        noise_std = batches.noise_multiplier * batches.sensitivity / weight
        prior = (noise_std**2 + share) / share**2  # c
        counts = (prior * share + counted) / (prior + step + 1)
        targets = (released[:, :-1].to(self.device) / counts.clamp(min=share / 100)[:, None]).float()
        generator = torch.Generator().manual_seed(derive_seed(0, "dp_kernel", "codes", step))
        codes = torch.randn(each * self.n_classes, CODE, generator=generator).to(self.device)
        labels = torch.arange(self.n_classes, device=self.device).repeat(each)
        features = embedded(model(codes, labels).flatten(1), omega).view(each, self.n_classes, -1)
        optimizer.zero_grad()
        distance(features.mean(0), targets, each).backward()
        for group in optimizer.param_groups:
            group["lr"] = config.train_learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2
        optimizer.step()

    def frequencies(self, step: int) -> Tensor:
        """Those of a step, d/2 D float32: public, the same for every study."""
        config, size = self.config, math.prod(self.shape)
        count = config.features // 2
        unit = math.sqrt(size / PUBLISHED_SIZE) / 2 * config.bandwidth
        scales = unit * 2.0 ** (torch.arange(count) % config.bandwidths)
        generator = torch.Generator().manual_seed(derive_seed(0, "dp_kernel", "frequencies", step))
        return torch.randn(count, size, generator=generator) / scales[:, None]

    def sample(
        self, weights: Weights, conditions: Tensor, sampling: SamplingConfig, seed: int, report: Report
    ) -> Tensor:
        """Images of the generator."""
        require_finite(weights, "weights of generator=dp_kernel", "look for a damaged artifact")
        model = self._network(0)
        model.load_state_dict(weights)
        images = drawn(model, conditions, sampling.batch_size, seed, self.device)
        report(len(images), len(images))
        return images

    def _network(self, seed: int) -> ConvGenerator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ConvGenerator(self.shape, self.n_classes, self.config.channels).to(self.device)


def _require_covered(planned: Mechanism, config: DPKernelConfig, fit: FitSettings, n_records: int) -> None:
    """Raise UserError for what the guarantee does not cover: other batches than planned, or too little noise."""
    if (planned.sample_rate, planned.steps) != (config.batch / n_records, config.steps):
        raise UserError(
            f"{planned.steps} steps at sample rate {planned.sample_rate:.4g} were planned, and {config.steps} batches "
            f"of {config.batch} from {n_records} records would run: take the plan from the generator's `mechanisms`."
        )
    cost = accounting.compose([planned], accounting.delta(fit.privacy, n_records))
    if cost > fit.privacy.epsilon:
        raise UserError(
            f"noise_multiplier={planned.noise_multiplier} would spend epsilon={cost:.4g} in {planned.steps} steps, "
            f"more than privacy.epsilon={fit.privacy.epsilon}: take the plan from the generator's `mechanisms`."
        )
