"""Two commands with one study's name: the second is refused in a sentence, before it releases anything."""

import multiprocessing
import os
import re

import pytest
from hydra import compose, initialize_config_dir

import sweeps.run
from sweeps.lock import only_one
from wavedp.errors import UserError

FORK = multiprocessing.get_context("fork")


def hold(folder, telling):
    with only_one(folder):
        telling.send(os.getpid())
        telling.recv()


@pytest.fixture
def holder(tmp_path):
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "results" / "s", theirs))
    process.start()
    assert ours.recv() == process.pid
    yield process
    process.kill()
    process.join()


def test_the_second_command_is_refused_before_anything_runs(holder, tmp_path, monkeypatch):
    def started(*_):
        raise AssertionError("it began")

    monkeypatch.setattr(sweeps.run, "_execute", started)
    monkeypatch.setattr("wavedp.model_checks.check_models", lambda _: None)
    overrides = ["+sweep=smoke", "study=s", "data=procedural", "data@public=procedural_public"]
    overrides += [f"results={tmp_path / 'results'}", f"store={tmp_path / 'store'}"]
    with initialize_config_dir(str(sweeps.run.ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=overrides)
        with pytest.raises(UserError, match=rf"results/s is in use by process {holder.pid} on .*study=NAME\.$"):
            sweeps.run.run(config, overrides)
        assert not (tmp_path / "results" / "s" / "study.yaml").exists()
        holder.kill()
        holder.join()
        with pytest.raises(AssertionError, match="it began"):
            sweeps.run.run(config, overrides)
    assert [path.name for path in (tmp_path / "results" / "s").iterdir()] == ["study.yaml"]


def test_a_lock_whose_holder_was_killed_does_not_block(holder, tmp_path):
    folder = tmp_path / "results" / "s"
    with pytest.raises(UserError, match=re.escape(f"{folder} is in use by")), only_one(folder):
        pass
    holder.kill()
    holder.join()
    assert (folder / ".lock").exists()
    for _ in range(2):
        with only_one(folder):
            assert (folder / ".lock").exists()
        assert not (folder / ".lock").exists()
