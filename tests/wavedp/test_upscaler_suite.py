"""The suite that ships notices what an author may get wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from wavedp import upscalers
from wavedp.config import configure
from wavedp.fields import performance, result
from wavedp.methods import Needs
from wavedp.testing.upscalers import UpscalerSuite, check_config, check_upscaler
from wavedp.upscalers import UpscalerMethod

SUITE = """
from wavedp.config import configure
from wavedp.testing.upscalers import UpscalerSuite

class TestSharpened(UpscalerSuite):
    def config(self):
        return configure("upscaler", "{package}.sharpened:Sharpened", amount=0.4)
"""


def example() -> str:
    """The upscaler of CONTRIBUTING.md."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "UpscalerMethod" in block)


def run_suite(folder, package: str, code: str) -> tuple[int, str]:
    """pytest's status and output for the suite on `package.sharpened:Sharpened`, a package outside this repository."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    (folder / package / "sharpened.py").write_text(code)
    (folder / "test_sharpened.py").write_text(SUITE.format(package=package))
    paths = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", str(folder)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


TRAINED = """
from dataclasses import dataclass
from wavedp.fields import result
from wavedp.upscalers.trained import Trained, TrainingConfig

@dataclass(frozen=True)
class LearnedConfig(TrainingConfig):
    name: str = result("learned")
    amount: float = result(0.5, within="[0, inf)")

class Sharpened(Trained):
    name, Config, used = "learned", LearnedConfig, ("name", "amount")

    def train(self, trial, images, device, report, checkpoint):
        return {"contrast": images.std((0, 2, 3))}, {}

    def build(self, trial, inputs, device):
        import torch
        from wavedp.upscalers.completion import Completion
        from wavedp.wavelets import spread

        size = trial.upscaler.amount * inputs["upscaler"]["contrast"][:, None, None]

        def complete(images, factor):
            large = spread(images, factor)
            return large + size * large * (-1.0) ** torch.arange(large.shape[-1])

        return Completion(self.name, complete)
"""


def test_an_upscaler_of_ones_own_that_trains_passes(tmp_path):
    status, output = run_suite(tmp_path, "trainer", TRAINED)
    assert status == 0, output


@pytest.mark.parametrize(
    ("line", "sabotaged", "failing", "sentence"),
    [
        (
            "large = resize(images, size",
            "large = resize(0.98 * images + 0.02 * images.mean(0, keepdim=True), size",
            "test_an_image_depends_on_itself_only",
            "one image must not influence another: look for sums or maxima over the batch",
        ),
        (
            "from dataclasses import dataclass",
            "from dataclasses import dataclass\nimport torch",
            "test_planning_imports_no_torch",
            "importing the declaration imported torch",
        ),
        (
            "self.amount = amount",
            "self.amount = amount + hash('seed') % 97 / 1000",
            "test_another_process_gives_the_same",
            "look for hash(), which differs between processes",
        ),
    ],
    ids=["one image influences another", "the declaration imports torch", "weights from a hash"],
)
def test_a_sabotaged_example_fails(tmp_path, line, sabotaged, failing, sentence):
    code = example()
    assert code.count(line) == 1
    status, output = run_suite(tmp_path, "saboteur", code.replace(line, sabotaged))
    assert status == 1, output
    assert failing in output
    assert sentence in output


class Broken:
    """Bicubic with one fault."""

    def __init__(self, fault):
        self.name, self.fault, self.calls = "broken", fault, 0

    def upscale(self, images, factor):
        self.calls += 1
        return self.fault(upscalers.load(configure("upscaler", "bicubic")).upscale(images, factor), self.calls)

    def bridge(self, factor):
        return None


FAULTS = {
    "wrong size": (lambda x, calls: x[..., :-1], "return B C h.factor w.factor"),
    "wrong dtype": (lambda x, calls: x.double(), "end with .float"),
    "height and width exchanged": (lambda x, calls: x.transpose(-1, -2), "return B C h.factor w.factor"),
    "one channel more": (lambda x, calls: torch.cat([x, x[:, :1]], 1), "with the channels that were given"),
    "leaves the range": (lambda x, calls: x * 1.2, "end with .clamp"),
    "not a number": (lambda x, calls: torch.where(x > 0.5, x, torch.nan), "look for a division by 0"),
    "normalises over the batch": (lambda x, calls: x / x.max(), "sums or maxima over the batch"),
    "mixes images": (lambda x, calls: x.roll(1, 0), "one image must not influence another"),
    "random": (lambda x, calls: (x + 1e-3 * calls).clamp(0, 1), "take noise from wavedp.seeds.generator_of"),
    "channels in reverse": (lambda x, calls: x.flip(1), "exchanged channels"),
    "moved by a coarse pixel": (lambda x, calls: x.roll(2, -1), "a shift by a pixel"),
    "brightens": (lambda x, calls: (x + 0.12).clamp(0, 1), "block means moved by"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_what_is_drawn_wrongly_is_noticed(fault):
    function, sentence = FAULTS[fault]
    with pytest.raises(AssertionError, match=sentence):
        check_upscaler(Broken(function), 2)


def test_a_change_at_factor_1_is_noticed():
    with pytest.raises(AssertionError, match="factor 1 moved a pixel"):
        check_upscaler(Broken(lambda x, calls: (x * 0.999).float()), 1)


def test_an_empty_bridge_is_noticed():
    upscaler = Broken(lambda x, calls: x)
    upscaler.bridge = lambda factor: ""
    with pytest.raises(AssertionError, match="return None where the model's own factor fits"):
        check_upscaler(upscaler, 2)


def test_a_written_input_is_noticed():
    class Writes(Broken):
        def upscale(self, images, factor):
            images.mul_(0.99)
            return super().upscale(images, factor)

    with pytest.raises(AssertionError, match="write into its input"):
        check_upscaler(Writes(lambda x, calls: x), 2)


def test_a_constant_that_becomes_a_texture_is_noticed():
    def textured(x, calls):
        return (x + 0.2 * (-1.0) ** torch.arange(x.shape[-1])).clamp(0, 1)

    with pytest.raises(AssertionError, match=r"a constant 0\.0 moved by 0\.2.*range that the network was trained on"):
        check_upscaler(Broken(textured), 2, block_mean_tolerance=1)


@dataclass(frozen=True)
class GoodConfig:
    name: str = result("good")
    amount: float = result(0.5, within="[0, inf)")
    rows: int = performance(4, within="[1, inf)")


class Good(UpscalerMethod):
    name, Config = "good", GoodConfig

    def load(self, config, device):
        model = Broken(lambda x, calls: x)
        model.name = "good"
        return model


class ForgetsAField(Good):
    def content(self, config):
        return {"name": self.name}


class KeepsAPerformanceField(Good):
    def content(self, config):
        return {**super().content(config), "rows": config.rows}


class HoldsATuple(Good):
    def content(self, config):
        return {**super().content(config), "size": (3, 4)}


class HoldsASet(Good):
    def content(self, config):
        return {**super().content(config), "size": {3, 4}}


class HasNoVersion(Good):
    version = "1"


class NeedsWhatIsNotThere(Good):
    def needs(self, trial):
        return Needs(fields=frozenset({"diffusion.tempo"}))


class NeedsWhatEntersNoKey(Good):
    """What an upscaler reads enters the key of `upscale`, unless its training's key is to hold it."""

    def needs(self, trial):
        return Needs(fields=frozenset({"diffusion.timesteps"}))

    def training_content(self, trial):
        return {}, []

    def train(self, trial, images, device, report, checkpoint):
        return {}, {}


class WarnsInOneString(Good):
    def check(self, trial):
        return "beware"


class IsCalledOtherwise(Good):
    def load(self, config, device):
        return Broken(lambda x, calls: x)


DECLARATIONS = [
    (
        ForgetsAField,
        "test_its_key_moves_with_every_field_that_changes_results",
        (),
        "upscaler.amount is a RESULT field",
    ),
    (KeepsAPerformanceField, "test_its_key_stays_with_performance_fields", (), "upscaler.rows is a PERFORMANCE field"),
    (HoldsATuple, "test_its_content_is_json", (), "use lists instead of tuples"),
    (HoldsASet, "test_its_content_is_json", (), "is not JSON"),
    (HasNoVersion, "test_it_says_its_name_version_and_origin", (), "begin at 1, and add 1 when results change"),
    (NeedsWhatIsNotThere, "test_it_needs_only_what_a_trial_has", (), "diffusion.tempo.*which no trial has"),
    (NeedsWhatEntersNoKey, "test_its_key_moves_with_every_shared_field_that_it_reads", (), "does not move the key"),
    (WarnsInOneString, "test_it_accepts_its_trials", (1, 2), "return a list of sentences"),
    (IsCalledOtherwise, "test_its_model_has_its_name", (), "give both one name"),
]


@pytest.mark.parametrize(("method", "test", "arguments", "sentence"), DECLARATIONS)
def test_what_is_declared_wrongly_is_noticed(method, test, arguments, sentence):
    suite = suite_on(method)
    with pytest.raises(AssertionError, match=sentence):
        getattr(suite, test)(*arguments)
    getattr(suite_on(Good), test)(*arguments)


def suite_on(method) -> UpscalerSuite:
    class Suite(UpscalerSuite):
        def config(self):
            return configure("upscaler", f"{__name__}:{method.__name__}")

    return Suite()


def test_a_config_that_could_be_misread_is_noticed():
    @dataclass
    class Changeable:
        name: str = result("changeable")

    @dataclass(frozen=True)
    class Unclassed:
        name: str = result("unclassed")
        amount: float = 0.5

    @dataclass(frozen=True)
    class Nameless:
        amount: float = result(0.5, within="[0, inf)")

    @dataclass(frozen=True)
    class Boundless:
        name: str = result("boundless")
        amount: float = result(0.5)

    for config, sentence in (
        (Boundless, "Boundless.amount is a number of no range"),
        (Changeable, "can be changed after it entered a key"),
        (Unclassed, "Unclassed.amount is in no class"),
        (Nameless, "has no field `name`"),
        (Good, "must be a dataclass"),
    ):
        with pytest.raises(AssertionError, match=sentence):
            check_config(config)


def test_a_subclass_without_a_config_is_told():
    with pytest.raises(NotImplementedError, match=r"from config\(\)"):
        UpscalerSuite().config()
