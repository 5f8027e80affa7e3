"""Tests that every metric must pass. Subclass `MetricSuite`, name your metric's configuration, and run pytest:

    from wavedp.config import configure
    from wavedp.testing.metrics import MetricSuite

    class TestBrightness(MetricSuite):
        def config(self):
            return configure("metric", "my_package.brightness:Brightness")

The FID network is replaced by means of image patches, so that no weights are needed and a test takes seconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from wavedp import registry
from wavedp.config import MetricsConfig
from wavedp.metrics import Given, MetricMethod, chosen, features, network_file, rebuilds, sees_real, suite
from wavedp.metrics.views import Looking

REAL = {"train": 160, "val": 110, "test": 120}
ONLY_FID = MetricsConfig(fid_samples=100, reference_samples=110, kid=False, floor=False, downstream_steps=0)


def pictures(count: int, seed: int, channels: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    """Smooth pictures, uint8 B C H W, brighter on one side, and which side, int64 B."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    images = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True).clamp(0, 1) * 0.6
    images[labels == 0, :, :, : side // 2] += 0.4
    images[labels == 1, :, :, side // 2 :] += 0.4
    return (images * 255).round().to(torch.uint8), labels


def noise(images: Tensor) -> Tensor:
    """The images with their pixels shuffled."""
    order = torch.rand(images.flatten(1).shape, generator=torch.Generator().manual_seed(0)).argsort(1)
    return images.flatten(1).gather(1, order).view_as(images)


def see_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of patches in place of the FID network."""

    def extract(images: Tensor, *_: Any) -> Tensor:
        return F.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)

    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(network_file, "find_network", lambda path: Path("patches"))


class MetricSuite:
    """Override what is not so for your metric.

    order_tolerance: how far a number may move when the images come in another order. reads_samples: whether the numbers
    depend on generated images at all.
    """

    order_tolerance: ClassVar[float] = 1e-4
    reads_samples: ClassVar[bool] = True

    def config(self) -> Any:
        """The metric's configuration."""
        raise NotImplementedError

    def metrics(self) -> MetricsConfig:
        """The shared configuration that it is measured by: no other metric but FID."""
        return dataclasses.replace(ONLY_FID, also=(self.config(),))

    def texts(self, images: Tensor) -> Sequence[str] | None:
        """The texts of generated images, for a metric that reads them."""
        return None

    def rebuild(self) -> Callable[[Tensor], Tensor] | None:
        """Stage two, for a metric that enlarges coarse images: what it makes of those of uint8 B C H W, uint8 too."""
        return None

    def best(self) -> tuple[Tensor, Tensor]:
        """Images and labels that should score well: by default the real images that samples are compared with."""
        return self.real("test")

    def worse(self) -> tuple[Tensor, Tensor]:
        """Images and labels that should score worse: by default the best with shuffled pixels."""
        images, labels = self.best()
        return noise(images), labels

    def real(self, split: str) -> tuple[Tensor, Tensor]:
        """The real images of a split, and their labels."""
        return pictures(REAL[split], seed=list(REAL).index(split))

    # What follows is the suite's own.

    @pytest.fixture(autouse=True)
    def _patches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        see_patches(monkeypatch)

    def metric(self) -> tuple[MetricMethod, Any]:
        """The metric and its configuration, as a trial finds them."""
        own = self.config()
        found = registry.find("metric", own.name)
        assert isinstance(found, MetricMethod), f"{own.name} is not a wavedp.metrics.MetricMethod"
        return found, own

    def reference(self) -> dict[str, Tensor]:
        """The tensors that a trial keeps of the real images."""
        return suite.make_reference(self.real, self.metrics())

    def measure(self, images: Tensor, labels: Tensor, reference: dict[str, Tensor]) -> dict[str, float]:
        """This metric's numbers in a trial with these samples."""
        found = self.evaluate(images, labels, reference, self.metrics(), self.texts(images))
        metric, own = self.metric()
        begins = tuple(metric.meanings(own, self.metrics()))
        return {name: value for name, value in found.items() if name.startswith(begins)}

    def evaluate(
        self,
        images: Tensor,
        labels: Tensor,
        reference: dict[str, Tensor],
        config: MetricsConfig,
        texts: Sequence[str] | None,
    ) -> dict[str, float]:
        """All numbers of a trial with these samples."""
        return suite.evaluate(
            images,
            labels,
            reference,
            self.real,
            REAL.__getitem__,
            config,
            0,
            texts=texts,
            rebuild=self.rebuild() if rebuilds(config) else None,
        )

    def test_numbers_are_finite_and_have_a_meaning(self) -> None:
        """Every number is a finite float whose name begins as the metric's meanings say, the longest one counting."""
        metric, own = self.metric()
        assert any(each is metric or each.name == metric.name for each, _ in chosen(self.metrics())), (
            "nobody asks for it"
        )
        found = self.measure(*self.best(), self.reference())
        assert found, "it gives no number"
        for name, value in found.items():
            assert type(value) is float, name
            assert math.isfinite(value), f"{name} is {value}"
        for begins, meaning in metric.meanings(own, self.metrics()).items():
            assert meaning.better in ("lower", "higher"), begins
            assert meaning.sentence.strip(), begins
            assert not meaning.sentence.endswith("."), "captions add the full stop"
            assert not set(re.findall(r"\{(\w*)\}", meaning.sentence)) - {"generated", "real"}, begins

    def test_names_are_known_before_and_say_counts(self) -> None:
        """`names` gives them from sizes; more or fewer images have other names."""
        metric, own = self.metric()
        images, labels = self.best()
        found = self.measure(images, labels, self.reference())
        given = Given(self.metrics(), REAL.__getitem__, len(images), True, self.texts(images) is not None)
        known = set(metric.names(own, given.sets).values())
        assert known, "no name is known before"
        assert known <= set(found), "a promised number is missing"
        assert all(re.search(r"_\d", name) for name in found), "a name without a count"
        config = dataclasses.replace(self.metrics(), fid_samples=50, reference_samples=60)
        fewer = Given(config, REAL.__getitem__, len(images) - 4, True, given.described)
        assert known.isdisjoint(metric.names(own, fewer.sets).values()), "other counts, the same name"

    def test_what_is_better_scores_better(self) -> None:
        """Good images against bad ones, in the direction that it declares."""
        metric, own = self.metric()
        reference = self.reference()
        good, bad = self.measure(*self.best(), reference), self.measure(*self.worse(), reference)
        meanings = metric.meanings(own, self.metrics())
        moved = False
        for name in set(good) & set(bad):
            begins = max((begins for begins in meanings if name.startswith(begins)), key=len)
            sign = 1 if meanings[begins].better == "lower" else -1
            assert sign * good[name] <= sign * bad[name], f"{name}: {good[name]} for the best, {bad[name]} for worse"
            moved |= good[name] != bad[name]
        assert moved == self.reads_samples, "the numbers do not depend on the samples as reads_samples says"

    def test_order_changes_nothing(self) -> None:
        """The same images in another order give the same numbers."""
        images, labels = self.best()
        config = dataclasses.replace(self.metrics(), fid_samples=len(images))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
        reference = suite.make_reference(self.real, config)
        texts = self.texts(images)
        found = []
        for which in (torch.arange(len(images)), order):
            said = None if texts is None else [texts[place] for place in which.tolist()]
            found.append(self.evaluate(images[which], labels[which], reference, config, said))
        for name, value in found[0].items():
            if name.startswith(tuple(self.metric()[0].meanings(self.config(), config))):
                assert found[1][name] == pytest.approx(value, abs=self.order_tolerance), f"{name} moves"

    def test_it_gives_the_same_twice_and_leaves_the_global_generator_alone(self) -> None:
        """A function of its inputs."""
        reference = self.reference()
        state = torch.get_rng_state()
        assert self.measure(*self.best(), reference) == self.measure(*self.best(), reference), "another number"
        assert torch.equal(state, torch.get_rng_state()), "it draws from torch's global generator"

    def test_the_reference_survives_a_file(self, tmp_path: Path) -> None:
        """Plain tensors on the CPU: a reference read back gives the same numbers."""
        reference = self.reference()
        for name, tensor in reference.items():
            assert type(tensor) is Tensor, name
            assert tensor.device.type == "cpu", name
            assert not tensor.requires_grad, name
        save_file({name: tensor.contiguous() for name, tensor in reference.items()}, tmp_path / "reference.safetensors")
        again = load_file(tmp_path / "reference.safetensors")
        assert self.measure(*self.best(), again) == self.measure(*self.best(), reference)

    def test_what_it_sees_is_in_the_ledger(self) -> None:
        """A metric that keeps something of real images says so, and generated images are enough for others."""
        metric, own = self.metric()
        real = suite.RealTensors(self.metrics(), self.real, Looking(self.metrics()))
        seen = bool(metric.reference(own, real)) or metric.test_splits(own, self.metrics())
        assert bool(seen) <= sees_real(metric, own), "it looks at real images: say in look() at what"
        if metric.look(own):
            assert metric.reference_content(own, self.metrics()), "its look is in no key: see reference_content()"

    def test_its_configuration_is_a_part_of_the_key(self) -> None:
        """Plain JSON that holds the name."""
        metric, own = self.metric()
        assert dataclasses.fields(own)[0].name == "name"
        content = metric.content(own)
        assert content["name"] == metric.name
        assert json.loads(json.dumps(content)) == content
        json.dumps(metric.reference_content(own, self.metrics()))

    def test_its_declaration_imports_no_torch(self) -> None:
        """Or planning a study would take long."""
        code = (
            "import sys; from wavedp import registry; from wavedp.config import MetricsConfig; "
            f"metric = registry.find('metric', {self.config().name!r}); own = metric.Config(); "
            "metric.meanings(own, MetricsConfig()); metric.reference_content(own, MetricsConfig()); "
            "print('torch' in sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "False", "it imports torch"
