"""The configuration surface: every field in one class, and frozen so that a change is a decision."""

import dataclasses
import json
import math
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from wavedp import checks, registry
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
from wavedp.ranges import Range
from wavedp.testing.declarations import numbers_of
from wavedp.views import MOST

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
        ({"level": "deep"}, "level='deep' must be int"),
        ({"level": True}, "level=True must be int, not bool"),
        ({"privacy": {"epsilon": True}}, r"privacy\.epsilon=True must be float, not bool"),
        ({"metrics": {"kid": 1}}, r"metrics\.kid=1 must be bool, not int"),
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
    with pytest.raises(UserError, match=r"upscaler='magic' is not known: use one of animevideov3_x2, "):
        configure("upscaler", "magic")


def test_identity_is_json_even_at_infinity():
    assert (
        json.loads(json.dumps(identity(from_dict(TrialConfig, {"privacy": {"epsilon": "inf"}}).privacy)))["epsilon"]
        == "inf"
    )


def numbers():
    """(section, field, its range) of every number that a trial or a method has."""
    for name, section in sections().items():
        for item in dataclasses.fields(section):
            if item.name in numbers_of(type(section)):
                yield pytest.param(section, item, id=f"{name}.{item.name}")


@pytest.mark.parametrize(("section", "item"), numbers())
def test_every_number_has_a_range_and_its_ends_are_where_it_says(section, item):
    within, whole = item.metadata["within"], numbers_of(type(section))[item.name] is int
    assert within, f"{item.name} says no range: declare it with within=, such as '(0, inf)'"
    assert item.default is None or item.default in within

    def taken(value):
        try:
            from_dict(type(section), {item.name: value})
        except UserError as refusal:
            return f"{item.name}={value} must be " not in str(refusal)
        return True

    for end, closed, beyond in (
        (within.low, within.closed_low, -math.inf),
        (within.high, within.closed_high, math.inf),
    ):
        if math.isinf(end):
            if not whole:
                assert taken(end) is closed
            continue
        step = 1 if beyond > 0 else -1
        assert taken(end if whole else float(end)) is closed
        assert not taken(end + step if whole else math.nextafter(end, beyond))
        assert taken(end - step if whole else math.nextafter(end, -beyond))
    if not whole:
        assert not taken(math.nan)


def test_a_trial_built_in_python_is_checked_like_a_composed_one():
    """Whatever it is asked for, the sentence names field, value and range."""

    def with_(**sections):
        changed = {
            name: dataclasses.replace(getattr(TrialConfig(), name), **values) if isinstance(values, dict) else values
            for name, values in sections.items()
        }
        return dataclasses.replace(TrialConfig(), **changed)

    for trial, sentence in [
        (with_(sampling={"temperature": 0.0}), "sampling.temperature=0.0 must be above 0."),
        (with_(sampling={"temperature": math.nan}), "sampling.temperature=nan must be a number and above 0."),
        (with_(sampling={"top_p": 1.5}), "sampling.top_p=1.5 must be above 0 and at most 1."),
        (with_(privacy={"learning_rate": math.inf}), "privacy.learning_rate=inf must be finite and above 0."),
        (with_(metrics={"reference_samples": True}), "metrics.reference_samples=True must be int, not bool."),
        (with_(generator={"depth": -2}), "generator.depth=-2 must be at least 0."),
        (with_(public={"size": 0}), "public.size=0 must be at least 1."),
        (with_(seed=2**64), "seed=18446744073709551616 must be at least 0 and below 18446744073709551616."),
        (
            with_(metrics={"also": (dataclasses.replace(configure("metric", "prdc"), k=0),)}),
            "metric.k=0 must be at least 1.",
        ),
    ]:
        with pytest.raises(UserError) as refusal:
            checks.check(trial)
        assert str(refusal.value) == sentence
    with pytest.raises(UserError, match=r"upscaler\.tile=0 must be at least 1"):
        TrialConfig(upscaler={"name": "realsr_df2k_x4", "tile": 0})


def test_a_range_is_an_interval():
    for text in ("0..1", "[0 1]", "]0, 1["):
        with pytest.raises(ValueError, match="not an interval"):
            Range.of(text)
    half = Range.of("(0, 1]")
    assert [value in half for value in (0, 1e-300, 1, 1 + 1e-15, math.nan, math.inf)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
    assert math.inf in Range.of("[0, inf]")
    assert math.inf not in Range.of("[0, inf)")
    assert 2**64 - 1 in Range.of(f"[0, {2**64})")
    assert 2**64 not in Range.of(f"[0, {2**64})")


def test_there_are_as_many_views_as_their_range_says():
    assert from_dict(PrivacyConfig, {"views": MOST}).views == MOST
    with pytest.raises(UserError, match=f"views={MOST + 1} must be at least 1 and at most {MOST}"):
        from_dict(PrivacyConfig, {"views": MOST + 1})
