"""Every metric of the repository conforms, and the suite notices those that do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from clip_folder import small_clip

from wavedp import registry
from wavedp.config import configure
from wavedp.metrics import features
from wavedp.testing.metrics import ONLY_FID, MetricSuite, pictures, see_patches


def switched(**changes):
    """A configuration in which fields ask for what is tested."""
    return dataclasses.replace(ONLY_FID, **changes)


class TestFID(MetricSuite):
    def config(self):
        return configure("metric", "fid")

    def metrics(self):
        return switched()


class TestKID(MetricSuite):
    def config(self):
        return configure("metric", "kid")

    def metrics(self):
        return switched(kid=True)


class TestKIDInSubsets(MetricSuite):
    order_tolerance = 0.05  # subsets are drawn by place

    def config(self):
        return configure("metric", "kid", subsets=5)


class TestFloor(MetricSuite):
    reads_samples = False

    def config(self):
        return configure("metric", "floor")

    def metrics(self):
        return switched(floor=True)


class TestSecondFrechet(MetricSuite):
    def config(self):
        return configure("metric", "fd")

    def metrics(self):
        return switched(second_network="effnetlite0", fid_samples=20, reference_samples=20)

    def best(self):
        return tuple(part[:30] for part in self.real("test"))


class TestAccuracy(MetricSuite):
    order_tolerance = 0.3  # batches are drawn by place

    def config(self):
        return configure("metric", "acc")

    def metrics(self):
        return switched(downstream_steps=30)


class TestProtocol(TestAccuracy):
    def metrics(self):
        return switched(downstream="light", reference_split="train")

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        from wavedp.metrics import dpimagebench

        tiny = dataclasses.replace(dpimagebench.PROTOCOLS["light"], epochs=4, step=2, batch=16)
        monkeypatch.setitem(dpimagebench.PROTOCOLS, "light", tiny)


class TestFIDInfinity(MetricSuite):
    order_tolerance = 0.2  # subsets are drawn by place

    def config(self):
        return configure("metric", "fid_infinity")


class TestPRDC(MetricSuite):
    def config(self):
        return configure("metric", "prdc")


class TestPRDCOfThree(MetricSuite):
    def config(self):
        return configure("metric", "prdc", k=3)


class TestSpectrum(MetricSuite):
    def config(self):
        return configure("metric", "spectrum")


class TestDiversity(MetricSuite):
    """Noise is diverse too, so copies of one picture are what is worse."""

    order_tolerance = 0.2  # pairs are drawn by place

    def config(self):
        return configure("metric", "diversity", real=True)

    def worse(self):
        images, labels = self.best()
        return images[:1].expand_as(images).contiguous(), labels


class LPIPSFiles:
    """A VGG-16 without training, and heads that are nobody's."""

    @pytest.fixture(autouse=True, scope="class")
    def weights(self, tmp_path_factory, request):
        request.cls.files = lpips_files(tmp_path_factory.mktemp("lpips"))


def lpips_files(folder: Path, net: str = "vgg") -> dict[str, str]:
    from wavedp.metrics.lpips_network import BUILD, CUTS

    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.device("meta"):
            layers = BUILD[net](weights=None).features
        layers.to_empty(device="cpu")
        for layer in layers.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
                torch.nn.init.normal_(layer.bias, std=0.1)
        x, heads = torch.zeros(1, 3, 64, 64), {}
        for number, layer in enumerate(layers[: CUTS[net][-1]], start=1):
            x = layer(x)
            if number in CUTS[net]:
                heads[f"lin{len(heads)}.model.1.weight"] = torch.rand(1, x.shape[1], 1, 1)
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, folder / f"{net}.pth")
    torch.save(heads, folder / f"{net}-heads.pth")
    return {"net": net, "backbone": str(folder / f"{net}.pth"), "heads": str(folder / f"{net}-heads.pth")}


class TestLPIPSDiversity(LPIPSFiles, MetricSuite):
    """As for diversity, copies of one picture are what is worse."""

    order_tolerance = 0.3  # pairs are drawn by place

    def config(self):
        return configure("metric", "lpips_diversity", **self.files)

    def metrics(self):
        return dataclasses.replace(super().metrics(), fid_samples=20)

    def best(self):
        return tuple(part[:24] for part in self.real("test"))

    def worse(self):
        images, labels = self.best()
        return images[:1].expand_as(images).contiguous(), labels


class TestLPIPSRebuilt(LPIPSFiles, MetricSuite):
    reads_samples = False

    def config(self):
        return configure("metric", "lpips_rebuilt", count=9, **self.files)

    def rebuild(self):
        return lambda images: images // 2


class TestMemorised(MetricSuite):
    """Noise lies far from every training image, so copies of those are what is worse."""

    def config(self):
        return configure("metric", "memorised", train_samples=150)

    def best(self):
        return pictures(120, seed=9)

    def worse(self):
        return tuple(part[:120] for part in self.real("train"))


class TestCloserToTrain(TestMemorised):
    """Here, too, copies of training images are what is worse."""

    order_tolerance = 1e-3

    def config(self):
        return configure("metric", "closer_to_train")

    def best(self):
        return pictures(120, seed=12)  # near the control set, which is better too


class TestInceptionScore(MetricSuite):
    """By a layer of 20 classes that are as wide as the patches."""

    @pytest.fixture(autouse=True)
    def layer(self, tmp_path_factory, monkeypatch):
        monkeypatch.setattr(features, "DIMENSIONS", 48)
        weight = 4 * torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
        type(self).file = str(tmp_path_factory.mktemp("layer") / "layer.pth")
        torch.save({"fc.weight": weight, "fc.bias": torch.zeros(20)}, self.file)

    def config(self):
        return configure("metric", "inception_score", layer=self.file)


class TestFLD(MetricSuite):
    order_tolerance = 0.1  # variances are fitted in float32

    def config(self):
        return configure("metric", "fld")

    def best(self):
        return pictures(120, seed=9)


class TestTextAlignment(MetricSuite):
    """A small CLIP without training: each image has the letter that it matches best, and noise in its place less."""

    @pytest.fixture(autouse=True, scope="class")
    def clip(self, tmp_path_factory, request):
        request.cls.folder = small_clip(tmp_path_factory.mktemp("clip"))

    def config(self):
        return configure("metric", "text", clip=str(self.folder))

    def texts(self, images):
        from wavedp.metrics.alignment import load

        model, prepare, tokenizer = load(self.folder, "cpu")
        shown = [image.permute(1, 2, 0).numpy() for image in self.best()[0]]
        with torch.inference_mode():
            given = model(
                **tokenizer(list("abcdefgh"), return_tensors="pt"),
                pixel_values=prepare(shown, return_tensors="pt")["pixel_values"],
            )
        return ["abcdefgh"[place] for place in given.logits_per_image.argmax(1).tolist()]


class TestClipScore(TestTextAlignment):
    def config(self):
        return configure("metric", "clip_score", clip=str(self.folder), prefix="")


class TestBrightness(MetricSuite):
    """A metric of another package, named by where it is."""

    def config(self):
        return configure("metric", "odd_metrics:Brightness")

    def worse(self):
        images, labels = self.best()
        return images // 2, labels


def test_every_metric_of_the_repository_is_tried():
    here = {each for each in globals().values() if isinstance(each, type) and issubclass(each, MetricSuite)}
    TestTextAlignment.folder = TestInceptionScore.file = None
    LPIPSFiles.files = {}
    assert set(registry.BUILT_IN["metric"]) <= {each().config().name for each in here - {MetricSuite}}


@pytest.mark.parametrize(
    ("kind", "test", "words"),
    [
        ("NotANumber", "test_numbers_are_finite_and_have_a_meaning", "is nan"),
        ("WithoutCounts", "test_names_are_known_before_and_say_counts", "without a count"),
        ("WrongWay", "test_what_is_better_scores_better", "for the best"),
        ("FirstImage", "test_order_changes_nothing", "moves"),
        ("Random", "test_it_gives_the_same_twice_and_leaves_the_global_generator_alone", "another number"),
        ("Silent", "test_what_it_sees_is_in_the_ledger", r"say in look\(\) at what"),
        ("Hasty", "test_its_declaration_imports_no_torch", "it imports torch"),
    ],
)
def test_the_suite_notices(kind, test, words, monkeypatch):
    class Odd(TestBrightness):
        def config(self):
            return configure("metric", f"{'hasty_metric' if kind == 'Hasty' else 'odd_metrics'}:{kind}")

    see_patches(monkeypatch)
    with pytest.raises(AssertionError, match=words):
        getattr(Odd(), test)()
