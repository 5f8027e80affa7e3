"""FID with 30,000 as published evaluations take it: whose names, whose images, whose captions."""

import json
from functools import partial
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import functional

from wavedp import text
from wavedp.config import trial_of
from wavedp.data import prompt_file as prompts
from wavedp.errors import UserError
from wavedp.metrics import Given, chosen, features, image_sets
from wavedp.metrics import __main__ as command
from wavedp.metrics.frechet import frechet_distance_of

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("protocol", "names"),
    [
        ("coco_30k", {"fid_clean_30k_test", "floor_fid_clean_20252_test20252"}),
        ("mm_celeba_hq_30k", {"fid_pytorch_30k_train", "floor_fid_pytorch_12k_train12k"}),
    ],
)
def test_the_protocols_have_their_own_names(protocol, names):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("config", [f"metrics={protocol}", "sampling.n=30000"])
    config = trial_of({"metrics": OmegaConf.to_container(composed.metrics, resolve=True)}).metrics
    given = Given(config, {"test": 40_504, "train": 24_000}.__getitem__, 30_000, labelled=False, described=True)
    assert {name for metric, own in chosen(config) for name in metric.names(own, given.sets).values()} == names
    assert not config.kid


# Images


@pytest.mark.parametrize("size", [(37, 64), (64, 37), (40, 41), (43, 40), (20, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_squares_are_the_published_ones(size, channels):
    """Torchvision's crop and Pillow's Lanczos, as in their code."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, channels), np.uint8)
    found = image_sets.square(torch.from_numpy(pixels).permute(0, 3, 1, 2), 32)
    for image, ours in zip(pixels, found, strict=True):
        picture = Image.fromarray(image.squeeze())
        expected = functional.center_crop(picture, min(picture.size)).resize((32, 32), Image.Resampling.LANCZOS)
        assert np.array_equal(ours.squeeze(0) if channels == 1 else ours.permute(1, 2, 0), np.array(expected))


def test_the_command_takes_the_split_as_it_was_unpacked(tmp_path, monkeypatch, capsys):
    """Photographs of several sizes; the name says what was done to them, and generated images are left alone."""

    def extract(images, *_):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)

    monkeypatch.setattr(features, "extract", extract)
    draw, real, made = np.random.default_rng(0), [], []
    for folder in ("val2014", "made"):
        (tmp_path / folder).mkdir()
    for number in range(12):
        size = ((40, 60), (60, 40), (40, 40))[number % 3]
        image = Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8))
        image.save(tmp_path / "val2014" / f"{number:03}.png")
        square = functional.center_crop(image, 40).resize((32, 32), Image.Resampling.LANCZOS)
        real.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
        pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "made" / f"{number:03}.png")
        made.append(torch.from_numpy(pixels).permute(2, 0, 1))
    run = partial(_run, capsys, str(tmp_path / "val2014"), str(tmp_path / "made"), "--metrics", "fid")
    status, said = run("--square", "32", "--json", str(tmp_path / "rows.jsonl"))
    assert status == 0, said
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    expected = frechet_distance_of(extract(torch.stack(made)), extract(torch.stack(real)))
    assert row["metric"] == "fid_clean_12_12-square32"
    assert row["value"] == pytest.approx(expected, rel=1e-6)
    status, said = run("--square", "0")
    assert status == 2
    assert "--square=0 is no size" in said


def _run(capsys, *options):
    status = command.main(list(options))
    return status, capsys.readouterr().err


# Captions


def coco(path, images=4, each=3):
    said = [
        {"id": number * 10 + turn, "image_id": number, "caption": f" image {number}\n caption {turn} "}
        for turn in range(each)
        for number in range(images)
    ]
    path.write_text(json.dumps({"images": [], "annotations": said}))


def test_every_image_gives_a_caption_before_any_gives_two(tmp_path, capsys):
    coco(tmp_path / "captions_val2014.json")
    file = tmp_path / "prompts.txt"
    assert prompts.main([str(tmp_path / "captions_val2014.json"), str(file), "--count", "10"]) == 0
    assert "10 prompts of 4 images" in capsys.readouterr().out
    lines, record = text.read_prompts(str(file)), json.loads((tmp_path / "prompts.json").read_text())
    assert len(lines) == len(set(lines)) == 10
    assert [line.split()[1] for line in lines] == record["images"]
    assert {frozenset(record["images"][:4]), frozenset(record["images"][4:8])} == {frozenset("0123")}
    assert record["images"][:4] != record["images"][4:8]
    assert record["known"] == {"images": 4, "captions": 12}
    again = tmp_path / "again.txt"
    prompts.main([str(tmp_path / "captions_val2014.json"), str(again), "--count", "10"])
    assert again.read_text() == file.read_text()
    prompts.main([str(tmp_path / "captions_val2014.json"), str(again), "--count", "10", "--seed", "1"])
    assert again.read_text() != file.read_text()


def test_a_folder_of_captions_is_taken_by_the_ids_of_a_split(tmp_path):
    folder = tmp_path / "celeba-caption"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"face {number} a\n\nface {number} b\n")
    (tmp_path / "test.txt").write_text("3.jpg\n1\n")
    file = tmp_path / "prompts.txt"
    assert prompts.main([str(folder), str(file), "--ids", str(tmp_path / "test.txt"), "--count", "4"]) == 0
    assert sorted(file.read_text().splitlines()) == ["face 1 a", "face 1 b", "face 3 a", "face 3 b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["captions_val2014.json", "--count", "13"], "--count=13 of 12 captions of 4 images"),
        (["captions_train2014.json", "--count", "3"], "called after a training split"),
        (["captions_val2014.json", "--ids", "train.txt", "--count", "3"], "called after a training split"),
        (["captions_val2014.json", "--ids", "ids.txt", "--count", "3"], "names 9, which .* has no caption of"),
        (["text", "--count", "3"], "neither COCO's file of captions nor a folder"),
        (["nowhere.json", "--count", "3"], "neither COCO's file of captions nor a folder"),
        (["empty", "--count", "3"], "holds no caption"),
    ],
)
def test_what_is_no_set_of_captions_is_one_sentence(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("captions_val2014.json", "captions_train2014.json"):
        coco(Path(name))
    Path("empty").mkdir()
    Path("text").write_text("a caption\n", encoding="utf-8")
    Path("ids.txt").write_text("9\n", encoding="utf-8")
    Path("train.txt").write_text("1\n", encoding="utf-8")
    captions, *rest = options
    with pytest.raises(UserError, match=words):
        prompts.main.__wrapped__([captions, "prompts.txt", *rest])
    assert prompts.main([captions, "prompts.txt", *rest]) == 2
    assert not Path("prompts.txt").exists()
    if "train2014" in captions:
        assert prompts.main([captions, "prompts.txt", *rest, "--public"]) == 0
