"""The numbers of DPImageBench's tables beside FID and accuracy: precision and recall with k = 3, IS and FLD."""

import contextlib
import dataclasses
import io
import json
import math

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.special import logsumexp
from torch_fidelity import metric_isc

from wavedp import chain, metrics
from wavedp.config import DataConfig, MetricsConfig, TrialConfig, configure, with_absolute_paths
from wavedp.errors import UserError
from wavedp.metrics import __main__ as command
from wavedp.metrics import features, network_file, suite
from wavedp.metrics.inception_score import inception_score, last_layer
from wavedp.metrics.likelihood import Mixture, divergences
from wavedp.testing.metrics import REAL, pictures


def normal(n, seed, shift=0.0, dimensions=12):
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


# Inception score


@pytest.mark.parametrize("splits", [1, 7])
def test_inception_score_against_torch_fidelity(splits):
    logits = 3 * normal(91, 0, dimensions=40)
    theirs = metric_isc.isc_features_to_metric(logits, splits, shuffle=False)
    mean, error = inception_score(logits, splits)
    assert mean == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_MEAN], rel=1e-12)
    if splits == 1:
        assert error is None
    else:  # what papers print, by the sentence in `measure`
        assert error * math.sqrt(splits - 1) == pytest.approx(theirs[metric_isc.KEY_METRIC_ISC_STD], rel=1e-9)


def test_inception_score_of_extreme_sets():
    certain = 1e4 * torch.eye(8).repeat(5, 1)
    assert inception_score(certain, 1)[0] == pytest.approx(8)
    assert inception_score(certain[:1].repeat(40, 1), 1)[0] == pytest.approx(1)


def layer_file(path, classes=1008, inputs=2048, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = {"fc.weight": torch.randn(classes, inputs, generator=generator), "fc.bias": torch.zeros(classes)}
    torch.save(weights, path)
    return str(path)


def test_another_last_layer_has_another_name_and_key(tmp_path, monkeypatch):
    one, two = (configure("metric", "inception_score", layer=layer_file(tmp_path / f"{n}.pth", seed=n)) for n in (1, 2))
    sets = metrics.Given(MetricsConfig(), REAL.__getitem__, 60).sets
    metric = metrics.registry.find("metric", "inception_score")
    names = [metric.names(own, sets)["is"] for own in (one, two)]
    assert len(set(names)) == 2
    assert all(name.startswith("is-") and name.endswith("_clean_1k") for name in names)
    trial = TrialConfig(level=0, data=DataConfig("procedural", size=16), public=None, generator="real")
    plain, *keys = (
        chain.keys(dataclasses.replace(trial, metrics=MetricsConfig(also=also))) for also in ((), (one,), (two,))
    )
    assert len({found["evaluate"] for found in (plain, *keys)}) == 3
    assert plain["reference"] == keys[0]["reference"] == keys[1]["reference"], "it sees no real image"
    monkeypatch.setattr("wavedp.metrics.inception_score.sha256", lambda path: "6726825d" + 56 * "0")
    assert metric.names(one, sets) == {"is": "is_clean_1k"}
    ten = configure("metric", "inception_score", layer=one.layer, splits=10)
    assert metric.names(ten, sets) == {"is": "is-s10_clean_1k"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "layer=None is not a file: give pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or clean-fid's"),
        (b"no weights", r"holds no last layer \(fc.weight and fc.bias\): give pytorch-fid's"),
        ((1000, 512), r"a last layer of \[1000, 512\] and \[1000\]"),
        ("splits", "splits=40 and 60 images has no two images in each: use 1 to 30"),
    ],
)
def test_a_score_that_cannot_be_made_is_refused_before(content, words, tmp_path, monkeypatch):
    path, splits = tmp_path / "layer.pth", 1
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "splits":
        layer_file(path)
        splits = 40
    elif content:
        layer_file(path, *content)
    monkeypatch.setattr(network_file, "find_network", lambda path: None)
    own = configure("metric", "inception_score", layer=str(path) if content else None, splits=splits)
    given = metrics.Given(MetricsConfig(fid_samples=60, also=(own,)), REAL.__getitem__, 60)
    with pytest.raises(UserError, match=words):
        metrics.registry.find("metric", "inception_score").require(own, given)


class Scripted(torch.nn.Module):
    """A last layer under the name that it has in NVIDIA's TorchScript."""

    def __init__(self, weights):
        super().__init__()
        self.output = torch.nn.Linear(2048, 1008)
        self.output.weight.data, self.output.bias.data = weights["fc.weight"], weights["fc.bias"]

    def forward(self, x):
        return self.output(x)


def test_the_layer_of_nvidias_file_is_the_layer_of_pytorch_fids(tmp_path):
    path = layer_file(tmp_path / "pt_inception.pth")
    torch.jit.script(Scripted(torch.load(path))).save(tmp_path / "inception-2015-12-05.pt")
    for one, other in zip(
        last_layer(tmp_path / "pt_inception.pth"), last_layer(tmp_path / "inception-2015-12-05.pt"), strict=True
    ):
        assert torch.equal(one, other)


# Feature likelihood divergence, against formulas written for numpy


def numpy_nll(samples, centres, variances):
    total = 0.0
    for x in samples:
        logs = [
            -sum((a - b) ** 2 for a, b in zip(x, centre, strict=True)) / (2 * v)
            - len(x) / 2 * math.log(2 * math.pi * v)
            for centre, v in zip(centres, variances, strict=True)
        ]
        total -= logsumexp(logs, b=1 / len(centres))
    return total / samples.size


def numpy_fit(centres, samples):
    """Variances after 50 steps of Adam, with the gradient by responsibilities."""
    dimensions = samples.shape[1]
    squares = ((samples[:, None] - centres[None]) ** 2).sum(2)
    far = 0.81 * ((samples - samples.mean(0)) ** 2).sum(1)
    squares = np.column_stack([squares, far])
    s = np.append(np.log((squares[:, :-1].min(0) + 1e-3) / dimensions), 0.0)
    weights = np.append(np.full(len(centres), 1 / len(centres)), 1.0)
    first, second = np.zeros_like(s), np.zeros_like(s)
    for step in range(1, 51):
        logs = -squares / (2 * np.exp(s)) - dimensions / 2 * (s + np.log(2 * np.pi))
        logs += np.log(weights)
        responsible = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        gradient = -(responsible * (squares / (2 * np.exp(s)) - dimensions / 2)).mean(0) / dimensions
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        s -= 0.5 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        s[:-1] = s[:-1].clip(-40, 20)
    return np.exp(s[:-1])


def test_fld_against_its_formulas_in_numpy():
    train, test, generated = normal(41, 0, dimensions=5), normal(30, 1, dimensions=5), normal(23, 2, 0.4, dimensions=5)
    mean, deviation = test.mean(0).numpy(), test.numpy().std(0, ddof=1)
    a, b, g = ((part.numpy() - mean) / deviation for part in (train, test, generated))
    variances = numpy_fit(g, a)
    found = Mixture(torch.from_numpy(g), torch.from_numpy(a))
    np.testing.assert_allclose(found.log_variances.exp().numpy(), variances, rtol=2e-3)
    order = torch.randperm(41, generator=torch.Generator().manual_seed(0)).numpy()
    halves = a[order[:20]], a[order[20:]]
    baseline = numpy_nll(b, halves[0], numpy_fit(*halves))
    expected = {name: 100 * (numpy_nll(x, g, variances) - baseline) for name, x in (("test", b), ("train", a))}
    assert divergences(train, test, generated) == pytest.approx(expected, abs=0.05)


def test_fld_sees_what_it_should():
    train, test = normal(400, 0), normal(300, 1)
    fresh, far = divergences(train, test, normal(200, 2)), divergences(train, test, normal(200, 2, 1.0))
    assert abs(fresh["test"]) < 10 < far["test"], "fresh samples are as good as training samples"
    assert divergences(train, test, train[:200])["test"] > 1000, "copies say nothing of test samples"
    mixed = divergences(train, test, torch.cat([normal(150, 2), train[:50]]))
    assert mixed["test"] > fresh["test"], "of those that are no copies there are fewer"
    assert mixed["train"] < fresh["train"] - 10, "to the training samples copies look good"


def test_fld_leaves_out_features_without_a_scale_and_refuses_sets_without_any():
    train, test, generated = normal(40, 0), normal(30, 1), normal(20, 2)
    flat = [torch.cat([part, torch.full((len(part), 1), 3.0)], 1) for part in (train, test, generated)]
    assert divergences(*flat) == divergences(train, test, generated)
    with pytest.raises(UserError, match="test images that differ, and these are all the same"):
        divergences(train, test * 0, generated)
    with pytest.raises(UserError, match="got 3, 30 and 20"):
        divergences(train[:3], test, generated)


# In a trial, and by the command


def test_a_trial_measures_both_flds_and_says_at_what_it_looked(monkeypatch):
    monkeypatch.setattr(features, "extract", lambda images, *_: images.float().flatten(1)[:, :30])
    monkeypatch.setattr(network_file, "find_network", lambda path: None)
    config = MetricsConfig(fid_samples=50, kid=False, floor=False, downstream_steps=0, also=("fld",))

    def load(split):
        return pictures(REAL[split], seed=list(REAL).index(split))

    kept = suite.make_reference(load, config)
    assert {name: len(tensor) for name, tensor in kept.items() if name != "features"} == {
        "fld.train": REAL["train"], "fld.test": REAL["test"],
    }  # fmt: skip
    found = suite.evaluate(*pictures(60, seed=9), kept, load, REAL.__getitem__, config, 0)
    assert {"fld_clean_50_train_test", "fld-train_clean_50_train_test"} <= set(found)
    for reference, other in (("test", "train"), ("train", "test")):
        lines = metrics.looks(dataclasses.replace(config, reference_split=reference))
        assert [split for _, split in lines] == [reference, other]
        assert all("feature likelihood" in purpose for purpose, _ in lines)


def test_the_command_gives_the_tables_numbers(tmp_path, monkeypatch, capsys):
    """Against the package prdc and torch-fidelity, of the same features."""
    monkeypatch.setattr(features, "extract", lambda images, *_: images.float().flatten(1)[:, :64] / 255)
    sets = {name: pictures(count, seed=count)[0] for name, count in (("real", 60), ("made", 50), ("train", 70))}
    for name, images in sets.items():
        np.savez(tmp_path / f"{name}.npz", images.numpy())
    layer = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.linspace(0, 1, 1008)}
    layer["fc.weight"][:, :64] = 20 * torch.randn(1008, 64, generator=torch.Generator().manual_seed(0))
    torch.save(layer, tmp_path / "layer.pth")
    monkeypatch.setattr(
        "wavedp.metrics.inception_score.last_layer", lambda path: (layer["fc.weight"][:, :64], layer["fc.bias"])
    )
    paths = {name: str(tmp_path / f"{name}.npz") for name in sets}
    asked = ["--mode", "pytorch", "--metrics", "prdc", "inception_score", "fld", "--neighbours", "3"]
    files = ["--layer", str(tmp_path / "layer.pth"), "--train", paths["train"], "--json", str(tmp_path / "rows")]
    assert command.main([paths["real"], paths["made"], *asked, *files]) == 0, capsys.readouterr().err
    rows = {row["metric"]: row["value"] for row in map(json.loads, (tmp_path / "rows").read_text().splitlines())}
    real, made = (features.extract(sets[name]).double().numpy() for name in ("real", "made"))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(real, made, nearest_k=3)
    assert {name: rows[f"{name}-k3_pytorch_50_60"] for name in theirs} == pytest.approx(theirs)
    assert 0 < theirs["precision"] < 1
    (score,) = [value for name, value in rows.items() if name.startswith("is-") and name.endswith("_pytorch_50")]
    logits = torch.from_numpy(made) @ layer["fc.weight"][:, :64].double().T + layer["fc.bias"].double()
    isc = metric_isc.isc_features_to_metric(logits, 1, shuffle=False)[metric_isc.KEY_METRIC_ISC_MEAN]
    assert score == pytest.approx(isc, rel=1e-9)
    assert score > 1.5
    assert {"fld_pytorch_50_70_60", "fld-train_pytorch_50_70_60"} <= set(rows)


def test_what_the_command_lacks_is_said_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "extract", lambda *_: pytest.fail("it began"))
    np.savez(tmp_path / "a.npz", pictures(10, 0)[0].numpy())
    path = str(tmp_path / "a.npz")
    for asked, words in (
        (["fld"], "fld compares with the training images: name them with --train"),
        (["inception_score"], "layer=None is not a file"),
        (["prdc", "--neighbours", "0"], "k=0 must be at least 1"),
    ):
        assert command.main([path, path, "--metrics", *asked]) == 2
        assert words in capsys.readouterr().err


def test_relative_paths_of_further_metrics_mean_the_folder_the_user_started_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("layer.pth", "texts"):
        (tmp_path / name).touch()
    also = ["prdc", {"name": "inception_score", "layer": "layer.pth"}, {"name": "text", "texts": "texts", "clip": "no"}]
    found = with_absolute_paths({"metrics": {"also": also}})["metrics"]["also"]
    assert found == [
        "prdc",
        {"name": "inception_score", "layer": str(tmp_path / "layer.pth")},
        {"name": "text", "texts": str(tmp_path / "texts"), "clip": "no"},
    ]
