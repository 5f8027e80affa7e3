"""Equal records: refused, merged, or accepted at the price of a group."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
from scipy.stats import norm

from wavedp import checks, data, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig
from wavedp.data import duplicates, from_arrays
from wavedp.errors import UserError
from wavedp.privacy import accounting, ledger
from wavedp.privacy.accounting import Mechanism
from wavedp.privacy.groups import LARGEST, group_epsilon
from wavedp.store import Store


@pytest.fixture
def repeated(tmp_path) -> DataConfig:
    """Forty images, of which three are equal, and two others."""
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    images[[7, 20]], images[31] = images[3], images[5]
    labels = np.arange(40) % 2
    test = np.random.default_rng(1).integers(0, 256, (8, 16, 16), np.uint8)
    return from_arrays(images, labels, test_images=test, test_labels=np.arange(8) % 2, home=tmp_path / "home")


def trial(config: DataConfig, policy: str, epsilon: float = 4.0) -> TrialConfig:
    return TrialConfig(
        data=dataclasses.replace(config, duplicates=policy),
        public=DataConfig(name="procedural", split="public", size=16, n_records=16),
        generator={"name": "spectral_ar", "width": 16, "depth": 1, "pretrain_steps": 1, "pretrain_batch": 4},
        privacy=PrivacyConfig(epsilon=epsilon, batch_size=4, steps=2),
        sampling=SamplingConfig(n=4),
        upscaler="bicubic",
        metrics=MetricsConfig(reference_samples=None),
    )


def test_equal_records_are_refused_with_their_number_and_an_example(repeated, tmp_path):
    says = r"5 of 40 train images of decoded are there more than once, up to 3 times \(such as image 3 = image 7\)"
    with pytest.raises(UserError, match=says):
        checks.check(trial(repeated, "refuse"))
    with pytest.raises(UserError, match=r"set data\.duplicates=merge"):
        stages.make("private_fit", trial(repeated, "refuse"), Store(str(tmp_path / "store")), "cpu")
    unprotected = trial(repeated, "refuse", math.inf)
    for asked in (unprotected, dataclasses.replace(unprotected, privacy=PrivacyConfig(epsilon=0.0))):
        assert checks.check(asked) == []


def test_merged_records_are_one_each_with_the_first_label(repeated):
    whole, merged = data.load(repeated, "train"), dataclasses.replace(repeated, duplicates="merge")
    one = data.load(merged, "train")
    kept = [i for i in range(40) if i not in (7, 20, 31)]
    assert np.array_equal(one.images, whole.images[kept])
    assert np.array_equal(one.labels, whole.labels[kept])
    assert data.n_records(merged, "train") == 37
    assert data.fingerprint(merged, "train") == one.fingerprint != whole.fingerprint
    assert data.fingerprint(repeated, "train") == whole.fingerprint
    assert data.load(merged, "train").fingerprint == one.fingerprint  # from the cache
    assert checks.check(trial(repeated, "merge")) == []


def test_accepted_ones_are_warned_of_and_priced_in_the_ledger(repeated, tmp_path):
    asked = trial(repeated, "accept")
    (warning,) = checks.check(asked)
    assert "ε protects one copy, and the ledger states it for all 3" in warning
    artifact, _ = stages.make("private_fit", asked, Store(str(tmp_path / "store")), "cpu")
    (line,) = artifact.json("ledger")
    assert line["copies"] == 3
    assert line["epsilon"] <= 4
    priced = group_epsilon([ledger.mechanism_of(line)], line["delta"], 3)
    assert f"holds a record 3 times, and whoever is in all 3 has epsilon = {priced:.4g}" in ledger.summary([line])
    assert "times" not in ledger.summary([line | {"copies": 1}])


def test_a_folder_names_the_equal_files(tmp_path):
    from PIL import Image

    for i in range(30):
        picture = Image.fromarray(np.random.default_rng(i // 2 * 2).integers(0, 256, (8, 8), np.uint8))
        (tmp_path / "set" / "train").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "set" / "train" / f"{i}.{'png' if i % 2 else 'bmp'}")
    config = DataConfig(name="folder", path=str(tmp_path / "set"), home=str(tmp_path / "home"), size=8)
    with pytest.raises(
        UserError, match=r"30 of 30 train images .* up to 2 times \(such as .*/set/train/\d+\.(png|bmp) = "
    ):
        duplicates.check(config)
    merged = dataclasses.replace(config, duplicates="merge")
    assert len(data.record_files(merged, "train")) == data.n_records(merged, "train") == 15


# --- the price --------------------------------------------------------------------------------------------------------


def test_a_group_of_one_costs_what_a_record_costs():
    fit = [Mechanism(0.1, 1.2, 30), Mechanism(1, 8.0, 1)]
    assert group_epsilon(fit, 1e-5, 1) == accounting.compose(fit, 1e-5)


@pytest.mark.parametrize("copies", [2, 5])
def test_without_sampling_a_group_is_a_shorter_noise(copies):
    exact = accounting.compose([Mechanism(1, 20 / copies, 3)], 1e-5)
    assert group_epsilon([Mechanism(1, 20.0, 3)], 1e-5, copies) == pytest.approx(exact, rel=0.01)


def test_one_sampled_step_is_the_integral_of_its_mixture():
    q, sigma, copies = 0.3, 1.5, 3
    epsilon = group_epsilon([Mechanism(q, sigma, 1)], 1e-3, copies)
    x = np.linspace(-25, 25, 400_001)
    chosen = [math.comb(copies, j) * q**j * (1 - q) ** (copies - j) for j in range(copies + 1)]
    present = sum(p * norm.pdf(x, j, sigma) for j, p in enumerate(chosen))
    absent = norm.pdf(x, 0, sigma)
    found = [
        np.trapezoid(np.maximum(one - math.exp(epsilon) * other, 0), x)
        for one, other in ((present, absent), (absent, present))
    ]
    assert max(found) == pytest.approx(1e-3, rel=0.02)


def test_a_group_costs_more_with_each_copy_and_beyond_the_largest_everything():
    costs = [group_epsilon([Mechanism(0.05, 2.0, 20)], 1e-5, copies) for copies in (1, 2, 4, LARGEST)]
    assert costs == sorted(costs)
    assert costs[1] > 1.3 * costs[0]
    assert group_epsilon([Mechanism(0.05, 2.0, 20)], 1e-5, LARGEST + 1) == math.inf
    assert group_epsilon([Mechanism(0.05, 0.0, 20)], 1e-5, 2) == math.inf
    assert group_epsilon([], 1e-5, 2) == 0


def test_lines_of_earlier_versions_have_no_copies(tmp_path):
    line = ledger.line_nonprivate("fid_reference", dataset="d", n_records=3, stage_key="k", trials=[])
    del line["copies"]
    (tmp_path / "ledger.jsonl").write_text(__import__("json").dumps(line) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ledger.read(tmp_path / "ledger.jsonl")[0]["copies"] is None
