"""The configuration surface: every field in one class, and frozen so that a change is a decision."""

import dataclasses
import json
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from wavedp.config import MetricsConfig, PrivacyConfig, TrialConfig, fields_of, from_dict, identity, to_dict
from wavedp.config import sections as config_sections
from wavedp.errors import UserError

SURFACE = Path(__file__).parent.parent / "assets" / "config_surface.json"


def sections():
    trial = TrialConfig()
    found = {"trial": trial}
    for item in dataclasses.fields(trial):
        if dataclasses.is_dataclass(getattr(trial, item.name)):
            found[item.name] = getattr(trial, item.name)
    return found


def surface():
    return {
        name: {kind: sorted(fields_of(section, kind)) for kind in ("privacy", "result", "performance")}
        for name, section in sections().items()
    }


def test_every_field_is_in_exactly_one_class():
    for name, section in sections().items():
        plain = {
            item.name for item in dataclasses.fields(section)
            if item.default_factory is dataclasses.MISSING
        }  # fmt: skip
        classes = surface()[name]
        listed = [field for kind in classes.values() for field in kind]
        assert sorted(listed) == sorted(plain), name
        assert len(listed) == len(set(listed)), name


def test_a_field_without_class_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Sloppy:
        forgotten: int = 1

    with pytest.raises(TypeError, match=r"Sloppy\.forgotten"):
        identity(Sloppy())


def test_surface_is_frozen():
    """A field added, removed or reclassified changes keys and guarantees: edit tests/assets/config_surface.json too."""
    assert surface() == json.loads(SURFACE.read_text())


def test_a_later_field_that_says_what_was_done_before_it_is_in_no_identity():
    """So that adding it leaves the keys of published studies alone."""
    default, secure = PrivacyConfig(), PrivacyConfig(noise_source="secure")
    assert "noise_source" not in identity(default)
    assert identity(secure) == {**identity(default), "noise_source": "secure"}
    assert identity(MetricsConfig()) == {**identity(MetricsConfig(floor=False)), "floor": True}
    assert "floor" not in identity(MetricsConfig(floor=False)), "as it was before there was a floor"


def test_round_trip_and_strictness():
    trial = TrialConfig()
    assert from_dict(TrialConfig, to_dict(trial)) == trial
    assert from_dict(TrialConfig, {"public": None}).public is None
    assert from_dict(TrialConfig, {"privacy": {"epsilon": "inf"}}).privacy.epsilon == float("inf")
    for values, words in [
        ({"levle": 1}, "no field 'levle'"),
        ({"level": "deep"}, "TrialConfig.level='deep' must be int"),
        ({"level": True}, "must be int"),
        ({"privacy": {"epsilon": "much"}}, "epsilon='much' is not a number"),
        ({"privacy": {"optimizer": "lion"}}, "use one of adam, sgd, adam_bc"),
        ({"privacy": {"clipping": "none"}}, "use one of flat, normalize"),
        ({"privacy": 3}, "must be a section"),
    ]:
        with pytest.raises(UserError, match=words):
            from_dict(TrialConfig, values)


def test_the_shipped_configuration_is_the_default_of_the_code():
    """A notebook that builds TrialConfig() gets what `python -m sweeps.run` gets."""
    conf = Path(__file__).parent.parent.parent / "conf"
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("config"), resolve=True)
    assert from_dict(TrialConfig, {name: values[name] for name in config_sections(TrialConfig)}) == TrialConfig()


def test_identity_is_json_even_at_infinity():
    assert (
        json.loads(json.dumps(identity(from_dict(TrialConfig, {"privacy": {"epsilon": "inf"}}).privacy)))["epsilon"]
        == "inf"
    )
