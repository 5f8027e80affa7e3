"""Time to go: by the stage's own pace, not by how long it waited."""

import time

from sweeps.progress import line


def status(fraction, first_told, waited=3600.0):
    return {
        "now": {"t": {"stage": "private_fit", "key": "k", "since": time.time() - waited}},
        "fraction": {"k": fraction},
        "first_told": {"k": first_told} if first_told else {},
        "seconds": {"private_fit": [100.0], "coarse_samples": [10.0], "upscale": [20.0], "evaluate": [30.0]},
    }


def test_waiting_for_a_worker_is_no_slowness():
    text = line("t", status(0.75, (time.time() - 50, 0.25)), 3600.0)  # half of it in 50 s: 25 s more, then 60
    assert " 75%  elapsed 1:00:00  to go 1:2" in text


def test_a_stage_that_has_not_begun_takes_what_others_took():
    assert "…  elapsed 1:00:00  to go 2:40" in line("t", status(0.0, None), 3600.0)
    assert "to go 2:40" in line("t", status(0.5, (time.time(), 0.5)), 3600.0)  # resumed in the middle, no pace yet
