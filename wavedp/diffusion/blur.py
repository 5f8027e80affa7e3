"""The forward process of blur diffusion, mode by mode: u_t = a_k(t) u_0 + s_k(t) ε.

Shapes: B records, C channels, H W pixels, T diffusion steps, k one of the H·W modes of an image.

u = Uᵀ x are the modes of an image x in an orthonormal basis that diagonalises a small blur. Times t = 0 … T-1 are
numbered as in diffusers; the paper's step is i = t + 1, and t = -1 is the data (a = 1, s = 0). Two families:

    f(i)  Lee et al. 2022 (arXiv 2207.11192): step i blurs by the f(i)-th power of a kernel with eigenvalues D_k, and
          noise fills each mode up to variance one: log a = ½ log ᾱ_i + F_i log D_k, F_i = Σ_{j≤i} f(j), s² = 1 - a²
    heat  Hoogeboom & Salimans 2023 (arXiv 2209.05557): a = √ᾱ d_k, s² = 1 - ᾱ for every mode, so a² + s² ≤ 1;
          d = (1 - c) exp(-λ_k σ_B²/2) + c with c = 0.001 and σ_B = σ_max sin²(πi/2T)

Blur removes the finest modes first, so generation goes from coarse to fine. blur_order=fine_to_coarse is the control:
mode (k, l) gets the factor of mode (H-1-k, W-1-l), so the mean disappears first and the finest mode last. At every time
the set of signal-to-noise ratios is the same, assigned to the modes in reverse order. (Lee et al.'s control, I - D in
place of D, is not a usable one: it multiplies every mode by less than 2e-15.)

Coefficients are float64 logarithms: with strong blurs ᾱ D^2F underflows float32 for a third of the modes, and at the
first steps 1 - a² loses all its digits unless computed with expm1. No array of T × H·W numbers is ever built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wavedp.errors import UserError
from wavedp.full_precision import full_precision

BLURS = ("none", "linear", "log", "quadratic", "cubic", "quartic", "triangular", "heat")
NOISES = ("linear", "cosine")
BASES = ("dct", "zero_pad")
ORDERS = ("coarse_to_fine", "fine_to_coarse")

HEAT_FLOOR = 0.001
"""Least factor that heat applies to a mode: without it the reverse step would divide by zero."""

_SMALLEST_EIGENVALUE = 1e-8  # below it, rounding errors become visible in log D


@dataclass(frozen=True)
class BlurSchedule:
    """Settings of a forward process; the fields have the names of the scheduler's config arguments.

    num_train_timesteps: T, ignored if trained_betas are given (T is then their number). beta_schedule: linear (from
    beta_start to beta_end) or cosine (s = 0.008, β ≤ 0.999; Nichol & Dhariwal 2021). blur_schedule: the form of f(i),
    from blur_f_min to blur_f_max, in units of the base kernel's variance added per step; `none` is DDPM. blur_sigma:
    standard deviation in pixels of the Gaussian that is sampled and normalised to give the base kernel. blur_basis: dct
    (borders reflect) or zero_pad (black beyond the borders, as in the paper; darkens edges). heat_sigma_max: pixels,
    read only by blur_schedule=heat, which ignores f and blur_sigma. blur_order: order of generation, coarse_to_fine or
    fine_to_coarse.
    Raises UserError for unknown names and values out of range.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    blur_schedule: str = "quartic"
    blur_f_min: float = 0.0
    blur_f_max: float = 0.140625
    blur_sigma: float = 0.4
    blur_basis: str = "dct"
    heat_sigma_max: float = 20.0
    blur_order: str = "coarse_to_fine"

    def __post_init__(self) -> None:
        check_name("blur_schedule", self.blur_schedule, BLURS)
        check_name("beta_schedule", self.beta_schedule, NOISES)
        check_name("blur_basis", self.blur_basis, BASES)
        check_name("blur_order", self.blur_order, ORDERS)
        if self.blur_schedule == "heat" and self.blur_basis != "dct":
            raise UserError(f"blur_schedule=heat is made of cosines, not of {self.blur_basis}: use blur_basis=dct.")
        if self.trained_betas is None and self.num_train_timesteps < 1:
            raise UserError(f"num_train_timesteps={self.num_train_timesteps} diffuses nothing: use 1 or more.")
        for name in ("blur_sigma", "heat_sigma_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)} is not a width: use a finite number of pixels > 0.")
        for name in ("blur_f_min", "blur_f_max"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)} is not a valid blur power: use a finite number >= 0.")
        betas = noise_variances(self)
        if not ((betas > 0) & (betas < 1)).all():
            wrong = float(betas[~((betas > 0) & (betas < 1))][0])
            raise UserError(f"a noise variance of {wrong:g} per step is out of range: use betas > 0 and < 1.")

    @property
    def steps(self) -> int:
        """Number of training steps T."""
        return self.num_train_timesteps if self.trained_betas is None else len(self.trained_betas)


class BlurOperator:
    """One schedule at one image size: the change of basis, and the coefficients at any times.

    Holds only an H × H and a W × W matrix and vectors of T + 1, H and W numbers.
    device, dtype: of the change of basis, float32 or float64. Coefficients are float64, and lie where the times do: a
    sampler's times are numbers of the host, for which a GPU would start dozens of kernels a step. (mps does not support
    float64: there they lie on the CPU.)
    Raises UserError when a step would need noise of negative variance (it would sharpen more than the noise hides).
    """

    def __init__(
        self,
        schedule: BlurSchedule,
        height: int,
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.schedule = schedule
        (rows, row_exponents), (columns, column_exponents) = (_modes(schedule, side) for side in (height, width))
        if schedule.blur_order == "fine_to_coarse":
            row_exponents, column_exponents = row_exponents.flip(0), column_exponents.flip(0)
        self.rows, self.columns = rows.to(device, dtype), columns.to(device, dtype)  # H H, W W
        self.row_exponents, self.column_exponents = row_exponents, column_exponents  # H, W
        self.log_alpha_bar, self.blur = log_alpha_bars(schedule), cumulated_blur(schedule)  # T + 1
        self._check_variances()
        away = "cpu" if torch.device(device).type == "mps" else device
        here = (self.log_alpha_bar, self.blur, row_exponents, column_exponents)
        self._tables = {True: here, False: tuple(table.to(away) for table in here)}  # for times on the CPU or not

    def to_modes(self, images: Tensor) -> Tensor:
        """Uᵀ x, channel by channel: B C H W of any float type -> B C H W of this operator's dtype."""
        with full_precision(images.device):
            return self.rows @ images.to(self.rows.dtype) @ self.columns.T

    def to_pixels(self, modes: Tensor) -> Tensor:
        """U u, the inverse of `to_modes`."""
        with full_precision(modes.device):
            return self.rows.T @ modes.to(self.rows.dtype) @ self.columns

    def log_coefficients(self, timesteps: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return log a and log s, each B H W float64, at B times in -1 … T-1 (an int: B = 1). At -1: 0 and -inf."""
        times = torch.as_tensor(timesteps)
        log_alpha_bar, blur, rows, columns = self._tables[times.device.type == "cpu"]
        i = times.to(blur.device).reshape(-1, 1, 1).long() + 1
        exponents = rows[:, None] + columns  # H W: log D, or -λ
        return _log_coefficients(self.schedule, log_alpha_bar[i], blur[i], exponents)

    def mean_snr(self, timesteps: Tensor | int) -> Tensor:
        """Signal-to-noise ratio a²/s² averaged over all modes, B float64, for loss weights such as min-SNR-γ."""
        log_a, log_s = self.log_coefficients(timesteps)
        return (2 * (log_a - log_s)).exp().mean((1, 2))

    def _check_variances(self) -> None:
        """Check s²_{t|s} = s_t² - (a_t/a_s)² s_s² = s_t² (1 - SNR_t/SNR_s) >= 0 for each pair of successive times.

        The ratio of SNRs is monotone in a mode's exponent, so checking the two extreme modes is enough.
        """
        rows, columns = self.row_exponents, self.column_exponents
        extremes = torch.stack([rows.min() + columns.min(), rows.max() + columns.max()])
        log_a, log_s = _log_coefficients(self.schedule, self.log_alpha_bar[:, None], self.blur[:, None], extremes)
        log_ratio = torch.diff(2 * (log_a - log_s), dim=0)  # T 2
        if bool((log_ratio > 0).any()):
            t = int((log_ratio > 0).any(1).nonzero()[0])
            mode = int(log_ratio[t].argmax())
            variance = float(-log_ratio[t, mode].expm1() * (2 * log_s[t + 1, mode]).exp())
            raise UserError(
                f"blur_schedule={self.schedule.blur_schedule} sharpens at step t={t}, where the noise to add would "
                f"have variance {variance:.3g}: use blur_f_min >= 0 and blur_f_max >= 0, or more noise at that step."
            )


def blur_coefficients(
    schedule: BlurSchedule, height: int, width: int, timesteps: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Return a and s of u_t = a u_0 + s ε, each B H W float64 in [0, 1], at B times in -1 … T-1. H W: height, width.

    Raises UserError as `BlurOperator` does.
    """
    log_a, log_s = BlurOperator(schedule, height, width).log_coefficients(timesteps)
    return log_a.exp(), log_s.exp()


def effective_blur(schedule: BlurSchedule) -> Tensor:
    """Standard deviation in pixels of all blur up to each time, T float64: σ_B for heat, else √(F_i Σ n² g_n), since
    the variances of kernels add up. The sampled kernel has 0.0808 px² for blur_sigma = 0.4, half the nominal 0.16.
    fine_to_coarse does not blur; there the value is that of the blur whose factors are reversed."""
    blur = cumulated_blur(schedule)[1:]
    if schedule.blur_schedule == "heat":
        return (2 * blur).sqrt()
    taps, offsets = _kernel(schedule.blur_sigma)
    return (blur * (taps * offsets.square()).sum()).sqrt()


def noise_variances(schedule: BlurSchedule) -> Tensor:
    """Noise variances β_1 … β_T of the steps, float64."""
    if schedule.trained_betas is not None:
        return torch.tensor(schedule.trained_betas, dtype=torch.float64)
    steps = schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        return torch.linspace(schedule.beta_start, schedule.beta_end, steps, dtype=torch.float64)
    alpha_bar = (torch.linspace(0, 1, steps + 1, dtype=torch.float64).add(0.008).div(1.008) * math.pi / 2).cos() ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def blur_powers(schedule: BlurSchedule) -> Tensor:
    """f(1) … f(T), float64: the blur of each step in units of the base kernel's variance. Not defined for heat.

    The formulas are those of Lee et al.'s code. `triangular` ends at f(T) = f_min - (f_max - f_min)/(T-1), negative for
    f_min = 0. This is kept, because the noise of that step (β_T) hides far more than the step sharpens; if it does not,
    building a BlurOperator fails.
    """
    first, last, steps = schedule.blur_f_min, schedule.blur_f_max, schedule.steps
    i = torch.arange(1, steps + 1, dtype=torch.float64)

    def line(i: Tensor) -> Tensor:
        return first + (last - first) * (i - 1) / max(steps - 1, 1)

    if schedule.blur_schedule == "none":
        return torch.zeros_like(i)
    if schedule.blur_schedule == "linear":
        return line(i)
    if schedule.blur_schedule == "log":
        return first + (last - first) * (i + 1e-6).log() / math.log(steps + 1e-6)
    if schedule.blur_schedule == "quadratic":
        return first + (last - first) * (i.square() - 1) / max(steps**2 - 1, 1)
    if schedule.blur_schedule == "triangular":
        return torch.where(i < steps / 2, line(i), line(steps - i))
    return first + (last - first) * (i / steps) ** {"cubic": 3, "quartic": 4}[schedule.blur_schedule]


def log_alpha_bars(schedule: BlurSchedule) -> Tensor:
    """log ᾱ_0 … log ᾱ_T, T + 1 float64."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-noise_variances(schedule)).cumsum(0)])


def cumulated_blur(schedule: BlurSchedule) -> Tensor:
    """F_0 … F_T, the factor of log D_k; for heat σ_B²/2 in px², the factor of -λ_k. T + 1 float64."""
    if schedule.blur_schedule == "heat":
        time = torch.linspace(0, 1, schedule.steps + 1, dtype=torch.float64)
        return (schedule.heat_sigma_max * (time * math.pi / 2).sin() ** 2) ** 2 / 2
    return torch.cat([torch.zeros(1, dtype=torch.float64), blur_powers(schedule).cumsum(0)])


def log_snr(schedule: BlurSchedule) -> Tensor:
    """λ = log(a/s) = ½ log(ᾱ/(1-ᾱ)) of a mode that is not blurred, T float64."""
    log_alpha_bar = log_alpha_bars(schedule)[1:]
    return (log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))) / 2


def mean_log_snr(schedule: BlurSchedule, least: float) -> Tensor:
    """λ = log(a/s) of each mode, clamped to at least `least` and averaged over modes, T float64, for any image size.

    A 16 × 16 grid of frequencies represents every size: eigenvalues depend only on the frequency, and blur_order only
    permutes them.
    """
    exponents = _exponents(schedule, (torch.arange(16, dtype=torch.float64) + 0.5) * math.pi / 16)
    both = (exponents[:, None] + exponents).flatten()  # 256
    log_alpha_bar, blur = log_alpha_bars(schedule)[1:, None], cumulated_blur(schedule)[1:, None]
    log_a, log_s = _log_coefficients(schedule, log_alpha_bar, blur, both)
    return (log_a - log_s).clamp(min=least).mean(1)


def cosine_basis(side: int) -> Tensor:
    """Orthonormal DCT-II matrix, side side float64, one mode per row: mode k has k/(2 side) cycles per pixel.

    Its cosines are symmetric about the points half a pixel beyond the ends, so borders reflect.
    """
    k = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi / side * k[:, None] * (k + 0.5)) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis


def check_name(field: str, value: str, names: tuple[str, ...]) -> None:
    """Raise UserError unless the value is one of the names."""
    if value not in names:
        raise UserError(f"{field}={value!r} is not offered: use one of {', '.join(names)}.")


# Rows of Table 1 of Lee et al. (their basis, FID-10K at 64², one run each). Their code scrambles the eigenvalues of RGB
# images, so a correct operator need not reproduce these numbers.
PAPER_NONE = BlurSchedule(blur_schedule="none", blur_basis="zero_pad")
"""DDPM: bedroom 9.24, church 6.04."""
PAPER_QUARTIC = BlurSchedule(blur_schedule="quartic", blur_f_max=0.140625, blur_basis="zero_pad")
"""Best row: bedroom 7.86, church 5.89."""
PAPER_LOG = BlurSchedule(blur_schedule="log", blur_f_max=0.600625, blur_basis="zero_pad")
"""Too much blur too early: bedroom 73.23."""


def _log_coefficients(
    schedule: BlurSchedule, log_alpha_bar: Tensor, blur: Tensor, exponents: Tensor
) -> tuple[Tensor, Tensor]:
    if schedule.blur_schedule == "heat":
        kept = math.log1p(-HEAT_FLOOR) + blur * exponents
        log_a = log_alpha_bar / 2 + torch.logaddexp(kept, torch.full_like(kept, math.log(HEAT_FLOOR)))
        log_s = torch.log(-torch.expm1(log_alpha_bar)) / 2
        return log_a, log_s.expand_as(log_a)
    log_a = log_alpha_bar / 2 + blur * exponents
    return log_a, torch.log(-torch.expm1(2 * log_a)) / 2


def _modes(schedule: BlurSchedule, side: int) -> tuple[Tensor, Tensor]:
    """Basis of one axis (side side, a mode per row, frequency rising) and exponents of its modes (side), float64."""
    if schedule.blur_basis == "dct":
        return cosine_basis(side), _exponents(schedule, torch.arange(side, dtype=torch.float64) * math.pi / side)
    taps, offsets = _kernel(schedule.blur_sigma)
    distance = torch.arange(side)[:, None] - torch.arange(side)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for tap, offset in zip(taps, offsets, strict=True):
        matrix[distance == offset] = tap
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return vectors.T.flip(0).contiguous(), _log_eigenvalues(schedule, eigenvalues.flip(0))


def _exponents(schedule: BlurSchedule, frequencies: Tensor) -> Tensor:
    """log D of the base kernel (or -λ for heat) at frequencies in [0, π) radians per pixel."""
    if schedule.blur_schedule == "heat":
        return -frequencies.square()
    taps, offsets = _kernel(schedule.blur_sigma)
    return _log_eigenvalues(schedule, torch.cos(frequencies[:, None] * offsets) @ taps)


def _log_eigenvalues(schedule: BlurSchedule, eigenvalues: Tensor) -> Tensor:
    if eigenvalues.min() < _SMALLEST_EIGENVALUE:
        raise UserError(
            f"blur_sigma={schedule.blur_sigma} leaves {float(eigenvalues.min()):.1g} of the finest details after one "
            f"unit of blur, too little to compute with: use blur_sigma <= 1.5 and a larger blur_f_max."
        )
    return eigenvalues.clamp(max=1).log()  # a kernel of sum one has none above 1, except through rounding


def _kernel(sigma: float) -> tuple[Tensor, Tensor]:
    """Taps of the base kernel (sum one) and their offsets in pixels, out to 9 σ, where they vanish in float64."""
    reach = math.ceil(9 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    taps = torch.exp(-offsets.square() / (2 * sigma**2))
    return taps / taps.sum(), offsets
