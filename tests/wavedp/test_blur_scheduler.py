"""wavedp.diffusion.scheduler, pipeline and report: against diffusers without blur, against algebra with it."""

import inspect
import itertools
import json
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from wavedp.diffusion.blur import ORDERS, BlurSchedule, blur_coefficients
from wavedp.diffusion.pipeline import BlurDiffusionPipeline
from wavedp.diffusion.scheduler import ALGORITHMS, PREDICTIONS, SPACINGS, BlurDiffusionScheduler
from wavedp.errors import UserError
from wavedp.reports import samplers as report
from wavedp.reports.samplers import generated_std, photograph_spectrum

BLURS = [("none", 0.0), ("quartic", 0.140625), ("log", 0.600625), ("heat", 0.0)]
ALL = list(itertools.product(PREDICTIONS, ALGORITHMS, BLURS))
every_kind = pytest.mark.parametrize(
    ("prediction", "algorithm", "blurred"), ALL, ids=lambda x: x if type(x) is str else x[0]
)
pytestmark = pytest.mark.filterwarnings("ignore:prediction_type=epsilon")


def scheduler_of(prediction="v_prediction", algorithm="dpmsolver++", blurred=BLURS[1], **more):
    blur_schedule, f_max = blurred
    return BlurDiffusionScheduler(
        prediction_type=prediction, algorithm_type=algorithm, blur_schedule=blur_schedule, blur_f_max=f_max, **more
    )


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(scheduler, sample, steps, model=lambda x, t: 0.1 * x, **more):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        sample = scheduler.step(model(sample, t), t, sample, **more).prev_sample
    return sample


def exact(scheduler):
    """diffusers' scheduler with its tables in float64: in float32, 1 - ᾱ_1 = 1e-4 has three digits."""
    betas = torch.linspace(1e-4, 0.02, scheduler.config.num_train_timesteps, dtype=torch.float64)
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    return scheduler


# Without blur: diffusers. `linear` with f = 0 goes through the change of basis, and must not be seen to.

UNBLURRED = [{"blur_schedule": "none"}, {"blur_schedule": "linear", "blur_f_max": 0.0, "blur_basis": "zero_pad"}]
unblurred = pytest.mark.parametrize("how", UNBLURRED, ids=["none", "zero"])


@unblurred
def test_without_blur_noise_and_velocity_are_ddpms(how):
    ours, theirs = BlurDiffusionScheduler(**how), exact(DDPMScheduler())
    images, white, t = noise(5, 3, 8, 12), noise(5, 3, 8, 12, seed=1), torch.tensor([0, 1, 10, 500, 999])
    assert (ours.add_noise(images, white, t) - theirs.add_noise(images, white, t)).abs().max() <= 1e-5
    assert (ours.get_velocity(images, white, t) - theirs.get_velocity(images, white, t)).abs().max() <= 1e-5


@unblurred
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
def test_without_blur_an_ancestral_step_is_ddpms(how, prediction, clip):
    ours = BlurDiffusionScheduler(
        **how, prediction_type=prediction, algorithm_type="ancestral", timestep_spacing="uniform", clip_sample=clip
    )
    theirs = exact(DDPMScheduler(prediction_type=prediction, clip_sample=clip))
    for steps in (1000, 13):
        ours.set_timesteps(steps)
        theirs.set_timesteps(timesteps=ours.timesteps.tolist())
        for t in [*ours.timesteps[:: max(1, steps // 12)].tolist(), 0]:
            sample, output = noise(2, 1, 8, 8, seed=t), noise(2, 1, 8, 8, seed=t + 1)
            step = ours.step(output, t, sample, generator=seeded())
            expected = theirs.step(output, t, sample, generator=seeded())
            assert (step.prev_sample - expected.prev_sample).abs().max() <= 1e-5
            gain = float(theirs.alphas_cumprod[t] ** -0.5) if prediction == "epsilon" else 1
            assert (step.pred_original_sample - expected.pred_original_sample).abs().max() <= 1e-5 * gain


@unblurred
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_without_blur_ddim_is_ddim(how, prediction, eta):
    common = {"num_train_timesteps": 200, "prediction_type": prediction}
    ours = BlurDiffusionScheduler(**how, **common, algorithm_type="ddim", timestep_spacing="uniform", eta=eta)
    theirs = exact(DDIMScheduler(**common, clip_sample=False))
    ours.set_timesteps(200)
    theirs.set_timesteps(200)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    for t in range(199, -1, -9):
        sample, output, white = noise(1, 1, 8, 8, seed=t), noise(1, 1, 8, 8, seed=t + 1), noise(1, 1, 8, 8, seed=t + 2)
        step = ours.step(output, t, sample, variance_noise=white).prev_sample
        expected = theirs.step(output, t, sample, eta=eta, variance_noise=white).prev_sample
        assert (step - expected).abs().max() <= 1e-5


@unblurred
@pytest.mark.parametrize("order", [1, 2])
def test_without_blur_dpmsolver_is_dpmsolver(how, order):
    algorithm = {1: "ddim", 2: "dpmsolver++"}[order]  # the first-order solver is DDIM, over any grid
    ours = BlurDiffusionScheduler(**how, algorithm_type=algorithm, timestep_spacing="quadratic")
    theirs = DPMSolverMultistepScheduler(prediction_type="v_prediction", solver_order=order, lower_order_final=False)
    ours.set_timesteps(20)
    theirs.set_timesteps(timesteps=ours.timesteps.tolist())
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    sample = expected = noise(2, 3, 8, 8)
    for t in ours.timesteps:
        output = noise(2, 3, 8, 8, seed=int(t))
        sample = ours.step(output, t, sample).prev_sample
        expected = theirs.step(output, t, expected).prev_sample
        assert (sample - expected).abs().max() <= 1e-4  # diffusers keeps σ in float32


# With blur: algebra.


@every_kind
def test_what_the_network_predicts_does_not_matter(prediction, algorithm, blurred):
    data, white = noise(2, 3, 8, 12, dtype=torch.float64), noise(2, 3, 8, 12, seed=1, dtype=torch.float64)
    scheduler = scheduler_of(prediction, algorithm, blurred)
    reference = scheduler_of("sample", algorithm, blurred)
    for t in (700, 300, 20, 0):
        noisy = scheduler.add_noise(data, white, torch.tensor([t]))
        velocity = scheduler.get_velocity(data, white, torch.tensor([t]))
        output = {"sample": data, "epsilon": white, "v_prediction": velocity}[prediction]
        step = scheduler.step(output, t, noisy, generator=seeded())
        expected = reference.step(data, t, noisy, generator=seeded())
        torch.testing.assert_close(step.prev_sample, expected.prev_sample, rtol=0, atol=1e-7)
        if prediction != "epsilon" or blurred[0] != "log":  # its gain is 10^80
            torch.testing.assert_close(step.pred_original_sample, data, rtol=0, atol=1e-6)


@pytest.mark.parametrize("basis", ["dct", "zero_pad"])
def test_the_data_in_a_noisy_rgb_image_is_blurred_by_plain_convolution(basis):
    images = torch.rand(2, 3, 12, 17, generator=seeded())
    scheduler = BlurDiffusionScheduler(
        blur_schedule="linear", blur_f_min=1.0, blur_f_max=1.0, blur_basis=basis, blur_sigma=0.6
    )  # at t, the kernel of 0.6 pixels t + 1 times
    taps = np.exp(-(np.arange(-4, 5) ** 2) / (2 * 0.6**2))
    kernel = torch.from_numpy(np.outer(taps, taps) / taps.sum() ** 2).float().expand(3, 1, 9, 9)
    expected = images
    for t in range(4):
        mode = "symmetric" if basis == "dct" else "constant"
        padded = torch.from_numpy(np.pad(expected.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=mode))
        expected = torch.nn.functional.conv2d(padded, kernel, groups=3)
        noisy = scheduler.add_noise(images, torch.zeros_like(images), torch.tensor([t]))
        alpha_bar = torch.cumprod(1 - scheduler.betas, 0)[t].float()
        assert (noisy - alpha_bar.sqrt() * expected).abs().max() <= 1e-5


@pytest.mark.parametrize("blurred", BLURS)
@pytest.mark.parametrize(("t", "steps"), [(999, 1000), (400, 1000), (1, 1000), (0, 1000), (999, 7)])
def test_ancestral_draws_from_the_exact_posterior(blurred, t, steps):
    scheduler = scheduler_of("sample", "ancestral", blurred, timestep_spacing="uniform")
    scheduler.set_timesteps(steps)
    r = int(scheduler.timesteps[scheduler.timesteps.tolist().index(t) + 1]) if t else -1
    operator = scheduler.operator(noise(1, 1, 6, 6, dtype=torch.float64))
    (a, s), (a_r, s_r) = (blur_coefficients(scheduler.schedule, 6, 6, time) for time in (t, r))
    modes, data, white = (noise(1, 1, 6, 6, seed=seed, dtype=torch.float64) for seed in range(3))
    # Bayes: prior N(a_r û_0, s_r²), likelihood N((a/a_r) u_r, s² - (a/a_r)² s_r²).
    ratio = a / a_r
    spread = s.square() - ratio.square() * s_r.square()
    variance = 1 / (1 / s_r.square() + ratio.square() / spread)
    mean = variance * (a_r * data / s_r.square() + ratio * modes / spread) if t else data
    got = scheduler.step(
        *_pixels(operator, data), t, *_pixels(operator, modes, white)[:1], variance_noise=_pixels(operator, white)[0]
    )
    torch.testing.assert_close(operator.to_modes(got.prev_sample), mean + variance.sqrt() * white, rtol=1e-6, atol=1e-7)


def _pixels(operator, *modes):
    return [operator.to_pixels(each) for each in modes]


@pytest.mark.parametrize("blurred", BLURS)
def test_reverse_diffusion_is_the_papers_predictor_with_its_exponents_mended(blurred):
    scheduler = scheduler_of("epsilon", "reverse_diffusion", blurred)
    operator = scheduler.operator(noise(1, 1, 6, 6, dtype=torch.float64))
    modes, predicted, white = (noise(1, 1, 6, 6, seed=seed, dtype=torch.float64) for seed in range(3))
    for t in (999, 600, 100, 1, 0):
        (a, s), (a_r, s_r) = (blur_coefficients(scheduler.schedule, 6, 6, time) for time in (t, t - 1))
        ratio = a / a_r  # √(1-β_i) D^f(i)
        spread = s.square() - ratio.square() * s_r.square()
        expected = modes + (modes - ratio * modes) - spread / s * predicted + (t > 0) * spread.sqrt() * white
        output, sample, extra = _pixels(operator, predicted, modes, white)
        got = scheduler.step(output, t, sample, variance_noise=extra).prev_sample
        torch.testing.assert_close(operator.to_modes(got), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("blurred", BLURS)
def test_ddim_of_full_noise_is_ancestral(blurred):
    sample, output = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    full = scheduler_of("v_prediction", "ddim", blurred, eta=1.0)
    ancestral = scheduler_of("v_prediction", "ancestral", blurred)
    one, other = (each.step(output, 500, sample, generator=seeded()) for each in (full, ancestral))
    torch.testing.assert_close(one.prev_sample, other.prev_sample)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("size", "variance"), [((32, 32), 1 / 4), ((32, 32), 1 / 16), ((24, 40), 1 / 4)])
def test_quartic_blur_with_the_exact_score_gives_the_datas_spectrum(prediction, size, variance):
    spectrum = photograph_spectrum(*size, variance)
    assert float(spectrum.mean()) == pytest.approx(variance)
    scheduler = scheduler_of(prediction)
    assert (scheduler.config.algorithm_type, scheduler.config.timestep_spacing) == ("dpmsolver++", "logsnr")
    for steps, bound in ((20, 0.03), (50, 0.005)):
        ratio = generated_std(scheduler, spectrum, steps) / spectrum.sqrt()
        assert float((ratio - 1).square().mean().sqrt()) <= bound


def test_samplers_with_the_exact_score_err_as_measured_for_the_specification():
    # Figures of another program, at 64 × 64 with pixel variance 1/16: DDIM and 2M over uniform and quadratic grids.
    spectrum = photograph_spectrum(64, 64, 1 / 16)
    known = {
        ("ddim", "uniform"): (0.42, 0.21),
        ("ddim", "quadratic"): (0.12, 0.05),
        ("dpmsolver++", "uniform"): (0.40, 0.15),
    }
    for (algorithm, spacing), expected in known.items():
        scheduler = scheduler_of("sample", algorithm, timestep_spacing=spacing)
        errors = [generated_std(scheduler, spectrum, steps) / spectrum.sqrt() - 1 for steps in (20, 50)]
        rms = [float(error.square().mean().sqrt()) for error in errors]
        if algorithm == "ddim":
            assert rms == pytest.approx(expected, abs=0.02)
        assert rms[0] > rms[1] > 0.03  # a grid in t is no substitute for one in log-SNR


def test_a_blur_aware_grid_helps_strong_blur():
    spectrum = photograph_spectrum(32, 32)
    for blurred in (("log", 0.140625), ("heat", 0.0)):
        error = {}
        for spacing in ("logsnr", "blur_aware"):
            ratio = generated_std(scheduler_of("sample", blurred=blurred, timestep_spacing=spacing), spectrum, 10)
            error[spacing] = float((ratio / spectrum.sqrt() - 1).square().mean().sqrt())
        assert error["blur_aware"] < 0.7 * error["logsnr"]


# What diffusers expects of a scheduler.


@every_kind
def test_a_saved_scheduler_steps_as_before(prediction, algorithm, blurred, tmp_path):
    scheduler = scheduler_of(prediction, algorithm, blurred, num_train_timesteps=300, clip_sample=True, eta=0.3)
    scheduler.save_pretrained(tmp_path)
    loaded = BlurDiffusionScheduler.from_pretrained(tmp_path)
    hidden = "_use_default_values"  # diffusers' note of what was not given
    assert {**loaded.config, hidden: None} == {**scheduler.config, hidden: None}
    first, second = (run(each, noise(2, 3, 8, 8), 6, generator=seeded()) for each in (scheduler, loaded))
    assert torch.equal(first, second)
    assert first.isfinite().all()
    assert list(json.loads((tmp_path / "scheduler_config.json").read_text()))[:2] == [
        "_class_name",
        "_diffusers_version",
    ]


def test_the_order_of_blur_is_kept_on_disk_and_moves_the_noise(tmp_path):
    coarse, fine = (BlurDiffusionScheduler(blur_order=order) for order in ORDERS)
    fine.save_pretrained(tmp_path)
    loaded = BlurDiffusionScheduler.from_pretrained(tmp_path)
    assert loaded.config.blur_order == "fine_to_coarse"
    constant, t = torch.ones(1, 1, 8, 8, dtype=torch.float64), torch.tensor([999])
    kept = [float(each.add_noise(constant, torch.zeros_like(constant), t).mean()) for each in (coarse, fine, loaded)]
    assert kept[2] == kept[1] < 1e-3 * kept[0]  # the mean goes first


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("blurred", BLURS[1:3], ids=["quartic", "log"])
def test_samplers_treat_a_mode_by_its_factor_in_either_order(algorithm, blurred):
    spectrum = photograph_spectrum(6, 8)
    coarse, fine = (scheduler_of(algorithm=algorithm, blurred=blurred, blur_order=order) for order in ORDERS)
    expected = generated_std(coarse, spectrum, 12).flip((0, 1))
    torch.testing.assert_close(generated_std(fine, spectrum.flip((0, 1)), 12), expected)


@every_kind
def test_steps_keep_shape_and_type(prediction, algorithm, blurred):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        scheduler = scheduler_of(prediction, algorithm, blurred)
        sample, output = noise(2, 3, 8, 6).to(dtype), noise(2, 3, 8, 6, seed=1).to(dtype)
        scheduler.set_timesteps(10)
        for t in (scheduler.timesteps[5], scheduler.timesteps[6], 1, 0):
            result = scheduler.step(output, t, sample, generator=seeded())
            assert result.prev_sample.shape == result.pred_original_sample.shape == sample.shape
            assert result.prev_sample.dtype == result.pred_original_sample.dtype == dtype
            # noise prediction multiplies rounding by 1/a, beyond what float16 can hold
            assert (prediction, blurred[0]) == ("epsilon", "log") or result.prev_sample.isfinite().all()
        noisy = scheduler.add_noise(sample, output, torch.tensor([3, 4]))
        assert noisy.dtype == scheduler.get_velocity(sample, output, torch.tensor([3, 4])).dtype == dtype


@every_kind
def test_a_tuple_is_the_same_two_tensors(prediction, algorithm, blurred):
    sample, output = noise(4, 3, 8, 8), noise(4, 3, 8, 8, seed=1)
    for t in (0, 1, 999):
        scheduler = scheduler_of(prediction, algorithm, blurred)
        named = scheduler.step(output, t, sample, generator=seeded())
        scheduler.set_timesteps(1000)
        plain = scheduler.step(output, t, sample, generator=seeded(), return_dict=False)
        assert type(plain) is tuple
        assert torch.equal(plain[0], named.prev_sample)
        assert torch.equal(plain[1], named.pred_original_sample)


@every_kind
def test_the_last_step_draws_no_noise(prediction, algorithm, blurred):
    scheduler = scheduler_of(prediction, algorithm, blurred, eta=1.0)
    sample, output = noise(1, 1, 8, 8), noise(1, 1, 8, 8, seed=1)
    one, other = (scheduler.step(output, 0, sample, generator=seeded(seed)) for seed in (1, 2))
    assert torch.equal(one.prev_sample, other.prev_sample)
    if algorithm != "reverse_diffusion":
        torch.testing.assert_close(one.prev_sample, one.pred_original_sample)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_generator_decides(algorithm):
    scheduler = scheduler_of("v_prediction", algorithm)
    one, same, other = (run(scheduler, noise(2, 1, 8, 8), 5, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (algorithm in ("ddim", "dpmsolver++"))
    each = [seeded(7), seeded(8)]
    scheduler.set_timesteps(1000)
    listed = scheduler.step(noise(2, 1, 8, 8), 500, noise(2, 1, 8, 8), generator=each).prev_sample
    alone = scheduler_of("v_prediction", algorithm).step(
        noise(2, 1, 8, 8)[1:], 500, noise(2, 1, 8, 8)[1:], generator=[seeded(8)]
    )
    torch.testing.assert_close(listed[1:], alone.prev_sample, rtol=0, atol=1e-5)


def test_times_count_from_zero_and_the_data_comes_after_the_last():
    scheduler = BlurDiffusionScheduler(blur_schedule="linear")
    data, white = noise(3, 1, 8, 8), noise(3, 1, 8, 8, seed=1)
    noisy = scheduler.add_noise(data, white, torch.tensor([0, 500, 999]))
    a, s = blur_coefficients(BlurSchedule(blur_schedule="linear"), 8, 8, torch.tensor([0, 500, 999]))
    operator = scheduler.operator(data)
    expected = a[:, None] * operator.to_modes(data) + s[:, None] * operator.to_modes(white)
    torch.testing.assert_close(operator.to_modes(noisy), expected.float(), rtol=0, atol=1e-5)
    assert float(a[0, 0, 0] ** 2) == pytest.approx(1 - 1e-4)  # t = 0 is i = 1: it has taken one step of noise
    assert scheduler.timesteps[0] == 999
    assert scheduler.timesteps[-1] == 0
    assert len(scheduler) == len(scheduler.timesteps) == 1000


def test_one_time_serves_a_whole_batch():
    scheduler = BlurDiffusionScheduler()
    data, white = noise(4, 3, 8, 8), noise(4, 3, 8, 8, seed=1)
    for mix in (scheduler.add_noise, scheduler.get_velocity):
        assert torch.equal(mix(data, white, torch.tensor([100])), mix(data, white, torch.full((4,), 100)))


def test_channels_and_records_are_independent():
    scheduler = BlurDiffusionScheduler(blur_schedule="log", algorithm_type="ddim")
    sample, output = noise(3, 3, 8, 10), noise(3, 3, 8, 10, seed=1)
    together = scheduler.step(output, 400, sample).prev_sample
    scheduler.set_timesteps(1000)
    alone = scheduler.step(output[1:2, 2:], 400, sample[1:2, 2:]).prev_sample
    torch.testing.assert_close(together[1:2, 2:], alone, rtol=0, atol=1e-5)


def test_betas_may_be_given():
    scheduler = BlurDiffusionScheduler(trained_betas=np.array([0.1, 0.3]))
    assert len(scheduler) == 2
    assert scheduler.betas.tolist() == [0.1, 0.3]
    again = BlurDiffusionScheduler.from_config(json.loads(scheduler.to_json_string()))
    assert again.betas.tolist() == scheduler.betas.tolist()
    assert run(again, noise(1, 1, 8, 8), 2).isfinite().all()
    with pytest.raises(UserError, match="num_inference_steps=3 does not fit a process of 2 steps"):
        again.set_timesteps(3)


def test_the_input_of_the_network_is_not_scaled():
    scheduler, sample = BlurDiffusionScheduler(), noise(1, 1, 8, 8)
    for t in (None, 3, 3.5, torch.tensor(3)):
        assert torch.equal(scheduler.scale_model_input(sample, t), sample)
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.order == 1
    assert scheduler.compatibles == []
    assert not any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(BlurDiffusionScheduler.__init__).parameters.values()
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("blurred", BLURS)
def test_grids_fall_from_the_noise_to_the_data(spacing, blurred):
    scheduler = scheduler_of(blurred=blurred, timestep_spacing=spacing)
    for steps in (1, 2, 7, 50, 400, 1000):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.dtype == torch.int64
        assert len(scheduler.timesteps) == scheduler.num_inference_steps == steps
        assert (scheduler.timesteps.diff() < 0).all()
        assert scheduler.timesteps[0] == 999
        assert steps == 1 or scheduler.timesteps[-1] == 0


def test_grids_are_equal_in_what_they_say():
    at = {}
    for spacing in SPACINGS:
        scheduler = scheduler_of(blurred=("log", 0.14), timestep_spacing=spacing)
        scheduler.set_timesteps(10)
        at[spacing] = scheduler.timesteps.double()
    assert (at["uniform"].diff() + 111).abs().max() <= 1
    assert (at["quadratic"].sqrt().diff() + 999**0.5 / 9).abs().max() < 0.3
    a, s = blur_coefficients(BlurSchedule(blur_schedule="none"), 1, 1, at["logsnr"].long())
    assert (a / s).log().flatten().diff().std() < 0.1
    assert (at["blur_aware"] < at["logsnr"])[1:-1].all()  # blur buries modes early: steps go there


def test_the_second_order_remembers_one_step_of_this_run_alone():
    scheduler = BlurDiffusionScheduler()
    start = noise(1, 1, 8, 8)
    first, again = run(scheduler, start, 8), run(scheduler, start, 8)
    assert torch.equal(first, again)
    for t in scheduler.timesteps:  # without set_timesteps
        start = scheduler.step(0.1 * start, t, start).prev_sample
    assert torch.equal(first, start)
    # A step out of order has no step before it to extrapolate from: it is of first order.
    single = scheduler_of(algorithm="ddim")
    single.set_timesteps(8)
    t = scheduler.timesteps[4]
    scheduler.step(start, scheduler.timesteps[1], start)
    out_of_order = scheduler.step(start, t, start).prev_sample
    assert torch.equal(out_of_order, single.step(start, t, start).prev_sample)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_clipping_is_of_pixels(prediction):
    data, white = 3 * noise(1, 1, 8, 8), noise(1, 1, 8, 8, seed=1)
    clipped, free = (scheduler_of(prediction, "ddim", clip_sample=clip) for clip in (True, False))
    t = torch.tensor([200])
    noisy = free.add_noise(data, white, t)
    output = {"sample": data, "epsilon": white, "v_prediction": free.get_velocity(data, white, t)}[prediction]
    one, other = clipped.step(output, 200, noisy), free.step(output, 200, noisy)
    assert other.pred_original_sample.abs().max() > 2
    torch.testing.assert_close(one.pred_original_sample, other.pred_original_sample.clamp(-1, 1), rtol=0, atol=1e-4)
    # and what is stepped from is the clipped data
    same = scheduler_of("sample", "ddim").step(one.pred_original_sample, 200, noisy)
    torch.testing.assert_close(one.prev_sample, same.prev_sample, rtol=0, atol=1e-5)


def test_a_run_keeps_its_size():
    scheduler = BlurDiffusionScheduler()
    scheduler.set_timesteps(4)
    first, second = scheduler.timesteps[:2]
    scheduler.step(noise(2, 3, 8, 8), first, noise(2, 3, 8, 8))
    with pytest.raises(
        UserError, match=r"is 2×3×8×12, but this run began with 2×3×8×8: keep the size, or call set_tim"
    ):
        scheduler.step(noise(2, 3, 8, 12), second, noise(2, 3, 8, 12))
    scheduler.step(noise(2, 3, 8, 12), first, noise(2, 3, 8, 12))  # the first time begins another run
    scheduler.set_timesteps(4)
    scheduler.step(noise(2, 3, 8, 8), second, noise(2, 3, 8, 8))


@pytest.mark.filterwarnings("default:prediction_type=epsilon")
def test_noise_prediction_of_strong_blur_warns_once_and_names_the_remedy():
    scheduler = scheduler_of("epsilon", blurred=("log", 0.140625))
    with pytest.warns(
        UserWarning, match=r"=log: going from noise to data multiplies errors by up to 10\^21: use predic"
    ):
        scheduler.step(noise(1, 1, 32, 32), 999, noise(1, 1, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step(noise(1, 1, 32, 32), 998, noise(1, 1, 32, 32))
        for fine in (
            scheduler_of("epsilon"),
            scheduler_of("v_prediction", blurred=("log", 0.6)),
            scheduler_of("sample"),
        ):
            fine.step(noise(1, 1, 32, 32), 999, noise(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"prediction_type": "x0"}, "prediction_type='x0' is not offered: use one of epsilon, v_prediction, sample"),
        (
            {"algorithm_type": "heun"},
            "algorithm_type='heun' is not offered: use one of reverse_diffusion, ancestral, ddim",
        ),
        ({"timestep_spacing": "leading"}, "timestep_spacing='leading' is not offered: use one of uniform, quadratic"),
        ({"blur_schedule": "sqrt"}, "blur_schedule='sqrt' is not offered: use one of none, linear"),
        ({"beta_schedule": "exp"}, "beta_schedule='exp' is not offered: use one of linear, cosine"),
        ({"blur_basis": "fft"}, "blur_basis='fft' is not offered: use one of dct, zero_pad"),
        ({"eta": 1.5}, "eta=1.5 is out of range: use 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, words):
    with pytest.raises(UserError, match=words):
        BlurDiffusionScheduler(**setting)


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_cannot_be_is_refused(steps):
    with pytest.raises(
        UserError, match=f"num_inference_steps={steps} does not fit a process of 1000 steps: use 1 to 1000"
    ):
        BlurDiffusionScheduler().set_timesteps(steps)


def test_a_scheduler_keeps_no_table_of_times_by_pixels():
    scheduler = scheduler_of("v_prediction")
    run(scheduler, noise(1, 1, 64, 64), 3)
    scheduler.add_noise(noise(8, 1, 64, 64), noise(8, 1, 64, 64), torch.arange(8))
    (operator,) = scheduler._operators.values()
    kept = [x for owner in (scheduler, operator, scheduler._last) for x in vars(owner).values() if torch.is_tensor(x)]
    assert len(kept) == 10
    assert sum(tensor.numel() for tensor in kept) <= 4 * 64 * 64 + 4 * 1001 + 2 * 64


# The pipeline.


def unet(n_classes=None, channels=1, size=8):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=n_classes,
    ).eval()


def pipeline(*args, scheduler=None, **kwargs):
    pipe = BlurDiffusionPipeline(unet(*args, **kwargs), scheduler or BlurDiffusionScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_each_output_type(channels):
    pipe = pipeline(channels=channels)
    common = {"batch_size": 2, "num_inference_steps": 3}
    tensors = pipe(**common, output_type="pt", generator=seeded()).images
    arrays = pipe(**common, output_type="np", generator=seeded()).images
    pictures = pipe(**common, generator=seeded(), return_dict=False)[0]
    assert tensors.shape == (2, channels, 8, 8)
    assert tensors.min() >= 0
    assert tensors.max() <= 1
    np.testing.assert_array_equal(arrays, tensors.permute(0, 2, 3, 1).numpy())
    assert pictures[0].size == (8, 8)
    np.testing.assert_allclose(np.asarray(pictures[0]), (arrays[0] * 255).squeeze(), atol=0.51)


@pytest.mark.parametrize(("bias", "grey"), [(0.0, 0.5), (0.5, 0.75), (-1.0, 0.0), (3.0, 1.0)])
def test_data_from_minus_one_to_one_become_images_from_zero_to_one(bias, grey):
    pipe = pipeline(scheduler=scheduler_of("sample"))
    torch.nn.init.zeros_(pipe.unet.conv_out.weight)
    torch.nn.init.constant_(pipe.unet.conv_out.bias, bias)
    images = pipe(2, num_inference_steps=3, output_type="pt").images
    assert (images - grey).abs().max() < 1e-5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_seed_is_an_image(algorithm):
    pipe = pipeline(scheduler=scheduler_of(algorithm=algorithm))
    one, same, other = (
        pipe(2, num_inference_steps=4, output_type="pt", generator=seeded(seed)).images for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-2)
    listed = pipe(2, num_inference_steps=4, output_type="pt", generator=[seeded(1), seeded(2)]).images
    alone = pipe(1, num_inference_steps=4, output_type="pt", generator=[seeded(2)]).images
    torch.testing.assert_close(listed[1:], alone, rtol=0, atol=1e-5)


def test_classes_reach_the_network_and_sizes_need_not_be_square():
    pipe = pipeline(n_classes=3)
    draw = {"num_inference_steps": 4, "output_type": "pt", "height": 8, "width": 12}
    images = pipe(2, [0, 2], generator=seeded(), **draw).images
    assert images.shape == (2, 1, 8, 12)
    others = pipe(2, torch.tensor([0, 1]), generator=seeded(), **draw).images
    torch.testing.assert_close(images[0], others[0])
    assert not torch.allclose(images[1], others[1])
    torch.testing.assert_close(pipe(2, 2, generator=seeded(), **draw).images[1], images[1])


def test_a_saved_pipeline_draws_the_same_images(tmp_path):
    pipe = pipeline(n_classes=2)
    pipe.save_pretrained(tmp_path)
    loaded = BlurDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is BlurDiffusionScheduler
    draw = {"batch_size": 1, "class_labels": 1, "num_inference_steps": 3, "output_type": "pt"}
    again, first = (each(**draw, generator=seeded()).images for each in (loaded, pipe))
    # Equal weights at another place in memory: convolutions round by its alignment.
    torch.testing.assert_close(again, first, rtol=0, atol=1e-5)


def test_a_network_in_bfloat16_gives_float32_images():
    pipe = pipeline().to(torch.bfloat16)
    images = pipe(1, num_inference_steps=3, output_type="pt", generator=seeded()).images
    assert images.dtype == torch.float32
    exact = pipeline()(1, num_inference_steps=3, output_type="pt", generator=seeded()).images
    torch.testing.assert_close(images, exact, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("n_classes", "call", "words"),
    [
        (None, {"class_labels": 1}, "class_labels were given to a U-Net without classes"),
        (3, {}, "this U-Net draws 3 classes: give class_labels, from 0 to 2"),
        (3, {"class_labels": [0, 3]}, "class label 3 is not one of 3 classes: use 0 to 2"),
        (3, {"class_labels": [0, 1, 2]}, "3 class_labels do not fit batch_size=2"),
        (None, {"width": 9}, "images of 8×9 do not fit this U-Net: use a height and width divisible by 2"),
        (None, {"output_type": "jpg"}, "output_type='jpg' is not offered: use one of pil, np, pt"),
        (None, {"num_inference_steps": 0}, "num_inference_steps=0 does not fit"),
    ],
)
def test_calls_that_cannot_be_are_refused(n_classes, call, words):
    with pytest.raises(UserError, match=words):
        pipeline(n_classes)(batch_size=2, **call)


def test_a_network_without_a_size_asks_for_one():
    with pytest.raises(UserError, match=r"no size of its own \(sample_size=null\): give height and width"):
        pipeline(size=None)(width=8)


def test_the_report_has_a_row_for_each_schedule_sampler_grid_and_number(tmp_path, capsys):
    assert report.main(["--size", "4", "--steps", "2", "3", "--results", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "blur_samplers.jsonl").read_text().splitlines()]
    assert len(rows) == len(report.SCHEDULES) * len(report.SAMPLERS) * 2
    assert set(rows[0]) >= {"blur_schedule", "algorithm_type", "timestep_spacing", "steps", "rms_std_error"}
    assert report.main(["--steps", "0", "--results", str(tmp_path)]) == 2
    assert "num_inference_steps=0" in capsys.readouterr().err


SCHEDULERS = [
    cls
    for name, cls in sorted(inspect.getmembers(diffusers, inspect.isclass))
    if issubclass(cls, diffusers.SchedulerMixin) and cls is not diffusers.SchedulerMixin
]


@pytest.mark.parametrize("cls", SCHEDULERS)
def test_no_scheduler_of_diffusers_is_made_from_blur_settings(cls):
    """It would drop the blur in silence."""
    changed = BlurDiffusionScheduler(blur_schedule="linear", num_train_timesteps=40)
    for scheduler in (BlurDiffusionScheduler(), changed):
        with pytest.raises(UserError, match=r"whose blur it would drop .*: use BlurDiffusionPipeline"):
            cls.from_config(scheduler.config)


@pytest.mark.parametrize("cls", SCHEDULERS)
def test_settings_of_another_scheduler_are_refused(cls, tmp_path):
    """In memory, as a plain dict, and from a file."""
    try:
        other = cls()
    except (TypeError, ImportError):
        pytest.skip("it has no defaults here")
    refused = r"cannot be made from the settings of .*, whose defaults are others"
    for settings in (other.config, dict(other.config), json.loads(other.to_json_string())):
        with pytest.raises(UserError, match=refused):
            BlurDiffusionScheduler.from_config(settings)
    other.save_config(tmp_path)
    with pytest.raises(UserError, match=refused):
        BlurDiffusionScheduler.from_pretrained(tmp_path)


def test_the_refusal_says_what_the_other_scheduler_has():
    other = DDPMScheduler(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2")
    with pytest.raises(UserError) as refusal:
        BlurDiffusionScheduler.from_config(other.config)
    assert (
        "write BlurDiffusionScheduler(num_train_timesteps=500, beta_schedule='squaredcos_cap_v2', "
        "prediction_type='epsilon', timestep_spacing='leading', clip_sample=True), with the arguments"
    ) in str(refusal.value)


def test_pipelines_that_make_a_scheduler_of_their_own_are_refused():
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32,),
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    scheduler = BlurDiffusionScheduler(num_train_timesteps=10)
    for pipeline in (diffusers.DDIMPipeline, diffusers.PNDMPipeline):
        with pytest.raises(UserError, match="whose blur it would drop"):
            pipeline(unet, scheduler)
    assert diffusers.DDPMPipeline(unet, scheduler).scheduler is scheduler


def test_its_own_settings_make_it_again(tmp_path):
    class Mine(BlurDiffusionScheduler):
        """Another name."""

    log, mine = BlurDiffusionScheduler(blur_schedule="log", eta=0.5), Mine(num_train_timesteps=40)
    for made in (log, mine, BlurDiffusionScheduler()):
        for settings in (made.config, dict(made.config), json.loads(made.to_json_string())):
            again = type(made).from_config(settings)
            assert (type(again), again.schedule) == (type(made), made.schedule)
            assert again.config.eta == made.config.eta
        assert Mine.from_config(made.config).schedule == made.schedule
    assert BlurDiffusionScheduler.from_config({"eta": 0.25}).config.eta == 0.25
    assert BlurDiffusionScheduler().config.get("nothing", 7) == 7
