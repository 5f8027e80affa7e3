"""Memory does not grow with the number of images, 16 GB for 83,000 at 256², nor with that of their captions."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = str(Path(__file__).parents[1] / "bench")
MIB = 2**20

WORK = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bench_memory_in_n as bench
from wavedp import data, mapped, stages
from wavedp.config import DataConfig
from wavedp.data import dataset, duplicates, overlap

root, records = Path(sys.argv[2]), int(sys.argv[3])
bench.BASES = bench.PUBLIC = bench.TEST = 4
bench.write(root, 256, records)
dataset.PART = mapped.HELD = 2**24  # so that few images are many

def sets(name):
    return DataConfig(name="folder", path=str(root / name), home=str(root / "home"), size=256, channels=3)

def watch():
    while True:
        peaks.append(bench.anonymous("self"))
        time.sleep(0.005)

peaks = []
threading.Thread(target=watch, daemon=True).start()
own, public = sets("own"), sets("public")
loaded = data.load(own, "train")
duplicates.check(own)
overlap.refuse_shared(own, [(public, "train")])
images = stages._coarse_images(loaded, 3, root)
expected = loaded.images[-1].reshape(3, 32, 8, 32, 8).mean((2, 4)) / 255
assert images.shape == (records, 3, 32, 32)
assert abs(images[-1].numpy() - expected).max() < 1e-5
print(max(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_ten_times_the_images_take_no_more_memory(tmp_path):
    peaks = {}
    for records in (200, 2000):
        asked = [sys.executable, "-c", WORK, BENCH, str(tmp_path / str(records)), str(records)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks[records] = float(done.stdout)
    of_more_images = 1800 * 3 * 256 * 256 / MIB
    assert peaks[2000] - peaks[200] < of_more_images / 4, peaks


CAPTIONED = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bench_memory_in_n as bench
import numpy as np
from wavedp import mapped, stages, text
from wavedp.config import DataConfig, TrialConfig
from wavedp.data.arrays import from_arrays
from wavedp.store import Store

root, records = Path(sys.argv[2]), int(sys.argv[3])
images = np.random.default_rng(0).integers(0, 256, (records, 8, 8), np.uint8)
said = ["\\n".join(f"picture {n}, caption {c}" for c in range(10)) for n in range(records)]
own = from_arrays(images, captions=said, test_images=255 - images[:8], test_captions=said[:8], home=str(root))
images = ~np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)
public = from_arrays(images, captions=[f"public {n}" for n in range(40)], home=str(root))
mapped.HELD = 2**22  # so that few captions are many
text.encode_tokens = bench.states
trial = bench.captioned(TrialConfig(data=own, public=public, upscaler="bicubic"))

def watch():
    while True:
        peaks.append(bench.anonymous("self"))
        time.sleep(0.005)

peaks = []
threading.Thread(target=watch, daemon=True).start()
stages.make("private_fit", trial, Store(str(root / "store")), "cpu")
print(max(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_ten_times_the_captions_take_no_more_memory(tmp_path):
    peaks = {}
    for records in (200, 2000):
        asked = [sys.executable, "-c", CAPTIONED, BENCH, str(tmp_path / str(records)), str(records)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks[records] = float(done.stdout)
    of_more_captions = 1800 * 10 * 32 * 385 * 2 / MIB
    assert peaks[2000] - peaks[200] < of_more_captions / 8, peaks
