"""Trials without Ray: one in a notebook, a plan in pieces."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import wavedp
from wavedp import chain
from wavedp.config import DataConfig, MetricsConfig, PrivacyConfig, SamplingConfig, TrialConfig, configure, to_dict
from wavedp.errors import UserError
from wavedp.privacy import ledger
from wavedp.progress import OutOfTime
from wavedp.run import DONE, FAILED, ORDER, REFUSED, UNFINISHED, PlannedTrial, Runner, main, units
from wavedp.store import Store

ROOT = Path(__file__).parents[2]
TINY = TrialConfig(
    data=DataConfig(name="procedural", n_records=256),
    public=DataConfig(name="procedural", split="public", n_records=96, limit=96),
    generator=configure("generator", "spectral_ar", width=16, depth=1, heads=2, pretrain_steps=3, pretrain_batch=8),
    privacy=PrivacyConfig(epsilon=4.0, batch_size=16, steps=3),
    sampling=SamplingConfig(n=12),
    upscaler="bicubic",
    metrics=MetricsConfig(fid_samples=8, reference_samples=16, downstream_steps=0),
)


def with_(**changes):
    return dataclasses.replace(TINY, **changes)


def write_plan(folder, trials):
    rows = [{"id": name, "axes": {}, "config": to_dict(t), "keys": chain.keys(t)} for name, t in trials.items()]
    text = json.dumps({"trials": rows}, default=str).replace("Infinity", '"inf"')
    (folder / "plan.json").write_text(text)
    return str(folder / "plan.json")


def test_a_trial_runs_in_a_notebook_from_arrays_to_fid(tmp_path):
    """README's ten lines, as a notebook's kernel runs them."""
    notebook = nbformat.read(ROOT / "analysis" / "quickstart.ipynb", as_version=4)
    shown = notebook.cells[1].source
    assert f"```python\n{shown}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in shown.splitlines()) <= 10
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    done = client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    printed = "".join(out.get("text", "") for cell in done.cells for out in cell.get("outputs", []))
    assert "fid_clean_64_test64" in printed
    assert re.search(r"epsilon (9\.9\d+|10) ", printed)


def test_a_run_gives_samples_metrics_epsilon_and_ledger(tmp_path):
    run = wavedp.run(TINY, store=str(tmp_path / "store"), device="cpu", quiet=True)
    assert run.samples.shape == (12, 1, 28, 28)
    assert run.samples.dtype == np.uint8
    assert run.coarse.shape == (12, 1, 14, 14)
    assert 3.9 < run.epsilon <= 4.0
    assert [line["kind"] for line in run.ledger] == ["dp_sgd", "nonprivate"]
    assert run.keys == chain.keys(TINY)
    again = wavedp.run(TINY, store=str(tmp_path / "store"), device="cpu", quiet=True)
    assert again.metrics == run.metrics
    no_budget = with_(privacy=PrivacyConfig(epsilon=0.0))
    floor = wavedp.run(no_budget, store=str(tmp_path / "store"), device="cpu", quiet=True)
    assert floor.epsilon == 0
    assert [line["purpose"].split()[0] for line in floor.ledger] == ["evaluation"]
    endless = with_(privacy=dataclasses.replace(TINY.privacy, epsilon=math.inf))
    assert wavedp.run(endless, store=str(tmp_path / "store"), device="cpu", quiet=True).epsilon == math.inf


def test_a_run_refuses_before_any_work_what_is_not_read(tmp_path):
    with pytest.raises(UserError, match="blur=quartic is not read by generator=spectral_ar"):
        wavedp.run(with_(blur="quartic"), store=str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_it_imports_neither_ray_nor_hydra(tmp_path):
    plan = write_plan(tmp_path, {"a": TINY})
    code = (
        "import sys, wavedp.run; status = wavedp.run.main(sys.argv[1:]);"
        "assert not {'ray', 'hydra', 'omegaconf'} & set(sys.modules); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, plan, "--store", str(tmp_path / "store"), "--stages", "pretrain"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == DONE, done.stderr
    assert "1 of 1 artifacts are in" in done.stdout


def test_shards_divide_the_private_fits_and_nothing_is_lost():
    keys = [f"{n:064x}" for n in range(7)]
    trials = [PlannedTrial(str(n), TINY, {"private_fit": key, "evaluate": str(n)}) for n, key in enumerate(keys)]
    parts = [units(trials, ["private_fit"], (k, 3)) for k in (1, 2, 3)]
    assert sorted(unit.key for part in parts for unit in part) == keys
    shared = [dataclasses.replace(trial, keys={**trial.keys, "private_fit": keys[4]}) for trial in trials[4:]]
    first, *_ = units([*trials[:4], *shared], ["private_fit", "evaluate"])
    assert (first.key, first.users) == (keys[4], 3)  # what most trials rest on comes first


def test_sensitive_stages_are_never_made_on_the_way(tmp_path, capsys):
    plan, store = write_plan(tmp_path, {"a": TINY}), str(tmp_path / "store")
    assert main([plan, "--store", store, "--stages", "coarse_samples,upscale"]) == UNFINISHED
    assert "waits for private_fit" in capsys.readouterr().out
    assert not Store(store).has("private_fit", chain.keys(TINY)["private_fit"])
    assert main([plan, "--store", store, "--stages", "private_fit"]) == DONE
    assert main([plan, "--store", store, "--stages", "coarse_samples,upscale"]) == DONE
    assert "private_fit, epsilon = 3.999, 1 trials" in capsys.readouterr().out


def test_time_that_is_over_leaves_a_checkpoint_and_the_next_call_goes_on(tmp_path, monkeypatch, capsys):
    long = with_(privacy=dataclasses.replace(TINY.privacy, steps=40, checkpoint_every=1000))
    whole = wavedp.run(long, store=str(tmp_path / "whole"), device="cpu", quiet=True)
    plan, store = write_plan(tmp_path, {"a": long}), str(tmp_path / "store")
    assert main([plan, "--store", store, "--stages", "pretrain"]) == DONE
    assert main([plan, "--store", store, "--device", "cpu", "--minutes", "0.005"]) == UNFINISHED
    stopped = capsys.readouterr().out
    assert "stopped in time" in stopped
    (folder,) = (Path(store) / "work").glob("private_fit-*")
    assert (folder / "checkpoint.safetensors").exists()
    assert main([plan, "--store", store, "--device", "cpu"]) == DONE
    key = chain.keys(long)
    weights = [Store(str(tmp_path / name)).open("private_fit", key["private_fit"]) for name in ("whole", "store")]
    one, other = (artifact.tensors("weights") for artifact in weights)
    assert all(np.array_equal(one[name], other[name]) for name in one)  # bit-equal to a whole run
    (line,), (again,) = (artifact.json("ledger") for artifact in weights)
    assert ledger.identity(line) == ledger.identity(again)  # one release
    assert Store(store).open("evaluate", key["evaluate"]).json("metrics") == whole.metrics


def test_no_time_at_all_makes_nothing(tmp_path):
    plan = write_plan(tmp_path, {"a": TINY})
    assert main([plan, "--store", str(tmp_path / "store"), "--minutes", "0"]) == UNFINISHED
    assert not Store(str(tmp_path / "store")).has("tokenizer", chain.keys(TINY)["tokenizer"])


def test_a_failing_unit_leaves_the_others(tmp_path, capsys):
    """A network that is not there fails one trial's upscaling; the other trial is finished."""
    missing = with_(upscaler=configure("upscaler", "animevideov3_x2", weights=str(tmp_path / "nowhere")))
    plan = write_plan(tmp_path, {"bad": missing, "good": TINY})
    assert main([plan, "--store", str(tmp_path / "store")]) == FAILED
    told = capsys.readouterr().out
    assert "upscale" in told
    assert "failed, UserError" in told
    assert "waits for upscale" in told
    assert Store(str(tmp_path / "store")).has("evaluate", chain.keys(TINY)["evaluate"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "4/3"], "--shard 4/3 is not a part"),
        (["--stages", "private_fit,upscal"], "--stages upscal is not a stage"),
        (["--device", "tpu"], "device=tpu is not a device"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(arguments, words, tmp_path, capsys):
    assert main([write_plan(tmp_path, {"a": TINY}), *arguments]) == REFUSED
    assert words in capsys.readouterr().err


def test_other_data_or_code_than_the_plan_is_refused(tmp_path, capsys):
    plan = Path(write_plan(tmp_path, {"a": TINY}))
    plan.write_text(plan.read_text(encoding="utf-8").replace(chain.keys(TINY)["pretrain"], "0" * 64), encoding="utf-8")
    assert main([str(plan), "--store", str(tmp_path / "store")]) == REFUSED
    assert "pretrain of a has the key" in capsys.readouterr().err
    assert main([str(tmp_path / "none.json")]) == REFUSED
    assert "is not a plan" in capsys.readouterr().err


def test_a_signal_stops_the_work_as_the_time_does(tmp_path):
    """Slurm sends SIGTERM before it kills."""
    trial = PlannedTrial("a", TINY, chain.keys(TINY))
    runner = Runner(Store(str(tmp_path)), "cpu", set(ORDER))
    told = []

    def stop_at_the_fit(text):
        told.append(text)
        if "pretrain" in text:
            runner.stop()

    assert not runner.run(units([trial], ORDER), stop_at_the_fit)
    assert [unit.stage for unit in runner.made] == ["tokenizer", "pretrain"]
    assert not Store(str(tmp_path)).has("private_fit", trial.keys["private_fit"])


def test_work_that_is_done_when_the_time_is_over_is_kept(tmp_path):
    report = Runner(Store(str(tmp_path)), "cpu", set(), deadline=0.0)._report("evaluate")
    report(5, 5)
    with pytest.raises(OutOfTime):
        report(4, 5)
