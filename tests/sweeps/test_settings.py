"""Unknown settings, at any depth and from any file, are refused with the nearest known one."""

import copy

import hydra
import pytest
from omegaconf import OmegaConf

from sweeps.run import ROOT
from sweeps.settings import refuse_unknown
from wavedp.errors import UserError


@pytest.fixture(scope="module")
def composed():
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return {
            sweep: OmegaConf.to_container(hydra.compose("config", overrides=[f"+sweep={sweep}", "preset=gpu"]))
            for sweep in ("smoke", "pareto_search")
        }


@pytest.mark.parametrize("sweep", ["smoke", "pareto_search"])
def test_every_setting_of_the_configuration_is_known(composed, sweep):
    refuse_unknown(composed[sweep])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("privcy", "privcy is not a setting: did you mean privacy?"),
        ("epsilon", "epsilon is not a setting: use one of blur, "),
        ("privacy.epsilom", "did you mean privacy.epsilon?"),
        ("public.pth", "did you mean public.path?"),
        ("generator.widht", "did you mean generator.width?"),
        ("sweep.gird", "did you mean sweep.grid?"),
        ("sweep.search.trails", "did you mean sweep.search.trials?"),
        ("ray.foo", "ray.foo is not a setting: use one of address, "),
        ("ray.stages.private_fti", "did you mean ray.stages.private_fit?"),
        ("ray.stages.upscale.num_cpu", "did you mean ray.stages.upscale.num_cpus?"),
        ("budget.eps", "did you mean budget.epsilon?"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(composed, place, words):
    values = copy.deepcopy(composed["pareto_search"])
    *parents, last = place.split(".")
    section = values
    for name in parents:
        section = section[name]
    section[last] = 1
    with pytest.raises(UserError) as refusal:
        refuse_unknown(values)
    assert words in str(refusal.value)


@pytest.mark.parametrize("place", ["budget", "privacy", "sweep", "ray", "generator"])
def test_a_value_is_no_section(composed, place):
    with pytest.raises(UserError, match=f"{place}=5 is no section"):
        refuse_unknown({**composed["smoke"], place: 5})


def test_another_packages_options_are_known_by_its_method(composed):
    own = {"name": "noise_generator:Noise"}
    with pytest.raises(UserError, match="cannot be imported"):
        refuse_unknown({**composed["smoke"], "generator": own})
