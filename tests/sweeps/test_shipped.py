"""The code that goes to nodes without a checkout: all of it, and nothing else."""

import subprocess
import sys

import pytest

from sweeps import shipped
from wavedp import registry
from wavedp.errors import UserError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A method of the user's in a package, and one in a file."""
    package = tmp_path / "mine_shipped"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = "from wavedp.upscalers.classical import Bicubic\nclass Mine(Bicubic):\n    name = '{}'\n"
    (package / "soft.py").write_text(text.format("soft"))
    (tmp_path / "one_file_shipped.py").write_text(text.format("hard"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_outside", set())
    registry.find("upscaler", "mine_shipped.soft:Mine")
    registry.find("upscaler", "one_file_shipped:Mine")
    yield package
    registry.find.cache_clear()
    for name in ("mine_shipped", "mine_shipped.soft", "one_file_shipped"):
        sys.modules.pop(name, None)


def test_ours_and_the_users_modules_are_sent_without_caches(mine, tmp_path):
    (mine / "__pycache__").mkdir(exist_ok=True)
    (mine / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert shipped.modules() == ["wavedp", "sweeps", "mine_shipped", "one_file_shipped"]
    sent = shipped.stage(shipped.modules(), tmp_path / "sent")
    assert {path.name for path in sent.iterdir()} == {"wavedp", "sweeps", "mine_shipped", "one_file_shipped.py"}
    assert not list(sent.rglob("__pycache__"))
    code = "import sweeps.coordinator, wavedp.registry as r; print(r.find('upscaler', 'mine_shipped.soft:Mine').name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=sent, env={"PATH": "", "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout == "soft\n", done.stderr


def test_data_in_a_package_does_not_travel(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "LARGEST", 1000)
    (mine / "images.bin").write_bytes(bytes(2000))
    with pytest.raises(UserError, match=r"mine_shipped has 0 MiB and would travel .* ray\.ship_code=false"):
        shipped.stage(["mine_shipped"], tmp_path / "sent")


def test_a_module_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="the module sys has no file"):
        shipped.stage(["sys"], tmp_path / "sent")


def test_a_job_that_was_submitted_brought_its_code(monkeypatch):
    assert shipped.needed()
    monkeypatch.setenv(shipped.IN_A_JOB, "{}")
    assert not shipped.needed()
