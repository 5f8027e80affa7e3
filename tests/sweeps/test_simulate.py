"""A plan replayed on described machines: times that can be worked out by hand."""

import dataclasses

import pytest

from sweeps import simulate
from sweeps.plan import plan
from sweeps.simulate import KEPT, STARTING, Node, Simulation
from wavedp import chain
from wavedp.config import DataConfig, TrialConfig, configure, to_dict
from wavedp.errors import UserError

PROCEDURAL = DataConfig(name="procedural", n_records=256)
BASE = dataclasses.replace(
    TrialConfig(),
    data=PROCEDURAL,
    public=dataclasses.replace(PROCEDURAL, split="public"),
    upscaler=configure("upscaler", "bicubic"),
)
SECONDS = {
    "reference": 5,
    "tokenizer": 20,
    "pretrain": 100,
    "private_fit": 1000,
    "coarse_samples": 10,
    "upscale": 10,
    "evaluate": 30,
}
FIT = sum(SECONDS.values()) - SECONDS["reference"]  # of one trial alone, its reference beside it
ONE = {name: {"num_cpus": 1} for name in chain.NAMES}


def trials(count):
    return plan(to_dict(BASE), {"grid": {"epsilon": list(range(1, count + 1))}}, lambda group, option: {})


def simulated(count, nodes, asked=ONE, at_once=100, **options):
    planned = trials(count)
    seconds = {key: float(SECONDS[stage]) for trial in planned for stage, key in trial.keys.items()}
    return Simulation(planned, seconds, asked, nodes, at_once, **options).run()


def test_one_trial_takes_its_longest_path():
    found = simulated(1, [Node(4, 0)])
    assert found.seconds == pytest.approx(FIT + 6 * STARTING)
    assert found.busy["private_fit"] == pytest.approx(1000 + STARTING)
    assert found.trials == 1


def test_stages_that_trials_share_are_made_once_and_the_rest_side_by_side():
    found = simulated(4, [Node(2, 0), Node(2, 0)])
    assert found.busy["pretrain"] == pytest.approx(100 + STARTING)
    assert found.busy["private_fit"] == pytest.approx(4 * (1000 + STARTING))
    assert found.seconds == pytest.approx(FIT + 6 * STARTING)
    assert found.idle("CPU") == pytest.approx(1 - found.cpu / 4 / found.seconds)


def test_one_core_works_through_them():
    found = simulated(4, [Node(1, 0)])
    assert found.seconds == pytest.approx(found.cpu)
    assert found.idle("CPU") == pytest.approx(0)


def test_no_more_trials_are_walked_at_once_than_asked():
    assert simulated(2, [Node(8, 0)], at_once=1).seconds > 1.8 * simulated(2, [Node(8, 0)], at_once=2).seconds


def test_a_gpu_is_held_in_parts():
    asked = {**ONE, "private_fit": {"num_cpus": 1, "num_gpus": 0.5}}
    two, one = (simulated(2, [Node(8, gpus)], asked).seconds for gpus in (1, 0.5))
    assert one - two == pytest.approx(1000 + STARTING)


def test_a_fit_whose_node_dies_loses_what_its_checkpoint_lacks():
    calm = simulated(8, [Node(1, 0) for _ in range(4)])
    found = simulated(8, [Node(1, 0) for _ in range(4)], mean_hours=0.3, repair=60.0)
    assert found.deaths > 0
    assert found.seconds > calm.seconds
    assert found.trials == 8
    assert found.busy["private_fit"] - calm.busy["private_fit"] <= found.deaths * (STARTING + KEPT / 2) + 1e-6


def test_ten_thousand_trials_are_replayed():
    planned = trials(2)
    many = [dataclasses.replace(planned[number % 2], id=str(number)) for number in range(10_000)]
    seconds = {key: float(SECONDS[stage]) for trial in planned for stage, key in trial.keys.items()}
    assert Simulation(many, seconds, ONE, [Node(8, 0)], 64).run().trials == 10_000


def test_a_stage_that_fits_nowhere_is_refused():
    with pytest.raises(UserError, match="stage private_fit asks for 1 cores and 1 GPUs, which no node has"):
        simulate.require_room(simulate.resources(1), [Node(8, 0)], ["private_fit"])
    simulate.require_room(simulate.resources(0), [Node(8, 0)], ["private_fit"])
