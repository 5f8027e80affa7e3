"""What was added beside the FID: its floor, another network's distance, diversity, copies of training images, texts."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from clip_folder import small_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import cdist
from scipy.stats import binomtest

from wavedp import data, stages
from wavedp.chain import CHAIN, keys
from wavedp.config import DataConfig, MetricsConfig, SamplingConfig, TrialConfig, identity
from wavedp.errors import UserError
from wavedp.losses import Perceptual
from wavedp.metrics import (
    Given,
    chosen,
    fd,
    features,
    image_sets,
    looks,
    memorisation,
    network_file,
    pairs,
    second_networks,
    suite,
)
from wavedp.metrics import __main__ as command
from wavedp.metrics import check as check_metrics
from wavedp.metrics import control as control_set
from wavedp.metrics.alignment import text_alignment
from wavedp.metrics.frechet import frechet_distance_of
from wavedp.metrics.text import weights_name
from wavedp.metrics.views import draw
from wavedp.model_checks import check_models
from wavedp.store import Store

CONFIG = MetricsConfig(fid_samples=10, reference_samples=20, downstream_steps=0, kid=False, floor=False)


def pixels(count, seed=0, channels=3, side=16):
    """Noise, uint8 B C H W."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def save(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images.numpy()):
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(folder / f"{number:03}.png")


class Linear(torch.nn.Module):
    """A feature network of three numbers: B 3 224 224 -> B 3."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * self.scale


@pytest.fixture
def scripted(tmp_path):
    torch.jit.script(Linear(2.0)).save(tmp_path / "network.pt")
    return replace(CONFIG, second_network="file", second_network_file=str(tmp_path / "network.pt"))


@pytest.fixture
def eyes(monkeypatch):
    """Inception replaced by the means of quarters of the channels: the suite around it is what is tested."""

    def extract(images, config, cache_dir=None, report=None, device="cpu"):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)

    monkeypatch.setattr(features, "extract", extract)
    monkeypatch.setattr(network_file, "find_network", lambda path: None)
    return extract


def made_reference(images, config, labels=None):
    return suite.make_reference(lambda split: (images, labels), config)


def measured(images, reference, config, real, labels=None, texts=None):
    """`suite.evaluate` against the real images `real`, whatever the split."""
    n = len(real)
    return suite.evaluate(
        images, labels, reference, lambda split: (real, None), lambda split: n, config, 0, texts=texts
    )


def names(config, n_reference, n_generated):
    """Full names of all that the configuration asks for."""
    sets = Given(config, lambda split: n_reference, n_generated).sets
    return {full for metric, own in chosen(config) for full in metric.names(own, sets).values()}


# The floor


def test_the_floor_is_the_distance_of_real_images_beyond_the_reference(eyes):
    config, real = replace(CONFIG, floor=True), pixels(50)
    reference = made_reference(real, config)
    values = measured(pixels(12, 1), reference, config, real)
    order = draw(real, None)
    expected = frechet_distance_of(eyes(order[20:30], config), eyes(order[:20], config))
    assert values["floor_fid_clean_10_test20"] == pytest.approx(expected)
    assert set(values) == {"fid_clean_10_test20", "floor_fid_clean_10_test20"}
    assert set(values) == names(config, 50, 12)
    plain = made_reference(real, CONFIG)
    assert (set(plain), set(reference)) == ({"features"}, {"features", "others"})
    assert torch.equal(plain["features"], reference["features"])


@pytest.mark.parametrize(
    ("n", "reference_samples", "name"),
    [
        (28, 20, "floor_fid_clean_10_test18"),
        (50, None, "floor_fid_clean_10_test40"),
        (12, None, "floor_fid_clean_6_test6"),
    ],
)
def test_a_split_too_small_for_the_floor_is_divided(eyes, n, reference_samples, name):
    config, real = replace(CONFIG, floor=True, reference_samples=reference_samples), pixels(n)
    reference = made_reference(real, config)
    values = measured(pixels(10, 1), reference, config, real)
    part = int(name.split("_")[3])
    features = eyes(draw(real, None), config)
    assert values[name] == pytest.approx(frechet_distance_of(features[-part:], features[:-part]))
    with pytest.raises(UserError, match=r"floor=true needs two parts .* test split has 3"):
        check_metrics(Given(config, lambda split: 3, 10, labelled=False))


# Another network


def test_the_packaged_network_tells_pictures_apart():
    """One image is itself in grey and in three equal channels; and its features do not depend on its neighbours."""
    config = replace(CONFIG, second_network="effnetlite0")
    grey = pixels(3, channels=1)
    features = second_networks.extract(grey, config)
    assert features.shape == (3, 1280)
    assert torch.allclose(second_networks.extract(grey.expand(-1, 3, -1, -1), config), features, atol=1e-4)
    assert torch.allclose(second_networks.extract(grey[1:2], config), features[1:2], atol=1e-4)
    assert (features[0] - features[1]).abs().max() > 0.05


def test_a_users_network_sees_what_imagenet_networks_see(scripted, tmp_path):
    flat = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    found = second_networks.extract(flat, scripted, tmp_path / "cache")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (torch.tensor([0, 128, 255])[:, None] / 255 - mean) / std * 2
    assert torch.allclose(found, expected, atol=1e-4)
    torch.jit.script(Linear(3.0)).save(tmp_path / "other.pt")
    other = replace(scripted, second_network_file=str(tmp_path / "other.pt"))
    assert torch.allclose(second_networks.extract(flat, other, tmp_path / "cache"), expected * 1.5, atol=1e-4)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_the_second_distance_is_measured_under_its_networks_name(eyes, scripted):
    real, made = pixels(30), pixels(12, 1)
    reference = made_reference(real, scripted)
    values = measured(made, reference, scripted, real)
    name = f"fd_torchscript-{fd.network_identity(scripted)[:8]}_10_test20"
    assert set(values) == {"fid_clean_10_test20", name} == names(scripted, 30, 12)
    mine, theirs = (second_networks.extract(draw(images, n), scripted) for images, n in ((made, 10), (real, 20)))
    assert values[name] == pytest.approx(frechet_distance_of(mine, theirs))
    packaged = replace(scripted, second_network="effnetlite0")
    assert "fd_effnetlite0_10_test20" in names(packaged, 30, 12)


@pytest.fixture
def dino(tmp_path):
    """A random DINOv2 of a few weights, as save_pretrained writes it."""
    import transformers  # which the extra `dev` brings

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 56}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Dinov2Model(transformers.Dinov2Config(**size, image_size=112))
    model.save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def test_a_folder_of_dinov2_gives_its_class_token(eyes, dino):
    from transformers import Dinov2Model

    images = pixels(12, side=224)  # which no resize moves
    config = replace(CONFIG, second_network="file", second_network_file=str(dino))
    found = second_networks.extract(images, config)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(dino).eval()((images / 255 - mean) / std).pooler_output
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3
    name = fd.network_name(config)
    assert name == f"dinov2-w16p56-{fd.network_identity(config)[:8]}"
    values = measured(images, {"features": torch.rand(20, 12), "second": torch.rand(20, 16)}, config, pixels(30))
    assert f"fd_{name}_10_test20" in values
    about = json.loads((dino / "config.json").read_text())
    (dino / "config.json").write_text(json.dumps({**about, "layer_norm_eps": 1e-3}))
    assert fd.network_name(config) != name  # another network, although of the same weights


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("without", r"lacks config\.json or model\.safetensors or pytorch_model\.bin"),
        ("clip", "holds a model of type 'clip', and a folder may hold dinov2"),
        ("other", r"holds no DINOv2 model \(.* of its weights .* missing"),
        ("damaged", "holds no DINOv2 model"),
    ],
)
def test_a_wrong_folder_is_one_sentence(change, words, dino):
    about = json.loads((dino / "config.json").read_text())
    if change == "without":
        (dino / "model.safetensors").unlink()
    elif change == "damaged":
        (dino / "model.safetensors").write_bytes(b"no weights")
    else:
        changed = {"model_type": "clip"} if change == "clip" else {"num_hidden_layers": 3}
        (dino / "config.json").write_text(json.dumps({**about, **changed}))
    config = replace(CONFIG, second_network="file", second_network_file=str(dino))
    with pytest.raises(UserError, match=words):
        second_networks.load(config, "cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a file"),
        (b"text", "not a TorchScript network"),
        (torch.nn.Identity(), "one row of features an image"),
    ],
)
def test_a_wrong_network_is_one_sentence(content, words, tmp_path):
    path = tmp_path / "given.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.jit.script(content).save(path)
    config = replace(CONFIG, second_network="file", second_network_file=str(path))
    with pytest.raises(UserError, match=words):
        second_networks.load(config, "cpu")


def test_what_is_off_is_in_no_key_and_what_is_on_is_in_both(scripted, tmp_path):
    trial = TrialConfig(data=DataConfig("procedural", n_records=40, size=16), public=None)
    trial = replace(trial, metrics=replace(trial.metrics, floor=False))
    assert CHAIN[0].fields(trial) == ["clean", "float32", "test", 2000]  # as in studies before there was a floor
    assert not {"floor", "second_network", "downstream"} & set(identity(trial.metrics))
    other = tmp_path / "elsewhere.pt"
    other.write_bytes((tmp_path / "network.pt").read_bytes())
    torch.jit.script(Linear(3.0)).save(tmp_path / "changed.pt")

    def of(**changes):
        return keys(replace(trial, metrics=replace(trial.metrics, **changes)))

    asked = [
        of(),
        of(floor=True),
        of(second_network="effnetlite0"),
        of(second_network="file", second_network_file=str(tmp_path / "network.pt")),
        of(second_network="file", second_network_file=str(tmp_path / "changed.pt")),
    ]
    for stage in ("reference", "evaluate"):
        assert len({found[stage] for found in asked}) == len(asked)
    assert len({found["private_fit"] for found in asked}) == 1
    assert of(second_network="file", second_network_file=str(other)) == asked[3]
    assert of(second_network_file=str(other)) == asked[0]


def test_a_study_carries_both_from_reference_to_evaluate(eyes, scripted, tmp_path):
    trial = TrialConfig(
        level=0,
        data=DataConfig("procedural", n_records=200, size=16),
        public=None,
        generator="real",
        sampling=SamplingConfig(n=12),
        upscaler="identity",
        metrics=replace(scripted, floor=True, reference_samples=15),
    )
    artifact, _ = stages.make("evaluate", trial, Store(str(tmp_path / "store")), "cpu")
    values = artifact.json("metrics")
    second = fd.network_name(trial.metrics)
    assert set(values) == {"fid_clean_10_test15", "floor_fid_clean_10_test15", f"fd_{second}_10_test15"}
    real = torch.tensor(data.load(trial.data, "test").images)
    order = eyes(draw(real, 25), trial.metrics)
    assert values["floor_fid_clean_10_test15"] == pytest.approx(frechet_distance_of(order[15:], order[:15]))


# Diversity


def test_pairs_share_no_image_and_stay_within_their_class():
    labels = torch.arange(40) % 3
    chosen = pairs.pairs(labels)
    assert len(chosen.flatten().unique()) == chosen.numel() == 38
    assert (labels[chosen[:, 0]] == labels[chosen[:, 1]]).all()
    assert len(pairs.pairs(torch.zeros(3000))) == pairs.PAIRS
    with pytest.raises(UserError, match="3 images have no two pairs"):
        pairs.pairs(torch.zeros(3))


def test_diversity_falls_as_a_generator_repeats_itself():
    """None in copies of one picture, some in shades of it, more in unrelated ones."""
    different = pixels(12, side=24)
    shades = (different[:1].float() + torch.arange(12).view(-1, 1, 1, 1) * 3).clamp(0, 255).to(torch.uint8)
    chosen = pairs.pairs(torch.zeros(12))

    def measured(images):
        return pairs.mean_distance(lambda which: [images[index] for index in which], chosen, "cpu", 4)

    copies, some, most = (measured(images)[0] for images in (different[:1].expand(12, -1, -1, -1), shades, different))
    assert copies == pytest.approx(0, abs=1e-6)
    assert 10 * copies < some < most
    value, error = measured(different)
    assert 0 < error < value < 4
    left, right = (different[chosen[:, side]].float() / 255 for side in (0, 1))
    assert value == pytest.approx(float(Perceptual("cpu").distances(left, right).mean()), abs=1e-5)


# Copies of training images


def test_the_nearest_training_image_is_found(monkeypatch):
    generator = np.random.default_rng(0)
    left, right = (torch.from_numpy(generator.standard_normal((n, 5))) for n in (30, 50))
    table = cdist(left, right)
    monkeypatch.setattr(memorisation, "ROWS", 7)
    distances, neighbours = memorisation.nearest(left, right)
    assert distances.numpy() == pytest.approx(table.min(1))
    assert neighbours.numpy() == pytest.approx(table.argmin(1))


def test_copies_are_counted_and_fresh_images_are_not():
    draw = torch.Generator().manual_seed(0)
    training, held_out, fresh = (torch.randn(n, 8, generator=draw) for n in (400, 4000, 4000))
    honest = memorisation.memorisation(fresh, training, held_out)
    assert abs(honest.share - 0.01) < 0.006
    assert honest.standard_error == pytest.approx((honest.share * (1 - honest.share) / 4000) ** 0.5)
    copied = fresh.clone()
    copied[:300] = training[100:400] + 1e-3
    found = memorisation.memorisation(copied, training, held_out)
    assert abs(found.share - 300 / 4000 - honest.share) < 0.005
    assert set(map(tuple, found.pairs[:300].tolist())) == {(number, number + 100) for number in range(300)}
    distances = [float((copied[i] - training[j]).norm()) for i, j in found.pairs.tolist()]
    assert all(near <= far + 1e-5 for near, far in pairwise(distances))
    with pytest.raises(UserError, match="99 held-out images"):
        memorisation.memorisation(fresh, training, held_out[:99])


# A control set


def test_the_nearest_of_two_sets_by_hand():
    """On a line: two generated images next to one training image, one next to a control image, one between two."""
    line = torch.tensor
    training, control = line([[0.0], [10.0]]), line([[4.0], [30.0]])
    found = control_set.closer(line([[0.5], [-1.0], [29.0], [7.0]]), training, control)
    assert found.share == (1 + 1 + 0 + 0.5) / 4
    # Neighbours: image 0 twice, control image 30 once, and for the tie image 10 once: 4² / (4 + 1 + 1).
    observations = 16 / 6
    assert found.standard_error == pytest.approx((0.625 * 0.375 / observations) ** 0.5)
    interval = binomtest(625_000, 1_000_000).proportion_ci(method="wilson")  # of another implementation
    assert control_set.wilson(0.625, 1_000_000) == pytest.approx((interval.low, interval.high))
    assert (found.low, found.high) == control_set.wilson(0.625, observations)
    assert (found.to_train, found.to_control) == (1.0, 3.0)  # torch's median is the lower of two
    with pytest.raises(UserError, match="2 training and 1 control images are not comparable"):
        control_set.closer(training, training, control[:1])


def test_the_interval_holds_a_half_for_who_copies_nothing():
    """In 95 of 100 deals of real images, also where many generated images are near to one and the same."""
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        real = torch.randn(120, 3, generator=generator)
        generated = torch.randn(8, 3, generator=generator).repeat_interleave(25, 0)
        generated += 0.05 * torch.randn(200, 3, generator=generator)
        found = control_set.closer(generated, real[:60], real[60:])
        held += found.low <= 0.5 <= found.high
    assert 0.92 <= held / 400 <= 0.99, held
    naive = 0.5 + 1.96 * (0.25 / 200) ** 0.5
    assert naive < control_set.wilson(0.5, 8)[1]  # which would count each generated image


def test_copies_of_training_images_are_closer_than_the_control():
    generator = torch.Generator().manual_seed(0)
    training, control, fresh = (torch.randn(300, 8, generator=generator) for _ in range(3))
    assert control_set.closer(fresh, training, control).low < 0.5 < control_set.closer(fresh, training, control).high
    copied = torch.cat([fresh[:150], training[:150] + 1e-3])
    found = control_set.closer(copied, training, control)
    assert 0.5 < found.low < found.share < found.high < 1
    assert found.share == pytest.approx(0.5 * control_set.closer(fresh[:150], training, control).share + 0.5)


def test_a_trial_measures_beside_its_control(eyes, tmp_path):
    """`real` resamples training images: all of its samples are copies, and held-out images are none."""
    trial = TrialConfig(
        level=0, data=DataConfig("procedural", n_records=600, size=16), public=None, generator="real",
        sampling=SamplingConfig(n=40), upscaler="identity",
        metrics=replace(CONFIG, also=({"name": "closer_to_train"},), fid_samples=40, reference_samples=120),
    )  # fmt: skip
    if stages.n_records(trial.data, "test") < 120:
        trial = replace(trial, data=replace(trial.data, n_records=2000))
    values = stages.make("evaluate", trial, Store(str(tmp_path / "store")), "cpu")[0].json("metrics")
    training = torch.tensor(data.load(trial.data, "train").images)
    held_out = eyes(draw(torch.tensor(data.load(trial.data, "test").images), 120), None)
    near, fair = (
        control_set.closer(which, eyes(draw(training, 60), None), held_out[:60])
        for which in (eyes(draw(made_samples(trial, tmp_path), 40), None), held_out[60:])
    )
    assert values["closer-to-train_clean_40_train60_test60"] == pytest.approx(near.share)
    assert values["closer-to-train-low_clean_40_train60_test60"] == pytest.approx(near.low)
    assert values["closer-to-train-fresh_clean_60_train60_test60"] == pytest.approx(fair.share)
    assert values["nearest-train_clean_40_train60_test60"] == pytest.approx(near.to_train, abs=1e-6)
    assert [split for purpose, split in looks(trial.metrics) if "control set" in purpose] == ["test", "train"]
    with pytest.raises(UserError, match="held out of training"):
        check_models(replace(trial, metrics=replace(trial.metrics, reference_split="train")))
    with pytest.raises(UserError, match=r"needs 100 held-out and 50 training images, got 99"):
        check_models(replace(trial, metrics=replace(trial.metrics, reference_samples=99)))


def made_samples(trial, tmp_path):
    return stages.make("upscale", trial, Store(str(tmp_path / "store")), "cpu")[0].tensors("samples")["images"]


def test_the_sheet_shows_the_pairs(tmp_path):
    red, grey = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((1, 8, 8), 77, dtype=torch.uint8)
    red[0] = 255
    memorisation.save_sheet(tmp_path / "new" / "sheet.png", [red] * 9, [grey] * 9)
    sheet = Image.open(tmp_path / "new" / "sheet.png")
    assert sheet.size == (8 * 136, 2 * 72)
    assert [sheet.getpixel(place) for place in ((5, 5), (70, 5), (5, 77), (141, 77))] == [
        (255, 0, 0), (77, 77, 77), (255, 0, 0), (255, 255, 255),
    ]  # fmt: skip


# Texts


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP model."""
    return small_clip(tmp_path_factory.mktemp("clip"), side=32)


def test_alignment_is_the_mean_of_the_models_cosines(clip):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    images, texts = pixels(5, side=40), ["a", "b c", "d e f g h a b c d e", "a", "h"]
    model, prepare, tokenizer = (kind.from_pretrained(clip) for kind in (CLIPModel, CLIPImageProcessor, CLIPTokenizer))
    expected = []
    for image, said in zip(images, texts, strict=True):
        tokens = tokenizer([said], truncation=True, max_length=8, return_tensors="pt")
        shown = prepare([Image.fromarray(image.permute(1, 2, 0).numpy())], return_tensors="pt")
        logits = model(**tokens, **shown).logits_per_image
        expected.append(float(logits / model.logit_scale.exp()))
    value, error = text_alignment([(images[:3], texts[:3]), (images[3:], texts[3:])], clip, "cpu", batch_size=2)
    assert value == pytest.approx(np.mean(expected), abs=1e-5)
    assert error == pytest.approx(np.std(expected, ddof=1) / 5**0.5, abs=1e-5)


def test_a_folder_without_clip_is_one_sentence(clip, tmp_path):
    with pytest.raises(UserError, match="holds no CLIP model"):
        text_alignment([(pixels(1), ["a"])], tmp_path, "cpu")
    with pytest.raises(UserError, match=r"neither model\.safetensors"):
        weights_name(tmp_path)
    assert len(weights_name(clip)) == 8


@pytest.mark.parametrize(("scale", "of"), [
    ("x1", lambda cosine: cosine), ("x100", lambda cosine: 100 * cosine), ("x2.5", lambda cosine: 2.5 * max(cosine, 0)),
])  # fmt: skip
def test_a_clip_score_says_model_prefix_and_scale(eyes, clip, scale, of):
    """Against transformers' own forward, text by text, some of them longer than the model reads."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    images = pixels(12, side=40)
    texts = ["a", "b c", "d e f g h a b c d e", "h", "e f", "g"] * 2
    model, prepare, tokenizer = (kind.from_pretrained(clip) for kind in (CLIPModel, CLIPImageProcessor, CLIPTokenizer))
    expected = []
    for image, said in zip(images, texts, strict=True):
        tokens = tokenizer([f"a b {said}"], truncation=True, max_length=8, return_tensors="pt")
        shown = prepare([Image.fromarray(image.permute(1, 2, 0).numpy())], return_tensors="pt")
        logits = model(**tokens, **shown).logits_per_image
        expected.append(of(float(logits / model.logit_scale.exp())))
    assert min(expected) <= 0 < max(expected)  # or the cut of x2.5 was not tried
    own = {"name": "clip_score", "clip": str(clip), "prefix": "a b", "scale": scale}
    config = replace(CONFIG, also=(own,))
    found = measured(images, {"features": torch.rand(20, 12)}, config, pixels(20), texts=texts)
    name = f"clip_vit16x1p16-{weights_name(clip)}_a-b_{scale}_12"
    assert found[name] == pytest.approx(np.mean(expected), abs=1e-5)
    metric, section = next(item for item in chosen(config) if item[0].name == "clip_score")
    (begins,) = metric.meanings(section, config)
    assert name.startswith(begins)


def test_weights_that_are_missing_are_not_drawn_at_random(clip, tmp_path):
    """transformers only warns of them."""
    shutil.copytree(clip, tmp_path / "clip")
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"holds no CLIP model \(1 of its weights is missing: visual_projection\.weight"
    ):
        text_alignment([(pixels(1), ["a"])], tmp_path / "clip", "cpu")


def test_a_clip_score_without_its_model_is_refused_before_any_training(clip, tmp_path):
    trial = TrialConfig(
        level=0, data=DataConfig("procedural", n_records=200, size=16), public=None, generator="real",
        sampling=SamplingConfig(n=12), upscaler="identity",
    )  # fmt: skip
    (tmp_path / "texts").write_text("a\n" * 12)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "model.safetensors").write_bytes(b"")
    for own, words in (
        ({}, "give the metric's option `clip` a folder that"),
        ({"clip": str(tmp_path)}, r"holds neither model\.safetensors nor pytorch_model\.bin"),
        ({"clip": str(tmp_path / "config"), "texts": str(tmp_path / "texts")}, "holds no CLIP model"),
        ({"clip": str(clip)}, "these images were not sampled from prompts"),
        ({"clip": str(clip), "texts": str(tmp_path / "none")}, "is not a file"),
    ):
        config = replace(CONFIG, also=({"name": "clip_score", **own},))
        with pytest.raises(UserError, match=words):
            check_models(replace(trial, metrics=config))


# The command


@pytest.fixture
def cheap(monkeypatch):
    """Means of quarters of the channels in place of Inception."""

    def extract(images, config, cache_dir=None, report=None, device="cpu"):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)

    monkeypatch.setattr(features, "extract", extract)


def test_the_command_names_what_it_added(cheap, clip, scripted, tmp_path, capsys):
    training = pixels(30, 3, side=8)
    save(tmp_path / "real", pixels(100, side=8))
    for name, images in (("a", training[:4]), ("b", pixels(8, 1, side=8))):  # a class of copies
        save(tmp_path / "made" / name, images)
    np.savez(tmp_path / "train.npz", training.numpy())
    (tmp_path / "texts").write_text("a b\n" * 12)
    options = [
        *("--metrics", "fd2", "diversity", "memorisation", "text", "--train", str(tmp_path / "train.npz")),
        *("--clip", str(clip), "--texts", str(tmp_path / "texts"), "--sheet", str(tmp_path / "sheet.png")),
        *("--json", str(tmp_path / "rows.jsonl"), "--second-network", str(scripted.second_network_file)),
    ]
    assert command.main([str(tmp_path / "real"), str(tmp_path / "made"), *options]) == 0, capsys.readouterr().err
    rows = {row["metric"]: row["value"] for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    assert list(rows) == [
        f"fd_{fd.network_name(scripted)}_12_100", "diversity_effnetlite0_6pairs_12",
        "diversity_within_effnetlite0_6pairs_12",
        "real_diversity_effnetlite0_50pairs_100", "memorised_clean_12_100_30", f"text_clip{weights_name(clip)}_12",
    ]  # fmt: skip
    assert rows["memorised_clean_12_100_30"] == pytest.approx(4 / 12, abs=1 / 12 + 1e-9)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert np.array_equal(sheet[:64, :64], sheet[:64, 64:128])  # the closest pair is a copy beside its original
    assert not np.array_equal(sheet[:64, 4 * 136 : 4 * 136 + 64], sheet[:64, 4 * 136 + 64 : 4 * 136 + 128])


def test_a_request_that_lacks_something_is_one_sentence(cheap, tmp_path, capsys):
    save(tmp_path / "set", pixels(6, side=8))
    both = [str(tmp_path / "set")] * 2
    for asked, words in (("memorisation", "with --train"), ("text", "give --clip and --texts")):
        assert command.main([*both, "--metrics", asked]) == 2
        assert words in capsys.readouterr().err
    assert command.main([*both, "--metrics", "fd2", "--second-network", str(tmp_path / "absent")]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_labels_and_picked_images_are_those_of_the_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets, "CHUNK", 4)
    images = pixels(9, side=8)
    save(tmp_path / "set" / "b", images[5:])
    save(tmp_path / "set" / "a", images[:5])
    np.savez(tmp_path / "set.npz", images=images.numpy(), labels=np.repeat([3, 7], [5, 4]))
    for path in (tmp_path / "set", tmp_path / "set.npz"):
        assert image_sets.labels(path).tolist() == [0] * 5 + [1] * 4
        assert torch.equal(torch.stack(image_sets.pick(path, [7, 0, 4])), images[[7, 0, 4]])
    assert image_sets.labels(tmp_path / "set" / "a") is None
