"""Methods by name: what is found, and what is refused before it could share keys with something else."""

import importlib.metadata
import subprocess
import sys

import pytest
from test_reads import trial

from wavedp import registry, stages
from wavedp.config import SamplingConfig, trial_of
from wavedp.errors import UserError
from wavedp.store import Store

PLUGIN = """
from dataclasses import dataclass
from wavedp.fields import result
from wavedp.upscalers import UpscalerMethod

@dataclass(frozen=True)
class Config:
    name: str = result("{name}")

class Mine(UpscalerMethod):
    name, Config = "{name}", Config

class Half:
    name, version = "half", 1
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that puts a module on the path, and entry points beside it."""

    def install(module, name, **entries):
        (tmp_path / f"{module}.py").write_text(PLUGIN.format(name=name))
        points = [importlib.metadata.EntryPoint(key, value, "wavedp.upscalers") for key, value in entries.items()]
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda group: points if group == "wavedp.upscalers" else []
        )
        clear()

    def clear():
        registry.find.cache_clear()
        registry._places.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    monkeypatch.undo()
    clear()


def test_an_entry_point_and_an_import_path_are_one_method(installed):
    installed("lab_one", "mine", mine="lab_one:Mine")
    assert registry.names("upscaler")[-1] == "mine"
    assert registry.find("upscaler", "mine").name == registry.find("upscaler", "lab_one:Mine").name == "mine"
    assert registry.is_outside("upscaler", "mine")
    assert not registry.is_outside("upscaler", "bicubic")


def test_a_built_in_name_cannot_be_taken(installed):
    installed("lab_two", "bicubic", bicubic="lab_two:Mine")
    assert type(registry.find("upscaler", "bicubic")).__module__ == "wavedp.upscalers.classical"
    with pytest.raises(
        UserError, match=r"is called 'bicubic', as is wavedp\.upscalers\.classical:Bicubic: give it another"
    ):
        registry.find("upscaler", "lab_two:Mine")  # its artifacts would have bicubic's keys


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bicubik", "upscaler='bicubik' is not known: did you mean bicubic?"),
        ("nowhere.at_all:Mine", r"upscaler=nowhere.at_all:Mine cannot be imported .*No module named 'nowhere'"),
        ("lab_three:Other", "cannot be imported .*has no attribute 'Other'"),
        ("lab_three:Half", "which has no Config: see wavedp.methods"),
    ],
)
def test_what_is_not_a_method_is_refused_in_a_sentence(name, words, installed):
    installed("lab_three", "mine")
    with pytest.raises(UserError, match=words):
        registry.find("upscaler", name)


def test_a_broken_plugin_is_its_own_users_concern(installed, caplog):
    """Every section is fitted against all methods of its kind, and one that cannot be imported must not stop them."""
    installed("lab_four", "mine", mine="lab_four:Mine", broken="lab_four:Missing", absent="nowhere.at_all:Mine")
    registry._say_once.cache_clear()
    assert trial_of({"upscaler": {"name": "bicubic", "engine": "torch"}}).upscaler.name == "bicubic"
    assert "mine" in dict(registry.each("upscaler"))
    assert not {"broken", "absent"} & set(dict(registry.each("upscaler")))
    assert caplog.text.count("upscaler=broken cannot be imported") == 1
    with pytest.raises(UserError, match="upscaler=broken cannot be imported"):
        trial_of({"upscaler": {"name": "broken"}})


def test_every_built_in_declaration_is_found_without_torch():
    code = (
        "import sys; from wavedp import registry\n"
        "for kind in registry.KINDS:\n"
        "    for name in registry.names(kind):\n"
        "        method = registry.find(kind, name); assert method.name == name; method.Config(name=name)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stage_cannot_see_what_no_method_reads(tmp_path):
    """Not even a method that looks without saying so: it finds the default, so that equal keys have equal results."""
    seen = []

    def note(work):
        seen.append(work.trial.sampling.temperature)
        raise KeyboardInterrupt

    config = trial("blur_diffusion", sampling={"temperature": 0.1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stages.MAKE, "pretrain", note)
        with pytest.raises(KeyboardInterrupt):
            stages.make("pretrain", config, Store(str(tmp_path)), "cpu")
    assert seen == [SamplingConfig().temperature]
