"""Public images that are sensitive records are refused before anything trains, and edited copies are warned of."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data import fashion_home  # noqa: F401

import wavedp.run
from wavedp import chain, checks, data, stages
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, to_dict
from wavedp.data import overlap, records
from wavedp.errors import UserError
from wavedp.model_checks import check_models
from wavedp.store import Store

EDITS = {
    "smaller": lambda picture: picture.resize((24, 24), Image.Resampling.LANCZOS),
    "larger": lambda picture: picture.resize((96, 96), Image.Resampling.LANCZOS),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def draw(folder: Path, n: int, seed: int) -> None:
    """n smooth colourful pictures, 32×32."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (n, 5, 5, 3), np.uint8)):
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{i}.png")


def config(path: Path) -> DataConfig:
    return DataConfig(name="folder", path=str(path), home=str(path.parent / "home"), size=16, channels=3)


@pytest.fixture
def sensitive(tmp_path) -> Path:
    """Twenty train pictures and eight test pictures."""
    draw(tmp_path / "sensitive" / "train" / "a", 20, seed=0)
    draw(tmp_path / "sensitive" / "test" / "a", 8, seed=1)
    return tmp_path / "sensitive"


def trial(sensitive: Path, public: Path, **changes) -> TrialConfig:
    return TrialConfig(
        data=config(sensitive),
        public=config(public),
        privacy=PrivacyConfig(batch_size=4, steps=2),
        sampling=SamplingConfig(n=4),
        upscaler="bicubic",
        metrics=MetricsConfig(fid_samples=4, reference_samples=8, downstream_steps=0, kid=False, floor=False),
        **changes,
    )


def public_with(sensitive: Path, taken: list[Path], edit=None, suffix=".png") -> Path:
    """A public set of six pictures of its own, and these."""
    root = sensitive.parent / "public"
    draw(root / "train" / "own", 6, seed=7)
    for i, file in enumerate(taken):
        picture = Image.open(file)
        (edit(picture) if edit else picture).save(root / "train" / "own" / f"taken_{i}{suffix}", quality=85)
    return root


def test_one_folder_for_both_is_refused_before_it_is_read(sensitive, tmp_path):
    (tmp_path / "again").symlink_to(sensitive)
    for path in (sensitive, tmp_path / "again"):
        with pytest.raises(UserError, match=f"public.path={path} are the same"):
            overlap.refuse_shared(config(sensitive), [(config(path), "train")])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_a_record_among_public_images_is_refused_with_count_and_example(split, suffix, sensitive):
    taken = sorted((sensitive / split / "a").iterdir())[:3]
    public = public_with(sensitive, taken, suffix=suffix)  # .bmp: the same pixels in other bytes
    with pytest.raises(
        UserError, match=r"3 of 9 public images \(folder, train\) are records of the sensitive set"
    ) as no:
        checks.check(trial(sensitive, public))
    pairs = [f"{public}/train/own/taken_{i}{suffix} = {file}" for i, file in enumerate(taken)]
    assert any(pair in str(no.value) for pair in pairs)


def test_public_images_of_their_own_are_accepted(sensitive, caplog):
    asked = trial(sensitive, public_with(sensitive, []))
    assert checks.check(asked) == []
    assert overlap.warn_of_copies(asked.data, chain.public_reads(asked)) == []


def test_a_file_is_known_whatever_it_is_decoded_to(sensitive, tmp_path):
    """Open Clip Art's loader draws a picture on black, cropped: no pixel is that of the folder's loader."""
    home = tmp_path / "home"
    (home / "openclipart" / "tools").mkdir(parents=True)
    shutil.copy(sensitive / "train" / "a" / "4.png", home / "openclipart" / "tools" / "x.png")
    draw(home / "openclipart" / "tools", 30, seed=5)
    public = DataConfig(name="openclipart", home=str(home), size=16, channels=3)
    reads = [(public, split) for split in ("train", "test")]
    with pytest.raises(UserError, match=r"1 of .* such as .*tools/x\.png = .*4\.png"):
        overlap.refuse_shared(config(sensitive), reads)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_copies_are_warned_of(edit, sensitive, caplog):
    taken = sorted((sensitive / "train" / "a").iterdir())[:5]
    asked = trial(sensitive, public_with(sensitive, taken, EDITS[edit], ".jpg"))
    assert checks.check(asked) == []
    check_models(asked)
    assert "5 of 11 public images (folder, train) look like edited copies of sensitive ones" in caplog.text


def test_every_way_to_run_refuses_before_a_stage_trains(sensitive, tmp_path, capsys):
    public = public_with(sensitive, sorted((sensitive / "train" / "a").iterdir())[:1])
    asked, store = trial(sensitive, public), Store(str(tmp_path / "store"))
    with pytest.raises(UserError, match="1 of 7 public images"):
        wavedp.run(asked, store)
    for stage in ("tokenizer", "pretrain", "private_fit", "coarse_samples"):
        with pytest.raises(UserError, match="1 of 7 public images"):
            stages.make(stage, asked, store, "cpu")
    plan = tmp_path / "plan.json"
    plan.write_text(
        wavedp.run.json.dumps(
            {"trials": [{"id": "t", "config": to_dict(asked), "keys": chain.keys(asked), "axes": {}}]}
        )
    )
    assert wavedp.run.main([str(plan), "--store", str(tmp_path / "store")]) == 2
    assert "1 of 7 public images" in capsys.readouterr().err
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_upscalers_and_prompts_are_asked_for_their_images_too(sensitive):
    asked = trial(sensitive, sensitive.parent / "public", tokenizer="spectral")
    assert chain.public_reads(asked) == [(asked.public, "train")]
    prompted = dataclasses.replace(
        asked,
        generator={"name": "spectral_ar", "pretrain_steps": 0, "conditioning": "text"},
        tokenizer="scalar",
        upscaler="wavelet_detail",
    )
    assert chain.public_reads(prompted) == [(asked.public, "train"), (asked.public, "test")]


def test_pictures_of_one_colour_are_equal_only_by_their_file(tmp_path):
    for root, grey in (("one", 0), ("two", 0)):
        for seed, split in enumerate(("train", "test")):
            draw(tmp_path / root / split, 4, seed=len(root) + seed + 10 * (root == "two"))
        Image.new("RGB", (32, 32), (grey,) * 3).save(
            tmp_path / root / "train" / f"blank.{'png' if root == 'one' else 'bmp'}"
        )
    reads = [(config(tmp_path / "two"), "train")]
    overlap.refuse_shared(config(tmp_path / "one"), reads)
    shutil.copy(tmp_path / "one" / "train" / "blank.png", tmp_path / "two" / "train" / "blank.bmp")  # the same pixels
    overlap.shared.cache_clear()
    overlap._files.cache_clear()
    with pytest.raises(UserError, match="1 of 5 public images"):
        overlap.refuse_shared(config(tmp_path / "one"), reads)


def test_a_comparison_is_kept_until_a_file_changes(sensitive, monkeypatch):
    public = public_with(sensitive, [])
    reads = [(config(public), "train")]
    overlap.refuse_shared(config(sensitive), reads)
    kept = sorted(Path(config(sensitive).home, "decoded").glob("*.json"))
    assert len(kept) == 1
    assert kept[0].stat().st_mode & 0o777 == 0o600
    for memo in (overlap.shared, overlap._files):
        memo.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(records, "pixel_hashes", lambda images: pytest.fail("compared again"))
        overlap.refuse_shared(config(sensitive), reads)
    shutil.copy(sensitive / "test" / "a" / "0.png", public / "train" / "own" / "0.png")
    for memo in (overlap.shared, overlap._files):
        memo.cache_clear()
    with pytest.raises(UserError, match="1 of 6 public images"):
        overlap.refuse_shared(config(sensitive), reads)


def test_garments_drawings_and_computed_images_raise_no_alarm(fashion_home):  # noqa: F811
    garments = data.load(DataConfig(home=fashion_home), "train").images
    drawn = data.load(DataConfig(name="procedural", n_records=512, split="public"), "train").images
    assert records.alike(garments, drawn) == []
    assert records.repeats(garments) == records.Repeats()
    drawings = DataConfig(name="openclipart", home=fashion_home, limit=400)
    if not Path(fashion_home, "openclipart").is_dir():
        pytest.skip("openclipart is not on this machine")
    assert records.alike(garments[:20_000], data.load(drawings, "train").images) == []


def test_edits_are_found_by_their_source():
    images = data.load(DataConfig(name="procedural", n_records=64, size=32), "train").images
    others = data.load(DataConfig(name="procedural", n_records=64, size=32, split="public"), "train").images.copy()
    others[7] = np.clip(images[9][..., ::-1] * 0.8 + 20, 0, 255).astype(np.uint8)
    assert (9, 7) in records.alike(images, others)


def test_the_public_division_of_computed_images_shares_none():
    sets = [
        data.load(DataConfig(name="procedural", n_records=400, split=division), split).images
        for division in ("official", "public")
        for split in ("train", "val", "test")
    ]
    hashes = [value for images in sets for value in records.pixel_hashes(images)]
    assert len(set(hashes)) == len(hashes) == 1200


def test_test_images_that_were_trained_on_are_said(sensitive):
    os.rename(sensitive / "train" / "a" / "0.png", sensitive / "train" / "a" / "moved.png")
    shutil.copy(sensitive / "train" / "a" / "moved.png", sensitive / "test" / "a" / "known.png")
    (warning,) = checks.check(trial(sensitive, public_with(sensitive, [])))
    assert "1 of 9 test images of folder are train records too, such as" in warning
    assert "known.png = " in warning
