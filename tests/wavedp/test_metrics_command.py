"""`python -m wavedp.metrics` on folders, zips and arrays: the right numbers, and a sentence for every bad input."""

import json
import math
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.resize import build_resizer
from PIL import Image

from wavedp.config import MetricsConfig
from wavedp.errors import UserError
from wavedp.metrics import __main__ as command
from wavedp.metrics import image_sets
from wavedp.metrics.features import pytorch_resize
from wavedp.metrics.frechet import frechet_distance_at_infinity, frechet_distance_of
from wavedp.metrics.kernel import kernel_distance_in_subsets, kernel_distance_of
from wavedp.metrics.neighbours import precision_recall_density_coverage
from wavedp.metrics.views import Looking


def pixels(count, channels=3, side=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def save(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(folder / f"{number:03}.png")
    return folder


def read(path):
    return list(image_sets.chunks(path))


# What is read


def test_folder_zip_and_array_are_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets, "CHUNK", 4)
    images = pixels(10)
    folder = save(tmp_path / "set" / "a class", images)
    (tmp_path / "set" / ".hidden.png").write_bytes(b"no picture")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
        archive.writestr("__MACOSX/000.png", b"no picture")
    np.savez(tmp_path / "set.npz", images=images.transpose(0, 2, 3, 1), labels=np.arange(10))
    for source in ("set", "set.zip", "set.npz"):
        found = read(tmp_path / source)
        assert [len(chunk) for chunk in found] == [4, 4, 2]
        assert torch.equal(torch.cat(found), torch.from_numpy(images)), source


def test_sizes_and_colours_may_be_mixed(tmp_path):
    save(tmp_path / "a", pixels(3, side=12))
    save(tmp_path / "b", pixels(2, side=9))
    save(tmp_path / "c", pixels(2, channels=1))
    assert sorted(tuple(chunk.shape) for chunk in read(tmp_path)) == [(2, 1, 12, 12), (2, 3, 9, 9), (3, 3, 12, 12)]


def test_pixels_mean_what_they_show(tmp_path):
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "deep.png")
    transparent = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    transparent.putpixel((1, 0), (10, 20, 30, 0))
    transparent.save(tmp_path / "glass.png")
    deep, glass = read(tmp_path)
    assert deep[0].tolist() == [[[0, 255]]]
    assert glass[0, :, 0].tolist() == [[10, 255], [20, 255], [30, 255]]  # what is transparent shows the white below


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (pixels(5, 1)[:, 0], (5, 1, 12, 12)),
        (pixels(5, 3), (5, 3, 12, 12)),
        (pixels(5, 3).transpose(0, 2, 3, 1), (5, 3, 12, 12)),
        (pixels(5, 1) / 255.0, (5, 1, 12, 12)),
    ],
)
def test_arrays_in_any_layout(array, shape, tmp_path):
    np.savez(tmp_path / "a.npz", array)
    (found,) = read(tmp_path / "a.npz")
    assert found.shape == shape
    assert found.dtype == torch.uint8
    expected = pixels(*shape[:2])
    assert np.array_equal(found.numpy(), expected)


def broken(tmp_path, kind):
    """A set that cannot be used, and words of the sentence that says so."""
    path = tmp_path / "set"
    path.mkdir()
    if kind == "empty folder":
        return path, "holds no images"
    if kind == "no such path":
        return tmp_path / "nowhere", "nowhere is not a set of images"
    if kind == "text":
        (tmp_path / "a.txt").write_text("x")
        return tmp_path / "a.txt", "give a folder, a .zip"
    if kind == "torn file":
        save(path, pixels(2))
        (path / "000.png").write_bytes((path / "000.png").read_bytes()[:60])
        return path, "000.png cannot be read"
    if kind == "animated":
        frames = [Image.new("L", (4, 4), value) for value in (0, 90, 255)]
        frames[0].save(path / "a.gif", save_all=True, append_images=frames[1:])
        return path, "it has 3 frames, and one picture is wanted"
    if kind == "floating-point picture":
        Image.fromarray(np.ones((4, 4), np.float32)).save(path / "a.tiff")
        return path, "no fixed range"
    if kind == "torn zip":
        (tmp_path / "a.zip").write_bytes(b"PK nothing")
        return tmp_path / "a.zip", "a.zip cannot be read"
    arrays = {
        "NaN": {"images": np.where(np.arange(3)[:, None, None, None] == 1, np.nan, np.zeros((3, 1, 4, 4)))},
        "out of range": {"images": np.full((3, 1, 4, 4), 200.0)},
        "integers": {"images": np.zeros((3, 1, 4, 4), np.int32)},
        "two arrays": {"left": pixels(2), "right": pixels(2)},
        "vectors": {"images": np.zeros((3, 9), np.uint8)},
        "objects": {"images": np.array([{}, None], dtype=object)},
    }
    words = {
        "NaN": "image 1 has a pixel that is NaN or out of",
        "out of range": "image 0 has a pixel that is NaN or out of",
        "integers": "holds int32",
        "two arrays": "holds left, right: name the array of images",
        "vectors": r"shape \(3, 9\)",
        "objects": "holds Python objects",
    }
    np.savez(tmp_path / "a.npz", **arrays[kind])
    return tmp_path / "a.npz", words[kind]


BROKEN = (
    "empty folder", "no such path", "text", "torn file", "animated", "floating-point picture", "torn zip", "NaN",
    "out of range", "integers", "two arrays", "vectors", "objects",
)  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_set_is_one_sentence(kind, tmp_path, capsys):
    path, words = broken(tmp_path, kind)
    with pytest.raises(UserError, match=words):
        read(path)
    assert command.main([str(path), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "float npz", "mixed folder"])
def test_memory_holds_a_chunk_and_not_the_set(kind, tmp_path, monkeypatch):
    """24 images of 768 KiB, in chunks of 2 MiB. A floating-point image of 3 MiB is held four times as it is rounded."""
    images = np.repeat(pixels(24, side=64), 8, axis=2).repeat(8, axis=3)
    if kind == "mixed folder":
        sides = range(512, 488, -1)
        save(tmp_path / "set", [image[:, :side] for side, image in zip(sides, images, strict=True)])
    else:
        save(tmp_path / "set", images if kind in ("folder", "zip") else images[:0])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").iterdir():
            archive.write(path, path.name)
    np.savez(tmp_path / "set.npz", images=images / np.float32(255) if "float" in kind else images)
    path = tmp_path / {"zip": "set.zip"}.get(kind, "set.npz" if "npz" in kind else "set")
    count = len(images)
    del images
    monkeypatch.setattr(image_sets, "CHUNK_BYTES", 2**21)
    monkeypatch.setattr(image_sets, "PART_BYTES", 2**20)
    tracemalloc.start()
    seen = sum(len(chunk) for chunk in image_sets.chunks(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == count
    assert peak < 14 * 2**20, f"{peak / 2**20:.1f} MiB of {count * 3 / 4:.0f}"


def test_parts_of_an_npz_make_the_chunks_of_the_whole(tmp_path, monkeypatch):
    images = pixels(23)
    for order in (np.ascontiguousarray, np.asfortranarray):
        np.savez(tmp_path / "a.npz", images=order(images.transpose(0, 2, 3, 1)))
        for chunk, part in ((4, 1), (7, 10), (30, 3), (23, 23)):
            monkeypatch.setattr(image_sets, "CHUNK", chunk)
            monkeypatch.setattr(image_sets, "PART_BYTES", part * images[0].size)
            found = read(tmp_path / "a.npz")
            assert torch.equal(torch.cat(found), torch.from_numpy(images))
            assert {len(part) for part in found[:-1]} <= {chunk}
    monkeypatch.setattr("wavedp.metrics.npz.WHOLE", images.nbytes - 1)
    with pytest.raises(UserError, match=r"images\.npy has 9,936 bytes that cannot be read in parts"):
        read(tmp_path / "a.npz")


def test_the_limit_of_pixels_can_be_raised(tmp_path, capsys):
    path = str(save(tmp_path / "set", pixels(3)))
    assert command.main([path, path, "--metrics", "spectrum", "--max-pixels", "143"]) == 2
    assert "12 × 12 pixels, and 143 in all are read at most" in capsys.readouterr().err
    assert command.main([path, path, "--metrics", "spectrum", "--max-pixels", "144"]) == 0


# What is measured


def features(n, seed, shift=0.0, dimensions=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) + shift


def test_neighbours_against_the_definition():
    real, generated, k = features(40, 0), features(30, 1, shift=0.4), 3

    def radius(sample, own):
        return sorted(math.dist(sample, other) for other in own.tolist())[k]

    real_balls = [(centre, radius(centre, real)) for centre in real.tolist()]
    generated_balls = [(centre, radius(centre, generated)) for centre in generated.tolist()]
    hits = [[math.dist(x, centre) <= r for centre, r in real_balls] for x in generated.tolist()]
    expected = {
        "precision": sum(map(any, hits)) / 30,
        "recall": sum(any(math.dist(x, c) <= r for c, r in generated_balls) for x in real.tolist()) / 40,
        "density": sum(map(sum, hits)) / 30 / k,
        "coverage": sum(map(any, zip(*hits, strict=True))) / 40,
    }
    found = precision_recall_density_coverage(real, generated, k)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < found["precision"] < 1
    assert 0 < found["recall"] < 1


def test_neighbours_of_extreme_sets(monkeypatch):
    real = features(50, 0)
    assert precision_recall_density_coverage(real, real)["coverage"] == 1
    far = precision_recall_density_coverage(real, features(50, 1, shift=100.0))
    assert set(far.values()) == {0.0}
    one_point = precision_recall_density_coverage(real, real[:1].expand(50, -1).contiguous())
    assert (one_point["precision"], one_point["recall"]) == (1.0, 1 / 50)  # a collapsed generator
    whole = precision_recall_density_coverage(real, features(40, 2))
    monkeypatch.setattr("wavedp.metrics.neighbours.ROWS", 7)
    assert precision_recall_density_coverage(real, features(40, 2)) == whole
    with pytest.raises(UserError, match="5 images have no 5 nearest"):
        precision_recall_density_coverage(real[:5], real)


def test_the_bias_of_few_samples_is_extrapolated_away():
    """Of two sets with one law the distance is 0 in truth, and far from it at 200 samples of 64 dimensions."""
    generated, real = features(200, 0, dimensions=64), features(20_000, 1, dimensions=64)
    biased = frechet_distance_of(generated, real)
    value, error = frechet_distance_at_infinity(generated[:200], real)
    assert biased > 5
    assert abs(value) < 0.25 * biased
    assert 0 < error < biased


def test_kernel_subsets_against_clean_fid():
    left, right = features(300, 0, dimensions=64), features(250, 1, 0.1, dimensions=64)
    np.random.seed(0)  # clean-fid draws from it
    theirs = cleanfid.kernel_distance(left.numpy(), right.numpy(), num_subsets=400, max_subset_size=100)
    ours, error = kernel_distance_in_subsets(left, right, subsets=400, size=100)
    assert abs(ours - theirs) < 5 * math.sqrt(2) * error
    assert error < 0.2 * ours


def test_subsets_that_are_the_whole_have_no_error():
    left, right = features(60, 0), features(60, 1, 0.1)
    assert kernel_distance_in_subsets(left, right, subsets=5) == (kernel_distance_of(left, right), None)
    assert kernel_distance_in_subsets(left, right[:50], subsets=5)[1] > 0


@pytest.mark.parametrize("size", [(28, 28), (350, 310)])
def test_pytorch_mode_resizes_as_pytorch_fid(size):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, *size), dtype=np.uint8))
    theirs = build_resizer("legacy_pytorch")(image[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(pytorch_resize(image)[0].permute(1, 2, 0).numpy(), theirs, atol=1e-3)


METRICS = ("fid", "floor", "fid_infinity", "kid", "prdc", "spectrum")  # the others have tests of their own


def test_the_command_prints_every_number_under_its_name(tmp_path, capsys):
    save(tmp_path / "real", pixels(24))
    np.savez(tmp_path / "made.npz", pixels(12, seed=1))
    chosen = ["--metrics", *METRICS, "--json", str(tmp_path / "rows.jsonl"), "--cache", str(tmp_path / "cache")]
    assert command.main([str(tmp_path / "real"), str(tmp_path / "made.npz"), *chosen]) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    names = [row["metric"] for row in rows]
    shares = [f"{share}_clean_12_24" for share in ("precision", "recall", "density", "coverage")]
    assert names == [
        "fid_clean_12_24", "floor_fid_clean_12_12", "fid_infinity_clean_12_24", "kid_clean_12_24",
        "kid_subsets_clean_12_24", *shares, "spectrum_12_24",
    ]  # fmt: skip
    assert all(name in printed for name in names)
    assert "rank 11: this FID is for comparisons at the same counts only" in printed
    (fid,) = [row["value"] for row in rows if row["metric"] == "fid_clean_12_24"]
    looking = Looking(MetricsConfig(), tmp_path / "cache")
    real, made = (command.FileView(tmp_path / name, looking, None).features() for name in ("real", "made.npz"))
    assert fid == pytest.approx(frechet_distance_of(made, real))


def test_too_few_images_are_refused(tmp_path, capsys):
    save(tmp_path / "one", pixels(1))
    save(tmp_path / "some", pixels(6))
    assert command.main([str(tmp_path / "some"), str(tmp_path / "one"), "--metrics", "fid"]) == 2
    assert "GENERATED has 1 image, and a distance" in capsys.readouterr().err
    assert command.main([str(tmp_path / "some"), str(tmp_path / "some"), "--samples", "9"]) == 2
    assert "holds 6 images, and --samples asks for 9" in capsys.readouterr().err
    mixed = save(tmp_path / "some" / "wide", pixels(6, side=20)).parent
    assert command.main([str(mixed), str(mixed), "--metrics", "spectrum"]) == 2
    assert "all images of both sets in one size" in capsys.readouterr().err
