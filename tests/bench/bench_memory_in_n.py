"""The memory that a study's stages hold, against the number of sensitive images.

    python tests/bench/bench_memory_in_n.py [--records 5000 20000 83000] [--size 256] [--captions 10] [--folder DIR]
        [--steps WORDS]

Writes so many JPEGs of that size, all different, with captions, into class folders, and beside them 300 public ones. A
process of its own for each number then does what the stages do with sensitive images. Its anonymous memory is read from
/proc/<pid>/status fifty times a second: the resident set without pages of files, which the system takes back when it
wants (with them a process seems to grow until the machine is full). All files lie in a folder that is removed at the
end: for N images, N x H x W x 3 bytes of decoded copies, twice with the export, and a JPEG each; for the captioned fit
25 kB a caption, its 32 tokens, for which made-up numbers stand: to encode 830,000 sentences takes one core hours.
"""

import argparse
import dataclasses
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

PUBLIC, TEST, BASES, CLASSES, TOKENS = 300, 100, 100, 4, 32


def jpegs(size, division, count):
    """Bytes of `count` different JPEGs. Each of `BASES` pictures is encoded once, with noise, so that it has every
    frequency; its quantization tables are then changed by some steps, which changes its pixels."""
    import numpy as np
    from PIL import Image

    from wavedp import data
    from wavedp.config import DataConfig

    bases = min(BASES, count)
    config = DataConfig(name="procedural", split=division, size=size, channels=3, n_records=bases, cache="off")
    encoded, random = [], np.random.default_rng(0)
    for picture in data.load(config, "train").images:
        pixels = (picture + random.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
        encoded.append(bytearray(file.getvalue()))
    places = [encoded[0].index(b"\xff\xdb\x00\x43" + bytes([table])) + 5 + k for table in (0, 1) for k in (0, 1, 2)]
    for number, steps in zip(range(0, count, bases), itertools.product(range(4), repeat=len(places)), strict=False):
        for base in encoded[: count - number]:
            changed = bytearray(base)
            for place, step in zip(places, steps, strict=True):
                changed[place] += step
            yield changed


def write(root, size, records, captions=10):
    """root/own/{train,test}/<class>/*.jpg and root/public/<class>/*.jpg."""
    for number, content in enumerate(jpegs(size, "official", records + TEST)):
        split = "train" if number < records else "test"
        folder = root / "own" / split / str(number % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(content)
        said = [f"caption {place} of picture {number}, which is a sentence like others" for place in range(captions)]
        (folder / f"{number}.txt").write_text("\n".join(said), encoding="utf-8")
    for number, content in enumerate(jpegs(size, "public", PUBLIC)):
        folder = root / "public" / str(number % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(content)
        (folder / f"{number}.txt").write_text(f"public picture {number}", encoding="utf-8")


def states(sentences, length, **named):
    """Stands for wavedp.text.encode_tokens, which takes one core some hundredths of a second a sentence."""
    import torch

    from wavedp import text

    found = torch.empty(len(sentences), length, text.EMBEDDING_WIDTH + 1, dtype=torch.float16)
    for place, sentence in enumerate(sentences):
        found[place] = zlib.crc32(sentence.encode()) / 2**32
    return found


def captioned(trial, views=2):
    """The trial with a decoder over tokens of 8x8 images, which sees the tokens of captions."""
    from wavedp.config import PrivacyConfig, configure

    sizes = {"width": 16, "depth": 1, "heads": 2, "pretrain_steps": 1, "pretrain_batch": 2}
    return dataclasses.replace(
        trial,
        level=(trial.data.size // 8).bit_length() - 1,
        tokenizer=configure("tokenizer", "scalar"),
        generator=configure("generator", "spectral_ar", **sizes, conditioning="tokens", text_tokens=TOKENS),
        privacy=PrivacyConfig(epsilon=8.0, batch_size=4, steps=2, microbatch_size=2, views=views),
    )


def work(root, size, level, only):
    """What the stages do, one step after another; says the name of each on a line."""
    import torch

    from wavedp import data, stages, text
    from wavedp.config import DataConfig, PrivacyConfig, TrialConfig, configure
    from wavedp.data import duplicates, export, overlap
    from wavedp.metrics import suite
    from wavedp.metrics.features import by_content
    from wavedp.store import Store

    def sets(name):
        return DataConfig(name="folder", path=str(root / name), home=str(root / "home"), size=size, channels=3)

    own, public = sets("own"), sets("public")
    trial = TrialConfig(
        level=level,
        data=own,
        public=public,
        generator=configure("generator", "blur_diffusion", pretrain_steps=1, pretrain_batch=2),
        privacy=PrivacyConfig(epsilon=8.0, batch_size=4, steps=2, microbatch_size=2),
        upscaler=configure("upscaler", "bicubic"),
    )

    def channel_means(images, config, cache, report, device):
        """Stands for the network of FID, whose 2048 features an image would take minutes."""
        return by_content(images, "channel means", lambda: lambda part: part.float().mean((2, 3)), 3, 50, cache, report)

    def reference():
        config = stages.replace(trial.metrics, reference_split="train", reference_samples=None)
        real = suite.RealTensors(config, stages._real(trial), suite.Looking(config))
        assert torch.isfinite(real.images.features(channel_means)).all()

    def captioned_fit():
        text.encode_tokens = states
        stages.make("private_fit", captioned(trial), Store(str(root / "store")), "cpu")

    steps = {
        "count": lambda: data.n_records(own, "train"),
        "fingerprint": lambda: data.fingerprint(own, "train"),
        "duplicates": lambda: duplicates.check(own),
        "overlap": lambda: overlap.refuse_shared(own, [(public, "train")]),
        "copies": lambda: overlap.warn_of_copies(own, [(public, "train")]),
        "private fit": lambda: stages.make("private_fit", trial, Store(str(root / "store")), "cpu"),
        "captioned fit": captioned_fit,
        "reference": reference,
        "export 50": lambda: export.export(data.load(own, "train"), root / "png", count=50),
        "export": lambda: export.export_decoded(own, root / "export.decoded.npz"),
    }
    for name, act in steps.items():
        if not only or name in only:
            print(name, flush=True)
            act()
    print("end", flush=True)


def anonymous(pid):
    """MiB, or None once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(found) / 1024 if found else None


def measured(root, size, level, only):
    """The most MiB during each step, and its seconds."""
    asked = json.dumps([str(root), size, level, only])
    process = subprocess.Popen([sys.executable, __file__, "--work", asked], stdout=subprocess.PIPE, text=True)
    said = ["imports"]
    reader = threading.Thread(target=lambda: said.extend(line.strip() for line in process.stdout))
    reader.start()
    found = {}
    while process.poll() is None:
        name, now = said[-1], anonymous(process.pid)
        if found and name not in found:
            before, (peak, _, seconds) = list(found.items())[-1]
            print(f"{root.name} {before}: {peak:.0f} MiB, {seconds:.0f} s", file=sys.stderr, flush=True)
        peak, since, _ = found.get(name, (0.0, time.monotonic(), 0.0))
        found[name] = (max(peak, now or 0.0), since, time.monotonic() - since)
        time.sleep(0.02)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{said[-1]} failed with {root.name}")
    return {name: (peak, seconds) for name, (peak, _, seconds) in found.items() if name != "end"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[5000, 20000, 83000])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--captions", type=int, default=10, help="of each image")
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are written (default: the temporary folder)")
    parser.add_argument("--steps", nargs="*", default=[], help="only these")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        root, *rest = json.loads(options.work)
        work(Path(root), *rest)
        return
    rows = {}
    for records in options.records:
        root = Path(tempfile.mkdtemp(prefix=f"memory-{records}-", dir=options.folder))
        try:
            write(root, options.size, records, options.captions)
            rows[records] = measured(root, options.size, options.level, options.steps)
        finally:
            shutil.rmtree(root)
    print(f"most anonymous memory of each step in MiB (and its seconds), {options.size}² RGB, level {options.level}")
    print(" " * 13 + "".join(f"{records:>18,}" for records in rows))
    for name in next(iter(rows.values())):
        cells = (row.get(name, (0.0, 0.0)) for row in rows.values())
        print(f"{name:>13}" + "".join(f"{peak:>10.0f} ({seconds:4.0f}s)" for peak, seconds in cells))
    print(f"{'all':>13}" + "".join(f"{max(peak for peak, _ in row.values()):>10.0f}        " for row in rows.values()))


if __name__ == "__main__":
    main()
