"""What is typed is what runs: a setting takes the place of the axis that varies it, or is refused."""

import math

import pytest
import yaml

from sweeps.run import ROOT
from sweeps.swept import with_typed_values
from wavedp.errors import UserError

VALUES = {
    "privacy": {"epsilon": 2.0, "steps": 160, "views": 2}, "upscaler": {"name": "lanczos"}, "public": None, "level": 1,
    "seed": 5, "sampling": {"seed": 5}, "blur": "none",
}  # fmt: skip


def sweep(name):
    return yaml.safe_load((ROOT / "conf" / "sweep" / f"{name}.yaml").read_text())["sweep"]


def test_one_value_takes_the_place_of_an_axis():
    found = sweep("eps_grid")
    said = with_typed_values(found, ["++privacy.epsilon=2"], VALUES)
    assert found["grid"] == {"epsilon": [2.0]}
    assert said == ["privacy.epsilon=2 takes the place of sweep.grid.epsilon=[1, 3, 10, inf]"]


@pytest.mark.parametrize(
    ("overrides", "axes"),
    [
        (["epsilon=2"], {"epsilon": [2.0]}),
        (["++privacy={epsilon: 2, steps: 160}"], {"epsilon": [2.0]}),
        (["upscaler=lanczos"], {"upscaler": ["lanczos"]}),
        (["++upscaler.name=lanczos"], {"upscaler": ["lanczos"]}),
        (["++privacy.steps=160"], {}),
        (["++upscaler.low_pass_consistency=true"], {}),  # composed into every option
        (["privacy=dp_sgd"], {}),
    ],
)
def test_every_spelling_of_an_axis_is_the_axis(overrides, axes):
    found, before = sweep("smoke"), sweep("smoke")
    with_typed_values(found, overrides, VALUES)
    assert found["grid"] == before["grid"] | axes


def test_an_axis_may_be_spelled_by_its_field():
    found = {"grid": {"privacy.epsilon": [1, 10], "public": ["procedural", None]}}
    with_typed_values(found, ["++privacy.epsilon=2", "++public=null"], VALUES)
    assert found["grid"] == {"privacy.epsilon": [2.0], "public": [None]}


def test_seeds_are_axes():
    found = sweep("eps_grid") | {"sampling_seeds": [0, 1]}
    with_typed_values(found, ["++seed=5", "++sampling.seed=5"], VALUES)
    assert (found["seeds"], found["sampling_seeds"]) == ([5], [5])
    single = {"grid": {"level": [1]}}
    with_typed_values(single, ["++sampling.seed=5"], VALUES)
    assert single == {"grid": {"level": [1]}}  # the base has it


def test_a_search_keeps_what_was_typed():
    found = sweep("pareto_search")
    with_typed_values(found, ["++privacy.epsilon=2", "upscaler=lanczos", "++seed=5"], VALUES)
    assert found["search"]["space"] == {"epsilon": [2.0], "level": [1, 2], "upscaler": ["lanczos"]}
    assert found["search"]["seed"] == 5


def test_infinity_is_a_value():
    found = sweep("eps_grid")
    with_typed_values(found, ["++privacy.epsilon=inf"], {"privacy": {"epsilon": math.inf}})
    assert found["grid"] == {"epsilon": [math.inf]}


def test_cases_change_what_was_typed_but_never_what_may_be_spent():
    found = sweep("tricks")
    assert with_typed_values(found, ["++privacy.views=2", "++privacy.steps=160"], VALUES) == []
    assert found == sweep("tricks")
    spent = {"cases": {"a": {}, "b": {"epsilon": 10}}}
    with pytest.raises(UserError, match=r"privacy.epsilon=2 is set by the case 'b'"):
        with_typed_values(spent, ["++privacy.epsilon=2"], VALUES)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("tokenizers", ["++level=1"], r"level=1 is one value .* together with upscaler: write sweep.zip.level="),
        ("sr_ceiling", ["upscaler=lanczos"], "upscaler=lanczos is set by every case"),
        ("random_search", ["++seed=5"], "every run has a seed of its own"),
        ("eps_grid", ["++privacy.epsilon=2", "++sweep.grid.epsilon=[1,10]"], "say two things of privacy.epsilon"),
        ("eps_grid", ["++seed=5", "++sweep.seeds=[1]"], "say two things of seed"),
    ],
)
def test_what_cannot_take_the_place_is_refused(name, overrides, words):
    with pytest.raises(UserError, match=words):
        with_typed_values(sweep(name), overrides, VALUES)
