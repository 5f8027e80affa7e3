"""The configuration surface: every field in one class, and frozen so that a change is a decision."""

import dataclasses
import json
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from wavedp import registry
from wavedp.config import (
    MetricsConfig,
    PrivacyConfig,
    TrialConfig,
    configure,
    fields_of,
    from_dict,
    identity,
    to_dict,
    trial_of,
)
from wavedp.config import sections as config_sections
from wavedp.errors import UserError

CONF = Path(__file__).parents[2] / "conf"

SURFACE = Path(__file__).parent.parent / "assets" / "config_surface.json"


def sections():
    """Shared sections by name, and those of methods as `kind=name`."""
    trial = TrialConfig()
    found = {"trial": trial}
    for item in dataclasses.fields(trial):
        if dataclasses.is_dataclass(getattr(trial, item.name)) and "method" not in item.metadata:
            found[item.name] = getattr(trial, item.name)
    for kind in registry.KINDS:
        found |= {f"{kind}={name}": configure(kind, name) for name in registry.BUILT_IN[kind]}
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
    assert from_dict(TrialConfig, {name: composed()[name] for name in config_sections(TrialConfig)}) == TrialConfig()


def composed(*overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("config", overrides=list(overrides)), resolve=True)


OPTIONS = [
    (group, path.stem)
    for group in ("tokenizer", "generator", "upscaler", "privacy", "diffusion", "sampling", "metrics")
    for path in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_a_yaml_holds_what_its_method_reads_all_of_it_and_nothing_else(group, option):
    values = composed(f"{group}={option}")[group]
    config = getattr(from_dict(TrialConfig, {group: values}), group)  # nothing that it does not read
    assert set(values) == {item.name for item in dataclasses.fields(config)}  # nothing left out
    if group in registry.KINDS and option == values["name"]:
        assert config == configure(group, option), "the file and the code have other defaults"


def test_every_method_that_a_trial_chooses_has_a_yaml():
    for kind in ("tokenizer", "generator", "upscaler"):
        assert {name for group, name in OPTIONS if group == kind} >= set(registry.BUILT_IN[kind])


def test_a_section_of_another_methods_fields_is_fitted_and_a_typo_is_not():
    """A preset serves several methods; studies recorded all fields of a kind in one section."""
    trial = trial_of({"generator": {"name": "blur_diffusion", "width": 128, "pretrain_steps": 7}})
    assert trial.generator == configure("generator", "blur_diffusion", pretrain_steps=7)
    with pytest.raises(UserError, match=r"generator\.widht is not read by generator=blur_diffusion"):
        trial_of({"generator": {"name": "blur_diffusion", "widht": 128}})


def test_a_method_may_be_given_by_name_or_with_its_own_fields():
    assert TrialConfig(upscaler="bicubic") == TrialConfig(upscaler=configure("upscaler", "bicubic"))
    assert from_dict(TrialConfig, {"upscaler": "bicubic"}).upscaler.name == "bicubic"
    with pytest.raises(UserError, match=r"upscaler\.tile is not read by upscaler=bicubic: realesrgan_x4plus.* read it"):
        configure("upscaler", "bicubic", tile=8)
    with pytest.raises(UserError, match=r"upscaler='magic' is not known: use one of identity, nearest"):
        configure("upscaler", "magic")


def test_identity_is_json_even_at_infinity():
    assert (
        json.loads(json.dumps(identity(from_dict(TrialConfig, {"privacy": {"epsilon": "inf"}}).privacy)))["epsilon"]
        == "inf"
    )
