"""A diffusers scheduler for blur diffusion: every formula holds mode by mode (see wavedp.diffusion.blur).

Shapes: B records, C channels, H W pixels, T training steps. Samples and model outputs are in pixels, data in [-1, 1].

Three samplers form one family. From time t to r < t, with λ = log(a/s), h = λ_r - λ_t > 0 and white noise z:

    u_r = a_r û_0 + s_r √(1 - η²(1 - e^-2h)) ε̂ + η s_r √(1 - e^-2h) z

ddim           η from the config (Song et al. 2021; per mode, Zhang et al. 2023)
ancestral      η = 1: a draw from the exact posterior q(u_r | u_t, û_0), of variance s_r²(1 - e^-2h)
dpmsolver++    η = 0, and û_0 extrapolated from two steps in λ (2M; Lu et al. 2022)

The fourth, reverse_diffusion: u_r = (2 - a_t/a_r) u_t - s_t (1 - e^-2h) ε̂ + s_t √(1 - e^-2h) z, without z in the last
step. It is the predictor of Song et al. 2021 as Lee et al. use it (their equations 19 and 20, with the exponent and the
index of their code), meant for all T steps and wrong with few.
"""

from __future__ import annotations

import inspect
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from wavedp.diffusion.blur import BlurOperator, BlurSchedule, check_name, log_snr, mean_log_snr, noise_variances
from wavedp.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
ALGORITHMS = ("reverse_diffusion", "ancestral", "ddim", "dpmsolver++")
SPACINGS = ("uniform", "quadratic", "logsnr", "blur_aware")

_PURE_NOISE = -5.0  # below this λ a mode counts as noise and gets no steps; cosine noise ends at -9.9


class BlurDiffusionScheduler(SchedulerMixin, ConfigMixin):
    """Forward process and samplers of a BlurSchedule, in place of diffusers' DDPM, DDIM and DPM-Solver schedulers.

    num_train_timesteps … blur_order: as in BlurSchedule. prediction_type: what the network predicts, in pixels:
    epsilon (the noise), sample (the data), or v_prediction (a ε - s u_0 in every mode), the only one that is
    well scaled at all times. algorithm_type: see the module. timestep_spacing: spacing of the steps from T-1 to 0:

        uniform      equal in t
        quadratic    equal in √t
        logsnr       equal in the log-SNR of a mode that is not blurred, clamped below at pure noise (λ = -5)
        blur_aware   equal in the mean of that and of the log-SNR averaged over all modes, each clamped likewise

    clip_sample: clip the predicted data to [-1, 1], in pixels. eta: noise of ddim, 0 (none) to 1 (ancestral).
    Raises UserError for unknown names and values out of range. Warns when prediction_type is epsilon and the blur is
    so strong that the finest modes vanish in float32: their data is then taken to be 0, the middle of the range.
    """

    _compatibles: list[str] = []  # noqa: RUF012 (diffusers' form); no other scheduler handles blur
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        blur_schedule: str = "quartic",
        blur_f_min: float = 0.0,
        blur_f_max: float = 0.140625,
        blur_sigma: float = 0.4,
        blur_basis: str = "dct",
        heat_sigma_max: float = 20.0,
        blur_order: str = "coarse_to_fine",
        prediction_type: str = "v_prediction",
        algorithm_type: str = "dpmsolver++",
        timestep_spacing: str = "logsnr",
        clip_sample: bool = False,
        eta: float = 0.0,
    ) -> None:
        check_name("prediction_type", prediction_type, PREDICTIONS)
        check_name("algorithm_type", algorithm_type, ALGORITHMS)
        check_name("timestep_spacing", timestep_spacing, SPACINGS)
        if not 0 <= eta <= 1:
            raise UserError(f"eta={eta} is out of range: use 0 (no noise) to 1 (as much as ancestral).")
        self.schedule = BlurSchedule(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=None if trained_betas is None else tuple(float(beta) for beta in trained_betas),
            blur_schedule=blur_schedule,
            blur_f_min=blur_f_min,
            blur_f_max=blur_f_max,
            blur_sigma=blur_sigma,
            blur_basis=blur_basis,
            heat_sigma_max=heat_sigma_max,
            blur_order=blur_order,
        )
        self.betas = noise_variances(self.schedule)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(self.schedule.steps - 1, -1, -1)
        self._operators: dict[tuple[int, int, torch.device, torch.dtype], BlurOperator] = {}
        self._shape: torch.Size | None = None  # of the samples of this run
        self._last: _Step | None = None

    @property
    def config(self) -> Any:
        """The settings, as attributes and items. Raises UserError when another scheduler is made from them."""
        return _Settings(vars(self)["_internal_dict"])

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """What `from_config` and `from_pretrained` make a scheduler from. Raises UserError for the settings of another
        scheduler: diffusers would leave out those at its defaults, which are not ours."""
        source = config_dict.get("_class_name", "another scheduler")
        named = "_class_name" in config_dict  # in a file; the settings of an object do not say whose they are
        ours_in_memory = "blur_schedule" in config_dict or "_use_default_values" not in config_dict
        if source not in [parent.__name__ for parent in cls.__mro__] if named else not ours_in_memory:
            ours = inspect.signature(cls).parameters
            other = ", ".join(
                f"{name}={config_dict[name]!r}"
                for name in ours
                if name in config_dict and config_dict[name] != ours[name].default
            )
            raise UserError(
                f"{cls.__name__} cannot be made from the settings of {source}, whose defaults are others: write "
                f"{cls.__name__}({other}), with the arguments that you mean."
            )
        return super().extract_init_dict(dict(config_dict), **kwargs)  # a plain dict has no guard

    def __len__(self) -> int:
        """Number of training steps T."""
        return self.schedule.steps

    def operator(self, images: Tensor) -> BlurOperator:
        """Cached BlurOperator for images ... H W of this size and device: float64 for float64 images, else float32."""
        height, width = images.shape[-2:]
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        key = (height, width, images.device, dtype)
        if key not in self._operators:
            self._operators[key] = BlurOperator(self.schedule, height, width, images.device, dtype)
            self._warn_of_gain(self._operators[key], dtype)
        return self._operators[key]

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Start a run of `num_inference_steps` (1 to T) steps and set `timesteps`: distinct, descending, from T-1 and,
        with more than one, down to 0. Raises UserError for a number out of range."""
        steps = self.schedule.steps
        if not 1 <= num_inference_steps <= steps:
            raise UserError(
                f"num_inference_steps={num_inference_steps} does not fit a process of {steps} steps: use 1 to {steps}."
            )
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.from_numpy(self._grid(num_inference_steps)).to(device)
        self._forget_run()

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """Return the sample unchanged."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return a u_0 + s ε at `timesteps` (B, or 1 for all), in pixels: B C H W of the samples' type."""
        return self._mix(original_samples, noise, timesteps, velocity=False)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return a ε - s u_0 of data `sample` at `timesteps` (B, or 1 for all), in pixels: v_prediction's target."""
        return self._mix(sample, noise, timesteps, velocity=True)

    def predict_data(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> Tensor:
        """Return û_0, the data predicted by the model's output for `sample` at `timestep`, in pixels: B C H W of the
        sample's type. It equals pred_original_sample of `step`."""
        operator = self.operator(sample)
        log_a, log_s = operator.log_coefficients(timestep)
        data = self._predicted_data(operator.to_modes(model_output), operator.to_modes(sample), log_a, log_s)
        pixels = operator.to_pixels(data)
        return (pixels.clamp(-1, 1) if self.config.clip_sample else pixels).to(sample.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """Go from `timestep` to the next of `timesteps`, or after the last one to the data.

        model_output: B C H W, of prediction_type. sample: B C H W. variance_noise: white noise in pixels to use instead
        of the generator's. Returns prev_sample and pred_original_sample, B C H W of the sample's type.
        Raises UserError when the sample changes shape within a run.
        """
        t, r = int(timestep), self._following(int(timestep))
        if t == int(self.timesteps[0]):
            self._forget_run()
        if self._shape is not None and self._shape != sample.shape:
            raise UserError(
                f"the sample at step t={t} is {_size(sample.shape)}, but this run began with {_size(self._shape)}: "
                f"keep the size, or call set_timesteps to begin another run."
            )
        self._shape = sample.shape
        operator = self.operator(sample)
        log_a, log_s = operator.log_coefficients(t)
        log_a_next, log_s_next = operator.log_coefficients(r)
        modes = operator.to_modes(sample)
        output = operator.to_modes(model_output)
        data = self._predicted_data(output, modes, log_a, log_s)
        pixels = operator.to_pixels(data)
        if self.config.clip_sample:
            pixels = pixels.clamp(-1, 1)
            data = operator.to_modes(pixels)
        used = data
        if self.config.algorithm_type == "reverse_diffusion":
            # The formula needs a û_0, which follows from ε̂ without a division by a, which may be tiny.
            from_noise = self.config.prediction_type == "epsilon" and not self.config.clip_sample
            used = modes - _like(log_s.exp(), modes) * output if from_noise else _like(log_a.exp(), modes) * data
        elif self.config.algorithm_type == "dpmsolver++":
            here, last = log_a - log_s, self._last
            if last is not None and self._following(last.t) == t and r >= 0:
                ratio = (log_a_next - log_s_next - here) / (here - last.log_snr)
                used = data + _like(ratio / 2, data) * (data - last.data)
            self._last = _Step(t, here, data)
        of_data, of_sample, of_noise = self._weights(log_a, log_s, log_a_next, log_s_next)
        modes = _like(of_data, modes) * used + _like(of_sample, modes) * modes
        if r >= 0 and bool(of_noise.any()):
            if variance_noise is None:
                variance_noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
            modes = modes + _like(of_noise, modes) * operator.to_modes(variance_noise)
        previous, original = operator.to_pixels(modes).to(sample.dtype), pixels.to(sample.dtype)
        if not return_dict:
            return previous, original
        return DDPMSchedulerOutput(prev_sample=previous, pred_original_sample=original)

    def _predicted_data(self, output: Tensor, modes: Tensor, log_a: Tensor, log_s: Tensor) -> Tensor:
        """Return û_0 from the network's output, both in modes."""
        if self.config.prediction_type == "sample":
            return output
        a, s = _like(log_a.exp(), modes), _like(log_s.exp(), modes)
        if self.config.prediction_type == "v_prediction":
            return (a * modes - s * output) / (a.square() + s.square())
        # u_t - s ε̂ equals a û_0 up to rounding: where a is below the rounding error, û_0 is unknown.
        known = _like(log_s - log_a, modes) < -math.log(torch.finfo(modes.dtype).eps)
        return torch.where(known, (modes - s * output) / a, 0.0)

    def _weights(
        self, log_a: Tensor, log_s: Tensor, log_a_next: Tensor, log_s_next: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of û_0 (for reverse_diffusion: of a û_0), u_t and z in u_r, each 1 H W: the module's formulas with
        ε̂ = (u_t - a û_0)/s substituted."""
        h = (log_a_next - log_s_next) - (log_a - log_s)  # infinite in the last step, to the data, where s_r = 0
        fresh = -torch.expm1(-2 * h)  # 1 - e^-2h: the forward step from r to t adds noise s²_{t|r} = s² (1 - e^-2h)
        if self.config.algorithm_type == "reverse_diffusion":
            return fresh, 2 - (log_a - log_a_next).exp() - fresh, log_s.exp() * fresh.sqrt()
        eta = {"ancestral": 1.0, "ddim": self.config.eta, "dpmsolver++": 0.0}[self.config.algorithm_type]
        kept = (1 - eta**2 * fresh).sqrt()
        of_data = log_a_next.exp() * (1 - kept * (-h).exp())
        return of_data, kept * (log_s_next - log_s).exp(), eta * log_s_next.exp() * fresh.sqrt()

    def _mix(self, data: Tensor, noise: Tensor, timesteps: Tensor, velocity: bool) -> Tensor:
        operator = self.operator(data)
        log_a, log_s = operator.log_coefficients(timesteps)
        data_modes, noise_modes = operator.to_modes(data), operator.to_modes(noise)
        a, s = _like(log_a.exp(), data_modes), _like(log_s.exp(), data_modes)
        mixed = a * noise_modes - s * data_modes if velocity else a * data_modes + s * noise_modes
        return operator.to_pixels(mixed).to(data.dtype)

    def _following(self, t: int) -> int:
        """Largest of `timesteps` below t, or -1 (the data) after the last."""
        below = self.timesteps[self.timesteps < t]
        return int(below.max()) if len(below) else -1

    def _grid(self, n_steps: int) -> np.ndarray:
        last, spacing = self.schedule.steps - 1, self.config.timestep_spacing
        if spacing == "uniform":
            grid = np.linspace(0, last, n_steps)
        elif spacing == "quadratic":
            grid = np.linspace(0, math.sqrt(last), n_steps) ** 2
        else:
            measure = -log_snr(self.schedule).clamp(min=_PURE_NOISE)  # rises with t
            if spacing == "blur_aware":
                measure = (measure - mean_log_snr(self.schedule, _PURE_NOISE)) / 2
            knots = measure.numpy()
            grid = np.interp(np.linspace(knots[0], knots[-1], n_steps), knots, np.arange(last + 1))
        times = grid.round().astype(np.int64)
        times[-1] = last  # also when n_steps is 1
        # Make times distinct: near the data, where λ changes fast, several grid points may round to the same time.
        order = np.arange(n_steps)
        times = np.maximum.accumulate(times - order) + order
        return np.minimum(times, last - order[::-1])[::-1].copy()

    def _warn_of_gain(self, operator: BlurOperator, dtype: torch.dtype) -> None:
        log_a, log_s = operator.log_coefficients(self.schedule.steps - 1)
        gain = float((log_s - log_a).max())
        if self.config.prediction_type == "epsilon" and gain > -math.log(torch.finfo(dtype).eps):
            warnings.warn(
                f"prediction_type=epsilon with blur_schedule={self.schedule.blur_schedule}: going from noise to data "
                f"multiplies errors by up to 10^{gain / math.log(10):.0f}: use prediction_type=v_prediction.",
                stacklevel=3,
            )

    def _forget_run(self) -> None:
        self._shape, self._last = None, None


class _Settings(FrozenDict):
    """Settings that only a BlurDiffusionScheduler can be made from."""

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict's. diffusers asks for `_use_default_values` where it makes a scheduler."""
        if key == "_use_default_values":
            raise UserError(
                "a scheduler of diffusers cannot be made from the settings of BlurDiffusionScheduler, whose blur it "
                "would drop (DDIMPipeline makes one unasked): use BlurDiffusionPipeline, or step with this scheduler."
            )
        return super().get(key, default)


@dataclass(frozen=True)
class _Step:
    """State that the second-order solver keeps from the previous step: log_snr 1 H W, data B C H W in modes."""

    t: int
    log_snr: Tensor
    data: Tensor


def _like(coefficients: Tensor, modes: Tensor) -> Tensor:
    """Convert B H W float64 to B 1 H W of the modes' device and type."""
    return coefficients[:, None].to(modes.device, modes.dtype, non_blocking=True)


def _size(shape: torch.Size) -> str:
    return "×".join(map(str, shape))
