"""Time to go: every stage that is left, once, shared among as many as run at once."""

import pytest

from sweeps.clocks import Clocks, ToGo, to_go, to_go_of_search

NOW = 1000.0
KINDS = {"fit1": "fit", "fit2": "fit", "fit3": "fit", "eval1": "eval", "eval2": "eval", "eval3": "eval"}
CHAINS = [["fit1", "eval1"], ["fit2", "eval2"], ["fit3", "eval3"]]


def test_the_queue_counts():
    clocks = Clocks(begun={"fit1": 900.0}, ended={"fit1": NOW}, seconds={"fit1": 100.0, "eval0": 10.0})
    kinds = KINDS | {"eval0": "eval"}
    assert to_go(clocks, CHAINS, kinds, NOW) == ToGo(10.0 + 110.0 + 110.0, whole=True)  # one ran at a time
    clocks.begun |= {"eval1": NOW, "fit2": NOW}
    assert to_go(clocks, CHAINS, kinds, NOW) == ToGo(230.0 / 2, whole=True)  # two run now


def test_no_less_than_the_longest_chain():
    clocks = Clocks(begun=dict.fromkeys(["fit1", "fit2", "fit3"], NOW), seconds={"fit0": 100.0, "eval0": 10.0})
    left = to_go(clocks, [["fit1", "eval1"], ["eval2"], ["eval3"]], KINDS | {"fit0": "fit", "eval0": "eval"}, NOW)
    assert left == ToGo(110.0, whole=True)


def test_concurrency_is_that_of_now_or_of_all_the_time():
    assert Clocks().concurrency(NOW) == 1.0
    assert Clocks(begun={"a": 900.0, "b": 900.0}).concurrency(NOW) == 2.0
    three = Clocks(begun=dict.fromkeys("abc", 900.0), ended=dict.fromkeys("ab", NOW - 10))
    assert three.concurrency(NOW) == pytest.approx(2.8)


def test_a_shared_stage_counts_once():
    clocks = Clocks(seconds={"fit0": 100.0, "eval0": 10.0})
    kinds = KINDS | {"fit0": "fit", "eval0": "eval"}
    assert to_go(clocks, [["fit1", "eval1"], ["fit1", "eval2"]], kinds, NOW).seconds == 120.0


def test_a_bound_until_a_stage_of_every_kind_has_ended():
    clocks = Clocks()
    assert str(to_go(clocks, CHAINS, KINDS, NOW)) == "?"
    clocks.seconds["fit1"] = clocks.ended["fit1"] = 100.0
    assert str(to_go(clocks, CHAINS, KINDS, NOW)) == "≥ 3:20"
    clocks.seconds["eval1"] = clocks.ended["eval1"] = 10.0
    assert str(to_go(clocks, CHAINS, KINDS, NOW)) == "3:40"


def test_a_running_stage_goes_on_at_its_own_pace_and_tells_of_its_kind():
    # 25 % were found in a checkpoint, 50 % more took 50 s, and the last report is 10 s old: 15 s are left.
    clocks = Clocks(begun={"fit1": 600.0}, told={"fit1": ((940.0, 0.25), (990.0, 0.75))}, seconds={"eval0": 10.0})
    kinds = KINDS | {"eval0": "eval"}
    assert to_go(clocks, [["fit1"]], kinds, NOW).seconds == 15.0
    assert to_go(clocks, [["fit1"], ["fit2"]], kinds, NOW).seconds == 115.0


def test_a_worker_that_begins_again_is_timed_anew(monkeypatch):
    now = iter([10.0, 20.0, 30.0, 40.0, 50.0])
    monkeypatch.setattr("sweeps.clocks.time.time", lambda: next(now))
    clocks = Clocks()
    clocks.begin("fit1")
    clocks.tell("fit1", 0.9)
    clocks.begin("fit1")
    clocks.tell("fit1", 0.5)
    clocks.tell("fit1", 0.6)
    assert clocks.told["fit1"] == ((40.0, 0.5), (50.0, 0.6))


def test_a_stage_found_in_the_store_is_no_measure():
    clocks = Clocks()
    clocks.end("fit1", None)
    assert not clocks.seconds
    assert not to_go(clocks, CHAINS, KINDS, NOW).whole


@pytest.mark.parametrize(("rows", "said"), [([], "?"), ([{"seconds": {"fit": 50.0, "eval": 10.0}}], "5:00")])
def test_a_search_takes_what_its_finished_trials_took(rows, said):
    assert str(to_go_of_search(Clocks(), rows, 5, NOW)) == said
