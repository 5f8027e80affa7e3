"""One's own code is in the keys, and this package's code does not change in silence.

`PYTHONPATH=. python tests/wavedp/test_sources.py` writes tests/assets/method_sources.json anew."""

import json
import sys
from pathlib import Path

import pytest

from wavedp import chain, registry, sources
from wavedp.config import DataConfig, MetricsConfig, TrialConfig, configure
from wavedp.errors import UserError

GOLDEN = Path(__file__).parents[1] / "assets" / "method_sources.json"
REFRESH = "PYTHONPATH=. python tests/wavedp/test_sources.py"
# What plans a trial, carries weights and decodes data computes no method's results; datasets have fingerprints.
FRAME = tuple(
    f"wavedp.{name}"
    for name in (
        "chain", "checks", "config", "data", "errors", "fields", "finite", "methods", "moved", "progress", "ranges",
        "registry", "sources", "stages", "store",
    )
)  # fmt: skip


def trial(upscaler="bicubic", **changes):
    images = DataConfig(name="procedural", size=16, n_records=64)
    values = {"data": images, "public": images, "metrics": MetricsConfig(downstream_steps=0), **changes}
    return TrialConfig(upscaler=upscaler, **values)


def released():
    """The version of every method of this package and the modules that it runs; the hash of each module."""
    methods, hashes = {}, {}
    for kind in registry.KINDS:
        for name in registry.BUILT_IN[kind]:
            method = registry.find(kind, name)
            found = sources.files(type(method).__module__, FRAME)
            methods[f"{kind}={name}"] = {"version": method.version, "modules": sorted(found)}
            hashes |= {module: sources.code_hash(file)[:16] for module, file in found.items() if module not in hashes}
    return {"methods": methods, "sources": hashes}


def silent(before, now):
    """{module: methods of the same version as before} for modules whose code is another."""
    changed = {module for module, code in now["sources"].items() if before["sources"].get(module) != code}
    found = {}
    for name, about in now["methods"].items():
        if before["methods"].get(name, {}).get("version") == about["version"]:
            for module in changed & set(about["modules"]):
                found.setdefault(module, []).append(name)
    return found


def test_no_released_method_changes_in_silence():
    before, now = json.loads(GOLDEN.read_text()), released()
    assert not silent(before, now), (
        f"these modules changed, and methods that run them have the versions they had: {silent(before, now)}. If their "
        f"results changed, raise `version` of each, so that keys move; then, or if no result changed, run {REFRESH}"
    )
    assert before == now, f"methods or versions are new: run {REFRESH}"


def test_a_change_of_one_module_is_said_with_the_methods_that_run_it():
    now = released()
    before = json.loads(json.dumps(now))
    before["sources"]["wavedp.metrics.kernel"] = "another"
    assert silent(before, now) == {"wavedp.metrics.kernel": ["metric=kid"]}
    before["methods"] = {name: {**about, "version": 0} for name, about in before["methods"].items()}
    assert silent(before, now) == {}
    assert "wavedp.privacy.clipping" in now["methods"]["generator=spectral_ar"]["modules"]


UPSCALER = """
'''Bicubic and a share of contrast.'''
from dataclasses import dataclass
from wavedp.fields import result
from wavedp.upscalers import UpscalerMethod
{imports}

@dataclass(frozen=True)
class Config:
    name: str = result("contrasted")

class Contrasted(UpscalerMethod):
    '''More contrast.'''
    name, Config = "contrasted", Config

    def load(self, config, device):
        return AMOUNT
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A function that writes files, forgets what was imported, and gives the keys of a trial with the upscaler."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(place, **files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()
        return chain.keys(trial(f"{place}:Contrasted"))

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in ("lab", "lab_alone", "lab_other")]:
            del sys.modules[name]
        for cached in (registry.find, sources.digest):
            cached.cache_clear()

    yield write
    forget()


def moved(before, after):
    return [stage for stage in before if before[stage] != after[stage]]


def test_a_changed_constant_moves_the_keys_from_its_stage_on(lab):
    source = UPSCALER.format(imports="AMOUNT = 0.5")
    before = lab("lab_alone", lab_alone=source)
    assert lab("lab_alone", lab_alone=source) == before
    assert moved(before, lab("lab_alone", lab_alone=source.replace("0.5", "0.6"))) == ["upscale", "evaluate"]
    said = source.replace("More contrast", "Less").replace("AMOUNT = 0.5", "AMOUNT = (0.5)  # of contrast\n\n")
    assert lab("lab_alone", lab_alone=said) == before, "documentation and layout are free"
    assert "contrasted" not in str(chain.keys(trial()))


def test_what_it_imports_of_its_own_counts_and_other_files_do_not(lab):
    """In a package however far; of a lone module what lies beside it."""
    for place, imports, near, far, apart in (
        ("lab.methods.mine", "from ..numbers import AMOUNT", "lab__numbers", "lab__deep__roots", "lab__apart"),
        ("lab_alone", "from lab_other import AMOUNT", "lab_other", "lab__deep__roots", "lab__apart"),
    ):
        mine = {place.replace(".", "__"): UPSCALER.format(imports=imports)}
        given = {
            **mine,
            **dict.fromkeys(["lab____init__", "lab__methods____init__", "lab__deep____init__"], ""),
            near: "import numpy\nimport lab.deep.roots\nAMOUNT = lab.deep.roots.AMOUNT\n",
            far: "AMOUNT = 0.5\n",
            apart: "AMOUNT = 0.5\n",
        }
        before = lab(place, **given)
        assert lab(place, **given) == before
        assert lab(place, **{**given, apart: "AMOUNT = 0.6\n"}) == before
        for name in (near, far):
            assert moved(before, lab(place, **{**given, name: given[name] + "MORE = 1\n"})) == ["upscale", "evaluate"]


def test_this_package_is_not_followed_from_outside(lab):
    lab("lab_alone", lab_alone=UPSCALER.format(imports="AMOUNT = 0.5"))
    assert list(sources.files("lab_alone")) == ["lab_alone"]


def test_code_in_no_file_is_refused():
    with pytest.raises(UserError, match="the source of a_notebook is in no file, so that no key can hold it"):
        sources.digest("a_notebook")


def test_outside_methods_of_every_kind_are_in_the_keys(monkeypatch):
    """From the stage that runs them on."""
    generator = configure("generator", "class_means_generator:ClassMeans")
    metric = MetricsConfig(downstream_steps=0, also=("odd_metrics:Brightness",))
    for asked, stages in (
        (trial(generator=generator), ["pretrain", "private_fit", "coarse_samples", "upscale", "evaluate"]),
        (trial(metrics=metric), ["reference", "evaluate"]),
    ):
        before = chain.keys(asked)
        monkeypatch.setattr(sources, "digest", lambda module: f"another {module}")
        after = chain.keys(asked)
        monkeypatch.undo()
        assert moved(before, after) == stages


def write():
    GOLDEN.write_text(json.dumps(released(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
