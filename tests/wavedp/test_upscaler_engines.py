"""The torch engine gives ncnn's pictures from ncnn's files; tiles and batches do not change them."""

from __future__ import annotations

import shutil
import weakref

import pytest
import torch
from test_upscalers import run_graph_in_torch

from wavedp.config import configure
from wavedp.errors import UserError
from wavedp.testing.upscalers import check_upscaler, coarse_scenes
from wavedp.upscalers import load, tiling
from wavedp.upscalers.ncnn.model import NcnnPass
from wavedp.upscalers.ncnn.torch_graph import TorchGraph
from wavedp.upscalers.ncnn.weights import WEIGHTS, find_weights


def on_torch(name, **options):
    return load(configure("upscaler", name, engine="torch", **options))


def difference(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_the_two_engines_agree(name):
    """The promise is 1e-2 of full scale; measured on one x86 core: at most 4e-6."""
    images, factor = coarse_scenes(2, 3, 9, 14), WEIGHTS[name].factor
    ours, ncnn = on_torch(name).upscale(images, factor), load(configure("upscaler", name)).upscale(images, factor)
    assert difference(ours, ncnn) < 1e-4
    assert difference(images.mean(), ours.mean()) < 0.1, "or two black pictures would agree"


@pytest.mark.parametrize("name", ["realesrgan_x4plus", "animevideov3_x2", "animevideov3_x3"])
def test_the_torch_engine_equals_a_second_implementation(name):
    image = coarse_scenes(1, 3, 7, 9)
    with torch.inference_mode():
        expected = run_graph_in_torch(find_weights(name), image[0]).clamp(0, 1)
    torch.testing.assert_close(on_torch(name).upscale(image, WEIGHTS[name].factor)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "factors"), [("animevideov3_x2", [1, 2, 4]), ("animevideov3_x4", [2]), ("realesrgan_x4plus", [4])]
)
def test_the_torch_engine_conforms(name, factors):
    for factor in factors:
        check_upscaler(on_torch(name, batch_size=2), factor)


def test_memory_layout_changes_nothing_and_bfloat16_a_little():
    images = coarse_scenes(2, 3, 9, 14)
    plain = on_torch("animevideov3_x4").upscale(images, 4)
    torch.testing.assert_close(
        on_torch("animevideov3_x4", channels_last=True).upscale(images, 4), plain, atol=1e-5, rtol=0
    )
    rounded = on_torch("animevideov3_x4", precision="bfloat16").upscale(images, 4)
    assert rounded.dtype == torch.float32
    assert 1e-4 < difference(rounded, plain) < 0.05


def test_blobs_are_let_go_after_their_last_reader():
    graph = TorchGraph(find_weights("animevideov3_x4"))
    alive: list[weakref.ref] = []
    most = 0

    def watch(layer, inputs, output):
        nonlocal most
        alive.append(weakref.ref(output))
        most = max(most, len({id(ref()) for ref in alive if ref() is not None}))

    for layer in graph.layers:
        layer.register_forward_hook(watch)
    with torch.inference_mode():
        graph(coarse_scenes(1, 3, 7, 9))
    assert len(alive) > 30
    assert most <= 4  # the input, what a layer reads and what it writes


@pytest.mark.parametrize("engine", ["ncnn", "torch"])
def test_tiles_with_the_whole_receptive_field_change_nothing(engine, monkeypatch):
    images = coarse_scenes(1, 3, 20, 100)
    for factor in (2, 4):
        whole, tiled = (
            load(configure("upscaler", "animevideov3_x2", engine=engine, tile=tile)).upscale(images, factor)
            for tile in (None, 16)
        )
        torch.testing.assert_close(tiled, whole, atol=1e-4 if engine == "ncnn" else 1e-5, rtol=0)
    monkeypatch.setattr(tiling, "OVERLAP", 4)
    seams = load(configure("upscaler", "animevideov3_x2", engine=engine, tile=16)).upscale(images, 4)
    assert difference(seams, whole) > 1e-2, "or this test could not fail"


def test_tiles_of_a_network_that_looks_farther_change_little():
    """An RRDB network's field is larger than the overlap: what is left of it must stay below 2e-2 of full scale at any
    pixel, and 1e-3 on average (measured: 7.5e-3 and 1.4e-4; with an overlap of 8, 0.2 and 2.6e-3)."""
    images = coarse_scenes(1, 3, 12, 96)
    whole, tiled = (on_torch("realesrgan_x4plus", tile=tile).upscale(images, 4) for tile in (None, 48))
    assert 0 < difference(tiled, whole) < 2e-2
    assert (tiled - whole).abs().mean() < 1e-3


def test_ncnn_gives_the_same_on_one_thread_and_on_three():
    images, graph = coarse_scenes(5, 3, 7, 9), find_weights("animevideov3_x2")
    single = NcnnPass(graph, threads=1)(images)
    torch.testing.assert_close(NcnnPass(graph, threads=3)(images), single, atol=1e-5, rtol=0)


def test_ncnn_is_silent_on_several_threads_and_batches_of_any_size(capfd):
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        NcnnPass(find_weights("animevideov3_x2"), threads=2)(coarse_scenes(3, 3, 7, 9)[:1])
        load(configure("upscaler", "animevideov3_x2")).upscale(coarse_scenes(5, 3, 7, 9), 2)
    finally:
        torch.set_num_threads(threads)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bfloat16"}, "bfloat16 is not for upscaler.engine=ncnn: use engine=torch"),
        ({"tile": 0}, "upscaler.tile=0 must be at least 1"),
        ({"batch_size": 0}, "upscaler.batch_size=0 must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        load(configure("upscaler", "animevideov3_x2", **options))


def test_more_than_three_channels_are_refused():
    with pytest.raises(UserError, match="take 1 or 3 channels, not 4"):
        on_torch("animevideov3_x2").upscale(torch.zeros(1, 4, 7, 7), 2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda param, weights: (param.replace("PReLU ", "Softmax ", 1), weights), "layer Softmax.*engine=ncnn"),
        (lambda param, weights: (param, weights[:-100]), "ends before its graph's weights do"),
        (lambda param, weights: (param, weights + b"more"), "not of one model"),
        (lambda param, weights: ("no graph\n" + param, weights), "is not an ncnn text graph"),
        (
            lambda param, weights: (param.replace("3=1 4=1", "3=2 4=1").replace(" 5=1", " 3=2 5=1", 1), weights),
            "3': '2'",
        ),
    ],
)
def test_a_graph_that_cannot_be_rebuilt_is_refused(tmp_path, damage, message):
    graph = tmp_path / "g.param"
    installed = find_weights("animevideov3_x2")
    shutil.copy(installed, graph)
    param, weights = damage(installed.read_text(), installed.with_suffix(".bin").read_bytes())
    graph.write_text(param)
    graph.with_suffix(".bin").write_bytes(weights)
    with pytest.raises(UserError, match=message):
        TorchGraph(graph)
