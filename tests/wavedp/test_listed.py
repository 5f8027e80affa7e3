"""MM-CelebA-HQ, COCO, CelebA and CIFAR-10 from small copies in their users' layouts: pairs, splits, and what is refused
before anything trains."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

from wavedp import checks, data
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure, from_dict
from wavedp.data import celeba, cifar10, get, pickles, picture
from wavedp.errors import UserError
from wavedp.testing.datasets import DatasetSuite

CONF = Path(__file__).parents[2] / "conf"


def config(name: str, root: Path, **changes) -> DataConfig:
    values = {"size": 16, "channels": 3, "path": str(root), "home": str(root.parent / "home"), **changes}
    return DataConfig(name=name, **values)


class TestMMCelebAHQ(DatasetSuite):
    def config(self, tmp_path):
        return config("mm_celeba_hq", layouts.mm_celeba_hq(tmp_path / "set"))


class TestMMCelebAHQByCelebA(DatasetSuite):
    def config(self, tmp_path):
        root = layouts.mm_celeba_hq(tmp_path / "set", range(20), (), "CelebA-HQ-img", ".png")
        return config("mm_celeba_hq", layouts.celeba_mapping(root, range(20)), split="celeba")


class TestCoco(DatasetSuite):
    def config(self, tmp_path):
        return config("coco", layouts.coco(tmp_path / "set"))


class TestCelebA(DatasetSuite):
    def config(self, tmp_path):
        return config("celeba", layouts.celeba(tmp_path / "set"), attribute="Smiling")


class TestCifar10(DatasetSuite):
    def config(self, tmp_path):
        return config("cifar10", layouts.cifar10(tmp_path / "set"), size=32)


def refused(asked: DataConfig, words: str, split: str = "train", ask=data.n_records) -> None:
    with pytest.raises(UserError, match=words) as error:
        ask(asked, split)
    assert ": " in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def pairs(asked: DataConfig, split: str = "train") -> dict[str, bytes]:
    """{captions: pixels}."""
    loaded = data.load(asked, split)
    return {said: image.tobytes() for said, image in zip(loaded.captions, loaded.images, strict=True)}


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(picture, "load", refuse)


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 32), (33, 20), (30, 25), (25, 30), (24, 27), (8, 9)])
def test_square_is_torchvisions_centre_crop_and_lanczos(shape):
    from torchvision.transforms import functional

    image = Image.fromarray(layouts.pixels("a", *shape))
    expected = functional.center_crop(image, min(image.size)).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(picture.square(image, 16)), np.asarray(expected))


@pytest.mark.parametrize("name", ["mm_celeba_hq", "coco", "celeba"])
def test_cmyk_and_16_bits_are_read_rightly_and_a_broken_file_is_named(tmp_path, name):
    root = getattr(layouts, name)(tmp_path / "set")
    asked = config(name, root)
    files = data.record_files(asked, "train")
    Image.new("CMYK", (24, 24), (0, 255, 255, 0)).save(files[1])  # no cyan, all magenta and yellow: red
    Image.fromarray(np.full((24, 24), 32896, np.uint16)).save(files[2], format="PNG")  # half of white
    images = data.load(asked, "train").images
    assert np.abs(images[1].astype(int).mean((1, 2)) - (255, 0, 0)).max() < 4
    assert (images[2] == 128).all()
    whole = files[3].read_bytes()
    files[3].write_bytes(whole[: len(whole) // 2])
    refused(asked, rf"{files[3].name} cannot be read \(", ask=data.fingerprint)


@pytest.mark.parametrize("name", ["mm_celeba_hq", "coco", "celeba", "cifar10"])
def test_pick_gives_what_load_gives_and_decodes_nothing_else(tmp_path, name, monkeypatch):
    asked = config(name, getattr(layouts, name)(tmp_path / "set"), size=32)
    loaded = data.load(asked, "train")
    decoded, original = [], picture.load
    monkeypatch.setattr(picture, "load", lambda path, *rest: decoded.append(path) or original(path, *rest))
    images, labels, captions = data.pick(asked, "train", [3, 0, 3])
    assert np.array_equal(images, loaded.images[[3, 0, 3]])
    assert np.array_equal(labels, loaded.labels[[3, 0, 3]])
    assert captions == (loaded.captions and tuple(loaded.captions[i] for i in (3, 0, 3)))
    if files := data.record_files(asked, "train"):
        assert decoded == [files[3], files[0], files[3]]


@pytest.mark.parametrize("name", ["mm_celeba_hq", "coco", "celeba"])
def test_counts_captions_and_classes_decode_nothing(tmp_path, name, no_decoding):
    asked = config(name, getattr(layouts, name)(tmp_path / "set"))
    captioned = name != "celeba"
    assert data.has_captions(asked) is captioned
    assert (
        data.n_records(asked, "train") == len(data.captions(asked, "train")) == len(data.record_files(asked, "train"))
    )
    assert set(data.captions(asked, "train")) <= set(data.class_names(asked)) or captioned
    assert set(data.record_files(asked, "train")) < set(data.files(asked))


def test_records_of_any_list_are_found_again_after_an_edit(tmp_path):
    asked = config("mm_celeba_hq", layouts.mm_celeba_hq(tmp_path / "set"))
    assert data.n_records(asked, "train") == 12
    (tmp_path / "set" / "train" / "filenames.pickle").write_bytes(layouts.python2(["3", "4"]))
    assert data.n_records(asked, "train") == 2
    (tmp_path / "set" / "celeba-caption" / "3.txt").write_text("another\ncaption\n")
    assert "another\ncaption" in data.captions(asked, "train")
    assert "another\ncaption" in data.load(asked, "train").captions


# --- mm_celeba_hq -----------------------------------------------------------------------------------------------------


def test_a_face_has_its_ten_captions_and_its_own_image(tmp_path):
    root = layouts.mm_celeba_hq(tmp_path / "set", suffix=".png")
    loaded = data.load(config("mm_celeba_hq", root, size=24), "train")
    numbers = []
    for image, said in zip(loaded.images, loaded.captions, strict=True):
        number = int(said.split()[1])
        assert said.count("\n") == 9
        assert np.array_equal(image.transpose(1, 2, 0), layouts.pixels(f"face {number}"))
        numbers.append(number)
    assert sorted(numbers) == list(range(12))
    assert loaded.classes == ("face",)


@pytest.mark.parametrize(
    "lists", ["{}/filenames.pickle", "{}_filenames.pickle", "{}/filenames.txt", "{}_filenames.txt", "{}.txt"]
)
def test_every_kind_of_list_in_any_order_gives_the_same_pairs(tmp_path, lists):
    expected = config("mm_celeba_hq", layouts.mm_celeba_hq(tmp_path / "sorted"))
    ids = list(range(12))
    random.Random(1).shuffle(ids)
    root = layouts.mm_celeba_hq(tmp_path / "shuffled", ids, range(17, 11, -1), "CelebA-HQ-img", lists=lists)
    asked = config("mm_celeba_hq", root)
    for split in ("train", "test"):
        assert pairs(asked, split) == pairs(expected, split)
        assert data.fingerprint(asked, split) == data.fingerprint(expected, split)


@pytest.mark.parametrize("entry", ["7.jpg", "CelebA-HQ-img/7.jpg", "00007", "7\r"])
def test_a_list_may_name_files_and_pad_its_numbers(tmp_path, entry):
    root = layouts.mm_celeba_hq(tmp_path / "set", lists="{}.txt")
    (root / "train.txt").write_text(f"{entry}\n\n")
    assert "face 7 " in data.captions(config("mm_celeba_hq", root), "train")[0]


def test_pairs_are_by_id_though_files_were_written_in_another_order(tmp_path):
    """LDM's loader opens images by position and captions by id: right only for a list 0, 1, 2, ..."""
    root = layouts.mm_celeba_hq(tmp_path / "set", [5, 3, 11, 4], [7, 9], suffix=".png")
    loaded = data.load(config("mm_celeba_hq", root, size=24), "train")
    for image, said in zip(loaded.images, loaded.captions, strict=True):
        assert np.array_equal(image.transpose(1, 2, 0), layouts.pixels(f"face {said.split()[1]}"))


def test_the_second_split_is_celebas(tmp_path):
    root = layouts.celeba_mapping(layouts.mm_celeba_hq(tmp_path / "set", range(15), range(15, 20)), range(20))
    official = config("mm_celeba_hq", root)
    asked = dataclasses.replace(official, split="celeba")
    assert [data.n_records(asked, split) for split in ("train", "val", "test")] == [14, 2, 4]
    assert [data.n_records(official, split) for split in ("train", "test")] == [15, 5]
    assert {said.split()[1] for said in data.captions(asked, "val")} == {"7", "17"}
    refused(official, "no val split with data.split=official, only train and test images", "val")
    (root / "list_eval_partition.txt").write_text("001001.jpg 0\n")
    refused(asked, "001002.jpg of .*mapping.txt is not in list_eval_partition")


def _without(name):
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def _also(*parts):
    return lambda root: (root / parts[0]).write_bytes(parts[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("image/3.jpg"), "celeba-caption/3.txt has no image 3 in .*image"),
        (_without("celeba-caption/3.txt"), "image/3.jpg has no captions: add .*celeba-caption/3.txt"),
        (_also("celeba-caption/3.txt", b" \n\n"), "3.txt holds no caption for .*image/3.jpg"),
        (_also("celeba-caption/3.txt", b"\xff\xfe\x00"), "3.txt cannot be read as UTF-8"),
        (_also("celeba-caption/99.txt", b"a face"), "99.txt has no image 99 in"),
        (_without("celeba-caption"), "has no celeba-caption: .*python -m wavedp.data.get mm_celeba_hq"),
        (_without("image"), "has no image or images or CelebA-HQ-img: "),
        (_without("train"), "has no train/filenames.pickle or train_filenames.pickle or "),
        (_also("image/3.png", b""), "image/3.jpg and .*image/3.png are both number 3"),
        (_also("image/03.jpg", b""), "are both number 3"),
        (_also("image/a.jpg", b""), "'a.jpg' of .* is not the number of an image"),
        (_also("train.txt", b"1"), "both list the train images"),
        (_also("test/filenames.pickle", layouts.python2(["12", "40"])), "image 40 of the test list has no file in"),
        (_also("test/filenames.pickle", layouts.python2(["12", "3"])), "image 3 is in the train list and again in the"),
        (_also("test/filenames.pickle", layouts.python2(["12", "12"])), "image 12 is in the test list and again in"),
        (lambda root: layouts.picture(root / "CelebA-HQ-img" / "0.jpg", "a"), "both hold images"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_decoded(tmp_path, change, words, no_decoding):
    root = layouts.mm_celeba_hq(tmp_path / "set")
    change(root)
    refused(config("mm_celeba_hq", root), words, ask=data.fingerprint)


# --- pickles ----------------------------------------------------------------------------------------------------------


class Payload:
    """What an attacker pickles: reading it with pickle.load makes a folder."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def malicious(place: Path) -> list[bytes]:
    """The payload alone, in a list of names, below a dict, and as the state of something harmless."""
    payload = Payload(place)
    values = (payload, ["0", payload], {"data": payload})
    return [
        *(pickle.dumps(value, protocol) for protocol in range(6) for value in values),
        b"cos\nmkdir\n(V" + str(place).encode() + b"\ntR.",
        b"(lp0\n(cos\nmkdir\nV" + str(place).encode() + b"\noa.",  # OBJ
        b"(V" + str(place).encode() + b"\nios\nmkdir\n.",  # INST
        b"\x80\x02c__builtin__\neval\n(U\x18__import__('os').abort()tR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x04pass\x85R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x06__dict__U\x01asb.",  # the state of a function
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct.__globals__\n.",
    ]  # fmt: skip


def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path):
    place = tmp_path / "pwned"
    pickle.loads(malicious(place)[0])
    assert place.is_dir(), "the payload works where it is allowed to"
    place.rmdir()
    root, asked = layouts.mm_celeba_hq(tmp_path / "set"), config("mm_celeba_hq", tmp_path / "set")
    batches = layouts.cifar10(tmp_path / "batches") / "cifar-10-batches-py"
    for content in malicious(place):
        (root / "train" / "filenames.pickle").write_bytes(content)
        (batches / "data_batch_3").write_bytes(content)
        refused(asked, "train/filenames.pickle (is not read .*nothing in it was run|holds .* a list of strings)")
        refused(config("cifar10", batches, size=32), "data_batch_3 (is not read|holds)")
        assert not place.exists()
    (root / "train" / "filenames.pickle").write_bytes(malicious(place)[1])
    refused(asked, r"it asks for (posix|nt|os)\.mkdir")


@pytest.mark.parametrize(
    "value", [{"0": "1"}, ("0", "1"), ["0", 1], [["0"]], [b"0"], "0", None, 3, {"a"}, ["0", None], [1.5]]
)
def test_a_pickle_of_anything_but_a_list_of_strings_is_refused(tmp_path, value):
    (tmp_path / "list.pickle").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(UserError, match=r"list\.pickle (holds|is not read)"):
        pickles.strings(tmp_path / "list.pickle")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_of_every_protocol_are_read(tmp_path, protocol):
    names = [str(number) for number in range(3000)] + ["é"]
    (tmp_path / "list.pickle").write_bytes(pickle.dumps(names, protocol))
    assert pickles.strings(tmp_path / "list.pickle") == names


def test_a_damaged_pickle_is_named(tmp_path):
    for content in (b"", b"\x80\x02](U\x01a", b"1\n2\n3\n", os.urandom(100)):
        (tmp_path / "list.pickle").write_bytes(content)
        with pytest.raises(UserError, match=r"list\.pickle (holds|is not read)"):
            pickles.strings(tmp_path / "list.pickle")


# --- coco -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("year", "split"), [(2014, "official"), (2017, "coco2017")])
def test_a_photograph_is_one_record_with_all_its_captions(tmp_path, year, split):
    asked = config("coco", layouts.coco(tmp_path / "set", year=year), split=split)
    train, val, test = (data.load(asked, part) for part in ("train", "val", "test"))
    assert (len(train.labels), len(val.labels)) == (10, 6)
    assert val.fingerprint == test.fingerprint
    by_number = {int(said.split()[1]): said.split("\n") for said in train.captions}
    assert set(by_number) == set(range(9, 19))
    assert [len(by_number[number]) for number in (9, 10)] == [6, 5]
    assert by_number[9][2] == "Photograph 9 seen by person 2."
    for file, said in zip(data.record_files(asked, "train"), train.captions, strict=True):
        assert int(file.stem[-12:]) == int(said.split()[1])
    refused(
        dataclasses.replace(asked, split="coco2017" if year == 2014 else "official"), "has no annotations/captions_"
    )


def test_captions_and_images_in_another_order_give_the_same_pairs(tmp_path):
    expected, root = config("coco", layouts.coco(tmp_path / "a")), layouts.coco(tmp_path / "b")
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for name in ("images", "annotations"):
            random.Random(name).shuffle(content[name])
        file.write_text(json.dumps(content))
    asked = config("coco", root)
    assert pairs(asked) == pairs(expected)
    assert data.fingerprint(asked, "val") == data.fingerprint(expected, "val")


def test_images_may_lie_one_folder_deeper_and_half_a_set_is_one(tmp_path):
    root = layouts.coco(tmp_path / "set")
    (root / "images").mkdir()
    (root / "val2014").rename(root / "images" / "val2014")
    shutil.rmtree(root / "train2014")
    (root / "annotations" / "captions_train2014.json").unlink()
    assert data.n_records(config("coco", root), "test") == 6
    refused(config("coco", root), "no train split with data.split=official, only val and test images")


def _edit(change, part="train"):
    def edit(root):
        file = root / "annotations" / f"captions_{part}2014.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def _of_12(content, others=False):
    return [each for each in content["annotations"] if (each["image_id"] == 12) != others]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("annotations/captions_train2014.json"), "has no annotations/captions_train2014.json: "),
        (_without("train2014"), "has no train2014 or images/train2014: "),
        (_without("train2014/COCO_train2014_000000000012.jpg"), "image 12 of .*json has no file .*0012.jpg"),
        (_also("train2014/COCO_train2014_000000000099.jpg", b""), "0099.jpg has no caption in .*json"),
        (_edit(lambda c: c.update(annotations=_of_12(c, others=True))), "image 12 .*has no caption in"),
        (_edit(lambda c: [each.update(caption=" ") for each in _of_12(c)]), "image 12 .*has no caption in"),
        (_edit(lambda c: c["annotations"][0].update(image_id=7)), "is for image 7, which its `images` lack"),
        (_edit(lambda c: c["images"].append(c["images"][0])), "lists an image twice"),
        (_edit(lambda c: c.pop("images")), "is not COCO's file of captions .KeyError: 'images'"),
        (_also("annotations/captions_train2014.json", b"{"), "is not COCO's file of captions .JSONDecodeError"),
        (_also("annotations/captions_train2014.json", b"[1]"), "is not COCO's file of captions .TypeError"),
    ],
)  # fmt: skip
def test_annotations_that_do_not_fit_are_refused_before_anything_is_decoded(tmp_path, change, words, no_decoding):
    root = layouts.coco(tmp_path / "set")
    change(root)
    refused(config("coco", root), words, ask=data.fingerprint)


# --- celeba -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kaggle", [False, True])
def test_a_label_is_one_attribute(tmp_path, kaggle):
    asked = config("celeba", layouts.celeba(tmp_path / "set", kaggle=kaggle))
    assert [data.n_records(asked, split) for split in ("train", "val", "test")] == [12, 4, 4]
    assert data.class_names(asked) == ("not Male", "Male")
    smiling = dataclasses.replace(asked, attribute="Smiling")
    assert data.class_names(smiling) == ("not Smiling", "Smiling")
    train, other = data.load(asked, "train"), data.load(smiling, "train")
    numbers = [int(file.stem) for file in data.record_files(asked, "train")]
    assert train.labels.tolist() == [number % 2 == 0 for number in numbers]
    assert other.labels.tolist() == [number < 6 for number in numbers]
    assert train.fingerprint != other.fingerprint
    assert train.captions is None
    refused(
        dataclasses.replace(asked, attribute="Tall"), "data.attribute=Tall is not in .*: use one of .*Male, Smiling"
    )


def test_published_and_kaggle_lists_are_the_same_set(tmp_path):
    a = config("celeba", layouts.celeba(tmp_path / "a"))
    b = config("celeba", layouts.celeba(tmp_path / "b", kaggle=True))
    assert data.fingerprint(a, "train") == data.fingerprint(b, "train")


def test_only_celeba_reads_an_attribute(tmp_path):
    asked = config("coco", layouts.coco(tmp_path / "set"), attribute="Male")
    refused(asked, "data.attribute is not read by coco: use celeba, or leave it out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("list_attr_celeba.txt"), "has no list_attr_celeba.txt or Anno/list_attr_celeba.txt or "),
        (_without("list_eval_partition.txt"), "has no list_eval_partition.txt or "),
        (_without("img_align_celeba"), "has no img_align_celeba/img_align_celeba or img_align_celeba or "),
        (_without("img_align_celeba/000003.jpg"), "000003.jpg of list_eval_partition is not in img_align_celeba of"),
        (_also("img_align_celeba/000099.jpg", b""), "000099.jpg is not in list_eval_partition of"),
        (_also("list_eval_partition.txt", b"000001.jpg 3\n"), "says 3 of 000001.jpg"),
        (_also("list_eval_partition.txt", b"000001.jpg\n"), "has 1 cells in line 1, not 2"),
        (_also("list_attr_celeba.txt", b"1\nMale\n000001.jpg 1\n"), "is not in list_attr_celeba of"),
        (_also("list_attr_celeba.txt", b""), "data.attribute=Male is not in"),
    ],
)
def test_lists_that_do_not_fit_are_refused_before_anything_is_decoded(tmp_path, change, words, no_decoding):
    root = layouts.celeba(tmp_path / "set")
    change(root)
    refused(config("celeba", root), words, ask=data.fingerprint)


def test_dpimagebench_divides_celeba_and_cifar10_as_torch_does(tmp_path, monkeypatch):
    import torch

    asked = config("celeba", layouts.celeba(tmp_path / "faces"), split="dpimagebench")
    refused(asked, "needs more than 145,064 train images, and 12 are here")
    monkeypatch.setattr(celeba, "BENCHMARK_TRAIN", 9)
    official = sorted(file.name for file in data.record_files(dataclasses.replace(asked, split="official"), "train"))
    (tmp_path / "faces" / "list_eval_partition.txt").touch()  # what was found before is asked again
    torch.manual_seed(0)
    parts = torch.utils.data.random_split(official, [9, 3])
    for split, part in zip(("train", "val"), parts, strict=True):
        assert {file.name for file in data.record_files(asked, split)} == set(part)
    assert data.n_records(asked, "test") == 4

    asked = config("cifar10", layouts.cifar10(tmp_path / "set"), size=32, split="dpimagebench")
    refused(asked, "needs more than 45,000 train images, and 20 are here")
    monkeypatch.setattr(cifar10, "BENCHMARK_TRAIN", 15)
    whole = data.load(dataclasses.replace(asked, split="official"), "train").images
    torch.manual_seed(0)
    parts = torch.utils.data.random_split(range(20), [15, 5])
    for split, part in zip(("train", "val"), parts, strict=True):
        assert np.array_equal(data.load(asked, split).images, whole[list(part)])


# --- cifar10 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [None, 1, 2, 3, 4])
def test_batches_as_python_2_and_3_pickle_them(tmp_path, protocol):
    asked = config("cifar10", layouts.cifar10(tmp_path / "set", protocol=protocol), size=32)
    train, test = data.load(asked, "train"), data.load(asked, "test")
    assert (train.images.shape, test.images.shape) == ((20, 3, 32, 32), (4, 3, 32, 32))
    assert train.classes == layouts.CLASSES
    for number in range(20):
        name = f"data_batch_{1 + number // 4}_{number % 4}.png"
        assert np.array_equal(train.images[number].transpose(1, 2, 0), layouts.pixels(name, 32, 32))
    assert test.labels.tolist() == [0, 1, 2, 3]
    below = dataclasses.replace(asked, path=str(tmp_path / "set" / "cifar-10-batches-py"))
    assert data.fingerprint(below, "train") == train.fingerprint


def test_python_2s_batches_are_what_numpy_reads_of_them(tmp_path):
    """The layouts' hand-written pickle is one that a plain reader takes for the same arrays."""
    rows = np.arange(24, dtype=np.uint8).reshape(2, 12)
    read = pickle.loads(layouts.python2({"data": rows, "labels": [3, 300]}), encoding="latin1")
    assert np.array_equal(read["data"], rows)
    assert read["labels"] == [3, 300]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data_batch_2", {"data": np.zeros((2, 9), np.uint8), "labels": [0, 1]}, "is not a batch of CIFAR-10"),
        ("data_batch_2", {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "is not a batch of CIFAR-10"),
        ("data_batch_2", {"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "is not a batch of CIFAR-10"),
        ("data_batch_2", {"labels": [0]}, "is not a batch of CIFAR-10"),
        ("data_batch_2", [1], "holds list where a dict"),
        ("data_batch_2", {"data": np.zeros((2, 3072)), "labels": [0, 1]}, "an array is of type 'f8', not uint8"),
        ("data_batch_2", {"data": [[1]], "labels": [0, 1]}, "holds list where text, numbers"),
        ("batches.meta", {"label_names": []}, "has no label_names"),
        ("data_batch_2", None, "data_batch_2 is missing: .*wavedp.data.get cifar10"),
        ("batches.meta", None, "has no batches.meta: .*wavedp.data.get cifar10"),
    ],
)
def test_batches_that_are_none_are_refused(tmp_path, name, content, words):
    asked = config("cifar10", layouts.cifar10(tmp_path / "set"), size=32)
    file = tmp_path / "set" / "cifar-10-batches-py" / name
    file.unlink() if content is None else file.write_bytes(pickle.dumps(content, 4))
    refused(asked, words, ask=data.fingerprint)


def test_cifar10_is_32_pixels_in_colour(tmp_path):
    root = layouts.cifar10(tmp_path / "set")
    for changes in ({"size": 16}, {"channels": 1, "size": 32}):
        with pytest.raises(UserError, match="cifar10 is RGB and 32x32"):
            data.load(config("cifar10", root, **changes), "train")
    refused(config("cifar10", root, size=32), "no official val split", "val")


# --- where to obtain them, and who has seen them ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mm_celeba_hq", "coco", "celeba", "cifar10"])
def test_a_set_that_is_not_fetched_is_described_and_its_path_asked_for(name, tmp_path, capsys):
    assert get.main([name]) == 1
    said = capsys.readouterr().out
    assert f"data={name} data.path=ROOT" in said
    assert "ROOT/" in said
    values = {"size": 32, "channels": 3, "home": str(tmp_path)}
    for path, words in ((None, "needs data.path"), (str(tmp_path / "none"), "data.path=.*none")):
        with pytest.raises(UserError, match=words):
            data.n_records(DataConfig(name=name, path=path, **values), "train")


def trial(images: DataConfig, upscaler, **changes) -> TrialConfig:
    return TrialConfig(
        data=images,
        public=DataConfig(name="procedural", split="public", size=32, channels=3, n_records=64),
        privacy=PrivacyConfig(batch_size=4, steps=2, delta=1e-2),
        sampling=SamplingConfig(n=4),
        upscaler=upscaler,
        metrics=MetricsConfig(fid_samples=4, reference_samples=4, downstream_steps=0, kid=False, floor=False),
        **changes,
    )


@pytest.mark.parametrize(
    ("name", "upscaler", "words"),
    [
        ("coco", "sd_x4", "upscaler=sd_x4 was trained on LAION, which may hold images or captions of coco: find out"),
        ("coco", "ldm_sr", "upscaler=ldm_sr was trained on Open Images, which may hold"),
        ("celeba", "sd_x4", "may hold images or captions of celeba"),
        ("mm_celeba_hq", "sd_x4", "may hold images or captions of mm_celeba_hq"),
        ("mm_celeba_hq", "animevideov3_x2", "nobody says what upscaler=animevideov3_x2 was trained on, and"),
        ("coco", "realesrgan_x4plus", None),
        ("coco", "bicubic", None),
        ("coco", "wavelet_detail", None),
        ("celeba", "ldm_sr", None),
    ],
)  # fmt: skip
def test_an_upscaler_that_may_have_seen_a_public_set_is_warned_of(tmp_path, name, upscaler, words):
    images = config(name, getattr(layouts, name)(tmp_path / "set"), size=32)
    options = {"path": str(tmp_path)} if upscaler in ("sd_x4", "ldm_sr") else {}
    warned = [sentence for sentence in checks.check(trial(images, configure("upscaler", upscaler, **options)))
              if "no ε covers" in sentence]  # fmt: skip
    assert len(warned) == (words is not None)
    assert words is None or words in warned[0]


def test_nobody_is_warned_of_images_that_are_not_public_or_not_used(tmp_path):
    upscaler = configure("upscaler", "sd_x4", path=str(tmp_path))
    own = DataConfig(name="procedural", size=32, channels=3, n_records=64)
    assert not [sentence for sentence in checks.check(trial(own, upscaler)) if "LAION" in sentence]
    images = config("coco", layouts.coco(tmp_path / "set"), size=32)
    unused = dataclasses.replace(trial(images, upscaler), privacy=PrivacyConfig(epsilon=0))
    assert not [sentence for sentence in checks.check(unused) if "LAION" in sentence]


def test_public_images_that_may_be_another_crop_of_the_sensitive_ones_are_warned_of(tmp_path):
    faces = config("mm_celeba_hq", layouts.mm_celeba_hq(tmp_path / "faces"), size=32)
    celeba_images = config("celeba", layouts.celeba(tmp_path / "celeba"), size=32)
    photographs = config("coco", layouts.coco(tmp_path / "coco"), size=32)
    pretrained = configure("generator", "spectral_ar", pretrain_steps=1)
    for images, public, warns in ((faces, celeba_images, True), (photographs, celeba_images, False)):
        asked = dataclasses.replace(trial(images, "bicubic", generator=pretrained), public=public)
        found = [sentence for sentence in checks.check(asked) if "the public images are of CelebA" in sentence]
        assert len(found) == warns


def test_a_model_for_faces_is_warned_of_wherever_celeba_lies():
    from wavedp.upscalers import face_warning

    for name, warns in (("celeba", True), ("mm_celeba_hq", True), ("coco", False)):
        images = DataConfig(name=name, path="/data/set", size=32, channels=3)
        assert bool(face_warning(trial(images, "bicubic"), True, "GFPGANv1.4.pth")) is warns


def test_the_encoder_of_captions_saw_cocos(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photograph\n")
    for name, warns in (("coco", True), ("mm_celeba_hq", False)):
        images = config(name, getattr(layouts, name)(tmp_path / name), size=32)
        asked = trial(
            images, "bicubic", generator=configure("generator", "spectral_ar", conditioning="text", pretrain_steps=0)
        )
        asked = dataclasses.replace(asked, sampling=SamplingConfig(n=4, prompts=str(prompts)))
        found = [sentence for sentence in checks.check(asked) if "MiniLM" in sentence]
        assert len(found) == warns


# --- as the command composes them -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "divisions"),
    [
        ("mm_celeba_hq", 256, ("official", "celeba")),
        ("coco", 256, ("official", "coco2017")),
        ("celeba", 32, ("official", "dpimagebench")),
        ("cifar10", 32, ("official", "dpimagebench")),
    ],
)
def test_the_shipped_configuration_names_size_and_division(name, size, divisions):
    import hydra
    from omegaconf import OmegaConf

    assert divisions == data.source_of(name).DIVISIONS
    for division in divisions:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra.compose("config", [f"data={name}", "data.path=/data", f"data.split={division}"])
        asked = from_dict(DataConfig, OmegaConf.to_container(composed.data, resolve=True))
        assert (asked.name, asked.split, asked.size, asked.channels) == (name, division, size, 3)
        assert data.shape(asked) == (3, size, size)
        assert asked.attribute == ("Male" if name == "celeba" else None)
