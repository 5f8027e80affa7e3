"""wavedp.diffusion.blur against direct convolution, composed steps and published numbers."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from wavedp.diffusion import blur
from wavedp.diffusion.blur import BlurOperator, BlurSchedule, blur_coefficients, effective_blur
from wavedp.errors import UserError


@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("basis", blur.BASES)
@pytest.mark.parametrize(
    ("name", "order"),
    [(name, blur.ORDERS[0]) for name in blur.BLURS if name != "heat"] + [("quartic", blur.ORDERS[1])],
)
def test_one_step_after_another_gives_the_marginal(name, order, basis, side, steps):
    # Proposition 1: u_i = √(1-β_i) D^f(i) u_{i-1} + √(1 - (1-β_i) D^2f(i)) z, written out from the schedule.
    schedule = BlurSchedule(num_train_timesteps=steps, blur_schedule=name, blur_basis=basis, blur_order=order)
    operator = BlurOperator(schedule, side, side)
    log_eigenvalues = operator.row_exponents[:, None] + operator.column_exponents
    factor, variance = torch.ones(side, side, dtype=torch.float64), torch.zeros(side, side, dtype=torch.float64)
    for t, (beta, power) in enumerate(zip(blur.noise_variances(schedule), blur.blur_powers(schedule), strict=True)):
        step = (1 - beta) * (2 * power * log_eigenvalues).exp()
        factor, variance = factor * step.sqrt(), variance * step + (1 - step)
        if t in (0, 1, 6, steps // 2, steps - 1):
            a, s = (x[0] for x in blur_coefficients(schedule, side, side, t))
            torch.testing.assert_close(a, factor, rtol=1e-9, atol=1e-300)
            torch.testing.assert_close(s.square(), variance, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize("side", [16, 32])
def test_heat_is_hoogeboom_and_salimans(side, steps):
    schedule = BlurSchedule(num_train_timesteps=steps, blur_schedule="heat", beta_schedule="cosine", heat_sigma_max=8)
    t = torch.tensor([0, 1, steps // 2, steps - 1])
    a, s = blur_coefficients(schedule, side, side, t)
    frequency = math.pi * torch.arange(side, dtype=torch.float64) / side
    sigma = 8 * torch.sin(math.pi / 2 * (t + 1) / steps) ** 2
    kept = torch.exp(-(frequency[:, None] ** 2 + frequency**2) * (sigma[:, None, None] ** 2) / 2) * 0.999 + 0.001
    alpha_bar = torch.cumprod(1 - blur.noise_variances(schedule), 0)[t, None, None]
    torch.testing.assert_close(a, alpha_bar.sqrt() * kept)
    torch.testing.assert_close(s, (1 - alpha_bar).sqrt().expand_as(s))
    assert (a[-1, -1, -1] ** 2 + s[-1, -1, -1] ** 2) < 1  # not variance preserving
    torch.testing.assert_close(effective_blur(schedule)[t], sigma.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "basis"),
    [("heat", "dct"), *itertools.product([b for b in blur.BLURS if b not in ("none", "heat")], blur.BASES)],
)
def test_fine_to_coarse_deals_the_same_factors_out_in_reverse(name, basis):
    t = torch.tensor([-1, 0, 30, 999])
    coarse, fine = (BlurSchedule(blur_schedule=name, blur_basis=basis, blur_order=order) for order in blur.ORDERS)
    for there, back in zip(blur_coefficients(coarse, 6, 9, t), blur_coefficients(fine, 6, 9, t), strict=True):
        assert torch.equal(back, there.flip((1, 2)))
    operators = BlurOperator(coarse, 6, 9), BlurOperator(fine, 6, 9)
    assert torch.equal(operators[0].rows, operators[1].rows)  # the modes stay where they are
    a, s = (x[2] for x in blur_coefficients(fine, 6, 9, t))
    snr = (a / s).square()
    assert (snr.diff(dim=0) > 0).all()  # from coarse to fine, the later to be lost
    assert (snr.diff(dim=1) > 0).all()
    torch.testing.assert_close(operators[1].mean_snr(t[1:]), operators[0].mean_snr(t[1:]), rtol=1e-12, atol=0)


def test_the_coefficients_are_those_from_before_there_was_an_order():
    # Computed at commit e7e3c42.
    a, s = blur_coefficients(BlurSchedule(), 6, 10, torch.tensor([500, 999]))
    found = [float(x) for x in (a[0, 0, 0], a[0, 5, 9], a[1, 2, 3], s[0, 5, 9])]
    known = [0.27892052338439344, 0.20688420106104574, 0.0007642642500369425, 0.9783654365068979]
    assert found == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("name", blur.BLURS)
@pytest.mark.parametrize("noise", blur.NOISES)
def test_the_data_and_the_noise_are_the_ends(name, noise):
    schedule = BlurSchedule(blur_schedule=name, beta_schedule=noise)
    a, s = blur_coefficients(schedule, 12, 8, torch.tensor([-1, 999]))
    assert (a[0] - 1).abs().max() < 1e-12
    assert (s[0] == 0).all()
    assert a[1].max() < 0.01
    assert (s[1] - 1).abs().max() < 1e-4


def convolved(images, basis, times):
    """`images` blurred by the Gaussian of 0.4 pixels, each channel by itself, as a plain convolution."""
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 0.4**2))
    kernel = torch.from_numpy(np.outer(taps, taps) / taps.sum() ** 2).float()
    channels = images.shape[1]
    for _ in range(times):
        mode = "symmetric" if basis == "dct" else "constant"
        padded = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode=mode))
        images = F.conv2d(padded, kernel.expand(channels, 1, 7, 7), groups=channels)
    return images


@pytest.mark.parametrize("basis", blur.BASES)
@pytest.mark.parametrize("size", [(16, 16), (9, 20)])
def test_a_power_of_the_operator_is_that_many_convolutions_of_each_channel(basis, size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    operator = BlurOperator(BlurSchedule(blur_basis=basis), *size, dtype=torch.float32)
    eigenvalues = (operator.row_exponents[:, None] + operator.column_exponents).exp().float()
    for times in (1, 5):
        blurred = operator.to_pixels(eigenvalues**times * operator.to_modes(images))
        assert (blurred - convolved(images, basis, times)).abs().max() <= 1e-5


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), basis=st.sampled_from(blur.BASES))
def test_modes_come_back_as_pixels(height, width, basis):
    images = torch.randn(2, 3, height, width)
    operator = BlurOperator(BlurSchedule(blur_basis=basis), height, width, dtype=torch.float32)
    modes = operator.to_modes(images)
    torch.testing.assert_close(operator.to_pixels(modes), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(modes.square().sum(), images.square().sum())  # orthonormal: white noise stays white


def test_the_dct_is_scipys():
    images = torch.randn(2, 3, 8, 13, dtype=torch.float64)
    modes = BlurOperator(BlurSchedule(), 8, 13).to_modes(images)
    np.testing.assert_allclose(modes, scipy.fft.dctn(images.numpy(), axes=(2, 3), norm="ortho"), atol=1e-12)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_the_change_of_basis_stays_float32_whatever_is_around(low):
    images = torch.randn(1, 1, 32, 32)
    operator = BlurOperator(BlurSchedule(), 32, 32, dtype=torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            back = operator.to_pixels(operator.to_modes(images))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert back.dtype == torch.float32
    assert (back - images).abs().max() < 1e-5
    assert operator.to_modes(images.to(low)).dtype == torch.float32


def test_the_cosine_basis_keeps_a_constant_and_the_papers_darkens_its_border():
    at = {}
    for basis in blur.BASES:
        schedule = dataclasses.replace(blur.PAPER_QUARTIC, blur_basis=basis)
        operator = BlurOperator(schedule, 32, 32)
        power = blur.cumulated_blur(schedule)[-1]
        gains = (power * (operator.row_exponents[:, None] + operator.column_exponents)).exp()
        at[basis] = operator.to_pixels(gains * operator.to_modes(torch.ones(1, 1, 32, 32)))[0, 0]
    assert (at["dct"] - 1).abs().max() < 1e-9
    # The reference program's, as measured for the specification: 49 % at edges, 24 % in corners.
    assert at["zero_pad"][0, 16] == pytest.approx(0.49, abs=0.01)
    assert at["zero_pad"][0, 0] == pytest.approx(0.24, abs=0.01)


# F_999, and effective blur in pixels after 999 and 500 steps, as another program computed them.
@pytest.mark.parametrize(
    ("name", "power", "late", "middle"),
    [
        ("linear", 70.2, 2.38, 1.19),
        ("log", 120.2, 3.12, 2.07),
        ("quadratic", 46.8, 1.94, 0.69),
        ("cubic", 35.1, 1.68, 0.42),
        ("quartic", 28.1, 1.51, 0.27),
        ("triangular", 35.1, 1.68, 1.19),
    ],
)
def test_blur_schedules_add_up_to_the_reference(name, power, late, middle):
    schedule = BlurSchedule(blur_schedule=name)
    assert float(blur.cumulated_blur(schedule)[999]) == pytest.approx(power, abs=0.06)
    assert float(effective_blur(schedule)[998]) == pytest.approx(late, abs=0.006)
    assert float(effective_blur(schedule)[499]) == pytest.approx(middle, abs=0.006)


@pytest.mark.parametrize("name", ["linear", "log", "quadratic", "cubic", "quartic", "triangular"])
def test_f_runs_from_f_min_to_f_max(name):
    powers = blur.blur_powers(BlurSchedule(blur_schedule=name, blur_f_min=0.01, blur_f_max=0.1))
    assert float(powers[0]) == pytest.approx(0.01, abs=1e-4)
    assert float(powers[-1]) == pytest.approx(0.1 if name != "triangular" else 0.01 - 0.09 / 999, abs=1e-9)
    assert float(powers.max()) == pytest.approx(0.1 if name != "triangular" else 0.055, abs=1e-3)
    assert name == "triangular" or (powers.diff() > 0).all()


def test_noise_schedules_are_the_published_ones():
    alpha_bar = blur.log_alpha_bars(BlurSchedule()).exp()
    np.testing.assert_allclose(alpha_bar[[0, 1, 10, 100, 500]], [1, 0.9999, 0.99811, 0.89702, 0.07859], atol=6e-6)
    assert float(alpha_bar[999]) == pytest.approx(4.118e-5, rel=1e-3)
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2").betas
    np.testing.assert_allclose(blur.noise_variances(BlurSchedule(beta_schedule="cosine")), cosine, rtol=2e-4)


def test_at_equal_signal_to_noise_cosine_noise_lets_the_same_f_blur_five_times_as_wide():
    # results/blur_schedules/README.md: f(i) says nothing without the noise schedule beside it.
    width = {}
    for noise in blur.NOISES:
        schedule = BlurSchedule(blur_schedule="quartic", beta_schedule=noise)
        half = int((blur.log_alpha_bars(schedule)[1:].exp() - 0.5).abs().argmin())
        width[noise] = float(effective_blur(schedule)[half])
    assert width["cosine"] / width["linear"] == pytest.approx(5.1, abs=0.05)


def test_strong_blur_neither_underflows_nor_loses_the_first_step():
    operator = BlurOperator(blur.PAPER_LOG, 64, 64)
    log_a, _ = operator.log_coefficients(torch.tensor([0, 999]))
    assert log_a[1].min() < -150  # float32 ends at -103
    assert log_a.isfinite().all()
    # s² = β_1 + (1-β_1)(1 - D^2f) with f(1) ~ 1e-7, in more digits than float64 has
    first = BlurOperator(BlurSchedule(beta_start=1e-13), 8, 8).log_coefficients(0)[1].exp().square()
    f = 0.140625 * 1e-12
    expected = 1e-13 - 2 * f * float(2 * BlurOperator(BlurSchedule(), 8, 8).row_exponents[-1])
    assert float(first[0, -1, -1]) == pytest.approx(expected, rel=1e-9, abs=0)
    assert operator.blur[1] == pytest.approx(blur.blur_powers(blur.PAPER_LOG)[0])


def test_mean_snr_averages_over_the_modes():
    schedule = BlurSchedule(blur_schedule="linear")
    operator = BlurOperator(schedule, 6, 10)
    t = torch.tensor([0, 300, 999])
    a, s = blur_coefficients(schedule, 6, 10, t)
    torch.testing.assert_close(operator.mean_snr(t), (a / s).square().flatten(1).mean(1))
    assert operator.mean_snr(0).shape == (1,)


def test_log_snr_on_a_grid_of_frequencies_stands_for_images():
    schedule = BlurSchedule(blur_schedule="linear")
    log_a, log_s = BlurOperator(schedule, 64, 64).log_coefficients(torch.arange(0, 1000, 90))
    expected = (log_a - log_s).clamp(min=-5).mean((1, 2))
    torch.testing.assert_close(blur.mean_log_snr(schedule, -5)[::90], expected, rtol=0, atol=0.06)
    torch.testing.assert_close(blur.log_snr(schedule)[::90], (log_a - log_s)[:, 0, 0])


def test_an_operator_holds_no_more_than_the_image_and_the_schedule():
    operator = BlurOperator(BlurSchedule(), 48, 40)
    tensors = [value for value in vars(operator).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert max(tensor.numel() for tensor in tensors) <= 48 * 48
    assert sum(tensor.numel() for tensor in tensors) <= 48**2 + 40**2 + 2 * 1001 + 88


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("blur_schedule", "sqrt", "blur_schedule='sqrt' is not offered: use one of none, linear, log, quadratic"),
        ("beta_schedule", "exp", "beta_schedule='exp' is not offered: use one of linear, cosine"),
        ("blur_basis", "fft", "blur_basis='fft' is not offered: use one of dct, zero_pad"),
        ("blur_order", "up", "blur_order='up' is not offered: use one of coarse_to_fine, fine_to_coarse"),
        ("num_train_timesteps", 0, "num_train_timesteps=0 diffuses nothing: use 1 or more"),
        ("blur_sigma", 0, "blur_sigma=0 is not a width: use a finite number of pixels > 0"),
        ("heat_sigma_max", math.nan, "heat_sigma_max=nan is not a width"),
        ("blur_f_max", math.inf, "blur_f_max=inf is not a valid blur power"),
        ("trained_betas", (0.1, 1.5), "1.5 per step is out of range: use betas > 0 and < 1"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(field, value, words):
    with pytest.raises(UserError, match=words):
        BlurSchedule(**{field: value})


def test_heat_has_cosine_modes_only():
    with pytest.raises(UserError, match="blur_schedule=heat is made of cosines, not of zero_pad: use blur_basis=dct"):
        BlurSchedule(blur_schedule="heat", blur_basis="zero_pad")


@pytest.mark.parametrize("basis", blur.BASES)
def test_a_base_kernel_too_wide_to_compute_with_is_refused(basis):
    with pytest.raises(UserError, match=r"blur_sigma=3.0 leaves .*: use blur_sigma <= 1.5 and a larger blur_f_max"):
        BlurOperator(BlurSchedule(blur_sigma=3.0, blur_basis=basis), 32, 32)


def test_a_step_that_sharpens_more_than_its_noise_hides_is_named():
    # f(i) falls from 0 to -0.1: the finest mode (log D = -0.35) gains 2 · 0.35 · 0.1 · (i-1)/999 > β_i first at i = 3.
    schedule = BlurSchedule(blur_schedule="linear", blur_f_max=-0.1, beta_start=1e-4, beta_end=2e-4)
    with pytest.raises(
        UserError, match=r"blur_schedule=linear sharpens at step t=2,.*variance -.*: use blur_f_min >= 0"
    ):
        BlurOperator(schedule, 16, 16)


def test_triangular_may_sharpen_its_last_step_by_less_than_the_noise():
    schedule = BlurSchedule(blur_schedule="triangular")
    assert float(blur.blur_powers(schedule)[-1]) == pytest.approx(-0.140625 / 999)
    BlurOperator(schedule, 16, 16)
    with pytest.raises(UserError, match="blur_schedule=triangular sharpens at step t=999"):
        BlurOperator(dataclasses.replace(schedule, trained_betas=(*[1e-3] * 999, 1e-5)), 16, 16)
