"""Artifacts carried in a tar: all that was published and nothing else, verified before anything is published."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import pytest

from wavedp.errors import UserError
from wavedp.store import MANIFEST, Draft, Store, carry, sha256
from wavedp.store.carry import pack, unpack

ROOT = Path(__file__).parents[2]
FIT, SAMPLES, NEAR = "ab" * 32, "cd" * 32, "ab" * 31 + "cd"


def draft(value: int) -> Draft:
    made = Draft()
    made.files["weights.safetensors"] = bytes([value]) * 3000
    made.json("note", {"value": value})
    return made


def everything(store: Store) -> dict[str, bytes]:
    """Every file of a store, by its path."""
    return {path.removeprefix(store.path): store.fs.cat_file(path) for path in store.fs.find(store.path)}


@pytest.fixture
def home(tmp_path) -> Store:
    """Three artifacts, and all that may lie beside them."""
    store = Store(str(tmp_path / "home"))
    store.publish("private_fit", FIT, draft(1))
    store.publish("coarse_samples", SAMPLES, draft(2))
    store.publish("upscale", NEAR, draft(3))
    (store.work_folder("private_fit", "ee" * 32) / "checkpoint.safetensors").write_bytes(b"noise generator")
    with store.lock("private_fit", FIT):
        pass
    for beside in (
        f"private_fit/{SAMPLES}.corrupted",
        "private_fit/.ababababab-x1",
        "work/" + "ff" * 32,
        ".hidden/" + "ff" * 32,
    ):
        (Path(store.path) / beside).mkdir(parents=True)
        (Path(store.path) / beside / MANIFEST).write_text("{}")
    (Path(store.path) / "private_fit" / ("99" * 32)).mkdir()  # a crash left it without a manifest
    return store


@pytest.fixture(params=["local", "memory"])
def there(request, tmp_path) -> Store:
    yield Store(str(tmp_path / "there") if request.param == "local" else "memory://there")
    fsspec.filesystem("memory").store.clear()


def test_everything_published_travels_and_nothing_else(home, there, tmp_path):
    file = tmp_path / "all.tar"
    before = everything(home)
    assert pack(home, file) == 3
    assert everything(home) == before
    with tarfile.open(file) as archive:
        names = archive.getnames()
    kinds = {("private_fit", FIT), ("coarse_samples", SAMPLES), ("upscale", NEAR)}
    assert {tuple(name.split("/")[:2]) for name in names} == kinds
    assert unpack(there, file) == (3, 0)
    for stage, key in kinds:
        assert there.open(stage, key) == home.open(stage, key)
    assert not any("work" in path or path.rsplit("/", 1)[-1].startswith(".") for path in everything(there))
    again = tmp_path / "again.tar"
    assert pack(there, again) == 3
    assert again.read_bytes() == file.read_bytes()  # no dates, no owners


def test_the_first_artifact_wins_and_is_counted(home, there, tmp_path):
    pack(home, tmp_path / "all.tar")
    there.publish("private_fit", FIT, draft(9))
    assert unpack(there, tmp_path / "all.tar") == (2, 1)
    assert there.open("private_fit", FIT).json("note") == {"value": 9}
    assert unpack(there, tmp_path / "all.tar") == (0, 3)


@pytest.mark.filterwarnings("ignore:.* is damaged")
def test_a_corrupted_artifact_there_is_replaced(home, there, tmp_path):
    pack(home, tmp_path / "all.tar")
    unpack(there, tmp_path / "all.tar")
    (path,) = (path for path in there.fs.find(f"{there.path}/private_fit/{FIT}") if path.endswith("note.json"))
    there.fs.pipe_file(path, b"{}")
    assert unpack(there, tmp_path / "all.tar") == (1, 2)
    assert there.open("private_fit", FIT).json("note") == {"value": 1}


@pytest.mark.parametrize(
    ("keys", "stages", "count"),
    [
        ([FIT], [], 1),
        (["cdcdcdcd"], [], 1),
        ([FIT, "cdcdcdcd"], [], 2),
        ([], ["private_fit", "upscale"], 2),
        (["abababab"], ["upscale"], 1),
        ([NEAR[:-1]], [], 1),
    ],
)
def test_keys_and_stages_choose(home, keys, stages, count, tmp_path):
    assert pack(home, tmp_path / "x.tar", keys, stages) == count


@pytest.mark.parametrize(
    ("keys", "stages", "message"),
    [
        (["abababab"], [], rf"fits 2 keys: give more digits, as {FIT} or {NEAR}"),
        (["abababa"], [], "abababa is not a key: give 8 to 64"),
        (["ABABABAB"], [], "is not a key"),
        (["12345678"], [], "no artifact in .* has key 12345678"),
        (["cdcdcdcd"], ["private_fit"], "no artifact in .* has key cdcdcdcd"),
        (["ee" * 32], [], "no artifact"),
        ([], ["work"], r"no artifacts of stage 'work': use coarse_samples, private_fit, upscale\."),
    ],
)
def test_a_choice_that_fits_nothing_or_too_much_is_refused(home, keys, stages, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pack(home, tmp_path / "x.tar", keys, stages)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.filterwarnings("ignore:.* is damaged")
def test_a_corrupted_artifact_is_not_packed(home, tmp_path):
    Path(home.path, "upscale", NEAR, "note.json").write_text("{}", encoding="utf-8")
    (tmp_path / "x.tar").write_bytes(b"old")
    with pytest.raises(UserError, match=f"upscale/{NEAR} in .* was corrupted"):
        pack(home, tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == b"old"
    assert pack(home, tmp_path / "x.tar") == 2
    with pytest.raises(UserError, match="holds no artifacts"):
        pack(Store(str(tmp_path / "empty")), tmp_path / "y.tar")


def test_a_truncated_tar_publishes_nothing(home, there, tmp_path):
    file = tmp_path / "all.tar"
    pack(home, file)
    whole = file.read_bytes()
    with tarfile.open(file) as archive:
        starts = [member.offset for member in archive]
        content_end = archive.members[-1].offset_data + archive.members[-1].size
    for length in {0, 100, *starts[1:], *(start + 700 for start in starts), content_end, -(-content_end // 512) * 512}:
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"all\.tar is not a whole tar of artifacts .*: copy it again, or write it"):
            unpack(there, file)
        assert everything(there) == {}, length


def test_an_empty_or_compressed_tar_is_refused(home, there, tmp_path):
    with pytest.raises(UserError, match="it is empty"):
        unpack(there, tar(tmp_path / "empty.tar", {}))
    pack(home, tmp_path / "all.tar")
    (tmp_path / "all.tar.gz").write_bytes(gzip.compress((tmp_path / "all.tar").read_bytes()))
    with pytest.raises(UserError, match="not a plain tar"):
        unpack(there, tmp_path / "all.tar.gz")


def test_a_flipped_bit_publishes_nothing(home, there, tmp_path):
    file = tmp_path / "all.tar"
    pack(home, file)
    whole = file.read_bytes()
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    # In every content, and in every header: its name, its size, its type.
    places = [member.offset_data + member.size // 2 for member in members]
    places += [member.offset + at for member in members for at in (3, 130, 156)]
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError):
            unpack(there, file)
        assert everything(there) == {}, place


def test_a_file_that_changes_after_it_was_verified_is_not_published(home, there, tmp_path, monkeypatch):
    file = tmp_path / "x.tar"
    pack(home, file, stages=["upscale"])
    verified = carry._verified

    def then_changed(*arguments):
        contents = verified(*arguments)
        file.write_bytes(file.read_bytes().replace(bytes([3]) * 3000, bytes([4]) * 3000))
        return contents

    monkeypatch.setattr(carry, "_verified", then_changed)
    with pytest.raises(UserError, match="changed while it was read"):
        unpack(there, file)
    assert everything(there) == {}


def tar(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE, **fields) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content) if kind == tarfile.REGTYPE else 0, kind
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        f"../fit/{FIT}/x.json",
        f"fit/{FIT}/../x.json",
        f"/fit/{FIT}/x.json",
        f"fit/{FIT}/sub/x.json",
        f"fit/{FIT}",
        f"fit/{FIT[:-1]}/x.json",
        f"fit/{FIT.upper()}/x.json",
        f"fit/{FIT}.corrupted/x.json",
        f"fit/{FIT}/.x.json",
        f"fit/{FIT}/..",
        f"work/{FIT}/checkpoint.safetensors",
        f".fit/{FIT}/x.json",
        f"fit/{FIT}/x.json\n",
        "work/locks/x",
    ],
)
def test_a_member_that_is_not_an_artifacts_file_is_refused(name, there, tmp_path):
    content = b"{}"
    manifest = json.dumps({name.rsplit("/", 1)[-1]: sha256(content)}).encode()
    good = {f"fit/{SAMPLES}/{MANIFEST}": json.dumps({"x.json": sha256(content)}).encode()}
    good |= {f"fit/{SAMPLES}/x.json": content}
    members = {**good, f"{name.rsplit('/', 1)[0]}/{MANIFEST}": manifest, name: content}
    with pytest.raises(UserError, match="which is not a file <stage>/<key>/<name> of an artifact: unpack only"):
        unpack(there, tar(tmp_path / "x.tar", members))
    assert everything(there) == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_refused(kind, there, tmp_path):
    file = tar(tmp_path / "x.tar", {f"fit/{FIT}/x.json": b""}, kind, linkname="/etc/passwd")
    with pytest.raises(UserError, match="which is not a file"):
        unpack(there, file)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, f"has no readable {MANIFEST}"),
        (b"{broken", f"has no readable {MANIFEST}"),
        (b"[]", f"has no readable {MANIFEST}"),
        (json.dumps({"x.json": "0" * 64}).encode(), r"x\.json differs from its manifest"),
        (json.dumps({}).encode(), r"x\.json differs from its manifest"),
        (json.dumps({"x.json": sha256(b"{}"), "y.json": "0" * 64}).encode(), r"y\.json differs from its manifest"),
        (json.dumps({"x.json": sha256(b"{}"), "../y.json": "0" * 64}).encode(), "differs from its manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(manifest, message, there, tmp_path):
    members = {f"fit/{FIT}/x.json": b"{}"}
    if manifest is not None:
        members[f"fit/{FIT}/{MANIFEST}"] = manifest
    with pytest.raises(UserError, match=message):
        unpack(there, tar(tmp_path / "x.tar", members))
    assert everything(there) == {}


def test_a_file_that_is_in_it_twice_is_refused(home, there, tmp_path):
    pack(home, tmp_path / "all.tar")
    with tarfile.open(tmp_path / "all.tar", "a") as archive:
        member = tarfile.TarInfo(f"upscale/{NEAR}/note.json")
        archive.addfile(member, io.BytesIO())
    with pytest.raises(UserError, match="twice"):
        unpack(there, tmp_path / "all.tar")


def test_the_commands(home, tmp_path, capsys):
    file, there = tmp_path / "some.tar", tmp_path / "there"
    assert carry.main(["pack", str(file), "--store", home.root, "--stages", "private_fit,coarse_samples"]) == 0
    assert capsys.readouterr().out == f"2 artifacts are now in {file}\n"
    for expected in ("2 artifacts are new in {}, 0 were present\n", "0 artifacts are new in {}, 2 were present\n"):
        assert carry.main(["unpack", str(file), "--store", str(there)]) == 0
        assert capsys.readouterr().out == expected.format(there)
    file.write_bytes(b"<html>")
    for arguments, message in (
        (["unpack", str(file), "--store", str(there)], "is not a whole tar of artifacts"),
        (["unpack", str(tmp_path / "none.tar"), "--store", str(there)], "none.tar cannot be read (No such file"),
        (["pack", str(file), "--store", str(tmp_path / "nowhere")], "holds no artifacts"),
        (["pack", str(file), "--store", "nosuch://x"], "store=nosuch://x cannot be opened"),
        (["pack", str(tmp_path / "no" / "x.tar"), "--store", home.root], "pack failed"),
    ):
        assert carry.main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert file.read_bytes() == b"<html>"


def test_python_m_wavedp_store_is_the_command(home, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "wavedp.store", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    done = run("pack", str(tmp_path / "x.tar"), "--store", home.root, "--keys", "cdcdcdcd", FIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"2 artifacts are now in {tmp_path}/x.tar\n", "")
    os.truncate(tmp_path / "x.tar", 5000)
    done = run("unpack", str(tmp_path / "x.tar"), "--store", str(tmp_path / "there"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "there").exists()
