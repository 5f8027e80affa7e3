"""The command a user types, as a user types it: real Ray, real stages in miniature."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from typed import ROOT, environment, rows, run

import sweeps.run
from wavedp import chain
from wavedp.config import DataConfig, TrialConfig, sections, trial_of, with_absolute_paths
from wavedp.data import decoded
from wavedp.errors import UserError
from wavedp.privacy import recipe


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    done = run(folder, "+sweep=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_smoke_leaves_a_complete_folder(smoke):
    folder, printed = smoke
    trials, lines = rows(folder), rows(folder, name="ledger.jsonl")
    assert [row["status"] for row in trials] == ["done"] * 4
    for row in trials:
        fid = {"fid_clean_64_test64", "floor_fid_clean_64_test64", "kid_clean_64_test64"}
        assert fid | {"acc_cnn20_100_test"} == set(row["metrics"])
        assert all(isinstance(value, float) for value in row["metrics"].values())
        assert (folder / "results/smoke/samples" / f"{row['trial']}.png").exists()
        assert (folder / "results/smoke/samples" / f"{row['trial']}.npz").exists()
        assert row["seconds"].keys().isdisjoint(row["reused"])
        assert row["seconds"].keys() | set(row["reused"]) == set(row["keys"])
        assert row["memory"].keys() == row["seconds"].keys()
    assert [line["kind"] for line in lines].count("dp_sgd") == 1
    assert [line["kind"] for line in lines].count("nonprivate") == 2  # the reference and ε = ∞
    private = next(line for line in lines if line["kind"] == "dp_sgd")
    assert private["sample_rate"] == 64 / 512
    assert 9.9 < private["epsilon"] <= 10
    assert len(private["trials"]) == 2  # both upscalers rest on one release
    spent = {row["epsilon"]: row["epsilon_spent"] for row in trials}
    assert spent == {10: private["epsilon"], "inf": "inf"}
    figures = folder / "results/smoke/figures"
    assert {"pareto.html", "pareto.json", "samples.png"} <= {path.name for path in figures.iterdir()}
    assert "whole study" in printed


@pytest.mark.slow
def test_the_same_command_again_makes_nothing_whatever_cluster_is_about(smoke, monkeypatch):
    folder, _ = smoke
    before, told = rows(folder, name="ledger.jsonl"), rows(folder)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of a cluster that ray=local has no business with
    again = run(folder, "+sweep=smoke")
    assert again.returncode == 0, again.stderr
    assert rows(folder) == told  # what the first run's stages took is still said
    assert rows(folder, name="ledger.jsonl") == before


@pytest.mark.slow
def test_records_go_on_where_their_store_is_gone(smoke, tmp_path):
    """Half of a study comes from another machine: its rows and releases stay as they are, and the rest is run."""
    folder, _ = smoke
    shutil.copytree(folder / "results", tmp_path / "results")
    kept = [row for row in rows(folder) if row["epsilon"] == 10]
    (tmp_path / "results/smoke/trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    done = run(tmp_path, "+sweep=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(kept)} of 4 trials are done, and the store no longer has their private fits" in done.stdout
    assert [row for row in rows(tmp_path) if row["epsilon"] == 10] == kept
    again = [row for row in rows(tmp_path) if row["epsilon"] != 10]
    assert {row["trial"] for row in again} == {row["trial"] for row in rows(folder)} - {row["trial"] for row in kept}
    assert all("private_fit" in row["seconds"] or "private_fit" in row["reused"] for row in again)
    shutil.rmtree(tmp_path / "store")
    settled = run(tmp_path, "+sweep=smoke")
    assert settled.returncode == 0, settled.stdout + settled.stderr
    assert "4 of 4 trials done" in settled.stdout
    assert not (tmp_path / "store/private_fit").exists()


@pytest.mark.slow
def test_another_upscaler_is_free_and_a_corrupted_artifact_is_remade(smoke):
    """A second study on the same store: no new release. One of its upscaled artifacts is damaged and made again."""
    folder, _ = smoke
    (bad,) = [row for row in rows(folder) if row["upscaler"] == "bicubic" and row["epsilon"] == 10]
    damaged = folder / "store/upscale" / bad["keys"]["upscale"] / "samples.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-9] + b"corrupted")
    overrides = ["+sweep=smoke", "study=other", "sweep.grid.upscaler=[bicubic,lanczos]"]
    done = run(folder, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(0 new)" in done.stdout
    assert damaged.read_bytes() == content
    assert f"Warning: {damaged.parent} is damaged (samples.safetensors): it is set aside" in done.stderr
    releases = {line["stage_key"] for line in rows(folder, "other", "ledger.jsonl")}
    assert releases == {line["stage_key"] for line in rows(folder, name="ledger.jsonl")}
    for row in rows(folder, "other"):
        made = {"upscale", "evaluate"} if row["upscaler"] == "lanczos" else set()
        made |= {"upscale"} if row["epsilon"] == 10 and row["upscaler"] == "bicubic" else set()
        assert set(row["seconds"]) == made


@pytest.mark.slow
def test_a_budget_stops_one_release_and_the_study_goes_on(smoke):
    """The release at ε = 10 is there already; one more would pass the budget. Stage two is trained on the way."""
    folder, _ = smoke
    overrides = ["+sweep=smoke", "study=budgeted", "sweep.grid.epsilon=[10,4]", "~sweep.grid.upscaler"]
    overrides += ["upscaler=blur_diffusion", "upscaler.train_steps=2", "upscaler.diffusion_steps=4"]
    done = run(folder, *overrides, "budget.epsilon=10.1", "ray.max_concurrent_trials=1")
    assert done.returncode == 1, done.stdout + done.stderr  # not all that was asked for is done
    found = {row["epsilon"]: row for row in rows(folder, "budgeted")}
    assert found[10]["status"] == "done"
    assert {"upscaler", "upscale", "evaluate"} == set(found[10]["seconds"])
    assert found[4]["status"] == "infeasible"
    assert "over budget.epsilon=10.1" in found[4]["reason"]
    assert [line["kind"] for line in rows(folder, "budgeted", "ledger.jsonl")].count("dp_sgd") == 1


@pytest.mark.slow
def test_a_folder_of_another_configuration_is_refused(smoke):
    folder, _ = smoke
    done = run(folder, "+sweep=smoke", "privacy.learning_rate=0.3")
    assert done.returncode == 2
    assert "another configuration (privacy.learning_rate differs)" in done.stderr


TWO_RAYLETS = """
import sys
import hydra
import ray
from ray.cluster_utils import Cluster
import sweeps.run

root, *overrides = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
overrides += ["ray=cluster", f"ray.address={cluster.address}"]
with hydra.initialize_config_dir(f"{root}/conf", version_base="1.3"):
    status = sweeps.run.run(hydra.compose("config", overrides=overrides), overrides)
print("raylets:", sum(node["Alive"] for node in ray.nodes()))
ray.shutdown()
cluster.shutdown()
sys.exit(status)
"""


@pytest.mark.slow
def test_two_raylets_write_the_rows_of_one(smoke, tmp_path):
    folder, _ = smoke
    overrides = ["+sweep=smoke", f"results={tmp_path / 'results'}", f"store={tmp_path / 'store'}"]
    done = subprocess.run(
        [sys.executable, "-c", TWO_RAYLETS, str(ROOT), *overrides],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "raylets: 2" in done.stdout

    def content(where):
        kept = {
            row["trial"]: {k: v for k, v in row.items() if k not in ("seconds", "memory", "host")}
            for row in rows(where)
        }
        for row in kept.values():
            for name in ("data", "public"):
                row["settings"][name].pop("home")  # below the folder that the command was typed in
        metrics = {name: row.pop("metrics") for name, row in kept.items()}
        return kept, metrics

    (ours, our_metrics), (theirs, their_metrics) = content(tmp_path), content(folder)
    assert our_metrics.keys() == their_metrics.keys()
    for name in our_metrics:
        assert our_metrics[name] == pytest.approx(their_metrics[name], rel=1e-4)
    assert ours == theirs
    assert set().union(*(line["trials"] for line in rows(tmp_path, name="ledger.jsonl"))) == set(ours)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+sweep=nothing"], "Error: sweep=nothing is not an option: use one of"),
        ([], "Error: no sweep was chosen: add +sweep=NAME"),
        (["+sweep=smoke", "level=3"], "Error: level=3 needs images divisible by 8, got 28×28"),
    ],
)
def test_a_refusal_is_a_sentence_and_an_exit_status(overrides, words, tmp_path):
    done = run(tmp_path, *overrides)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep.grid.epsilon=[-1]"], "epsilon=-1.0 must be at least 0"),
        (["sweep.grid.epsilon=[much]"], "epsilon='much' is not a number"),
        (["privacy.delta=1"], "delta=1.0 must be above 0 and below 1"),
        (["sweep.grid.epsilon=[1e-6]", "privacy.steps=1000000"], "No noise multiplier"),
        (["~sweep.grid.upscaler", "upscaler=realsr_df2k_x4", "upscaler.weights=/nowhere"], "/nowhere"),
        (["metrics.inception=/nowhere.pt"], "The FID network is not there"),
        (["device=cuda"], "finds no CUDA GPU"),
        (["device=tpu"], "device=tpu is not a device"),
        (["sweep.grid.upscaler=[magic]"], "sweep axis upscaler=magic is not an option"),
        (["data=folder", "data.path=DAMAGED", "data.size=28", "data.channels=1"], "broken.png"),
        (["data=folder", "data.path=/nowhere"], "/nowhere"),
        (["data.home=/nowhere", "data=fashion_mnist"], "python -m wavedp.data.get fashion_mnist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(overrides, words, tmp_path, monkeypatch):
    if words.startswith("finds no") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    images = damaged_images(tmp_path)
    overrides = ["+sweep=smoke", *(text.replace("DAMAGED", str(images)) for text in overrides)]
    overrides += [f"results={tmp_path / 'results'}", f"store={tmp_path / 'store'}"]
    monkeypatch.chdir(tmp_path)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("config", overrides=overrides)
        with pytest.raises(UserError, match=re.escape(words)):
            sweeps.run.run(config, overrides)
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "store" / "pretrain").exists()


def test_a_delta_of_one_in_n_is_a_warning(tmp_path):
    done = run(tmp_path, "+sweep=smoke", "privacy.delta=0.01", "dry_run=true")
    assert done.returncode == 0
    assert "Warning: privacy.delta=0.01 is not below 1/N" in done.stderr


def test_dry_run_of_180_trials_counts_and_prices_without_ray(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # every import, on standard error
    started = time.time()
    done = run(tmp_path, "+sweep=full_grid", "preset=tiny", "dry_run=true")
    assert done.returncode == 0, done.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert {"hydra", "dp_accounting"} <= imported
    assert "ray" not in imported
    assert "180 trials" in done.stdout
    assert "private releases: 36 (36 new); non-private uses of the training images: 9" in done.stdout
    assert "all 36 composed" in done.stdout
    assert not (tmp_path / "results").exists()
    assert time.time() - started < 30  # the aim is 5 s on an idle machine; this limit allows for a busy one


def stand_in(name, count):
    """Black images with captions in a decoded file, where this process looks for a dataset."""
    images, labels = np.zeros((count, 1, 28, 28), np.uint8), np.arange(count) % 2
    records = images, labels, ("a thing", "a bag") * (count // 2)
    splits = {"train": records, "test": tuple(part[:8] for part in records)}
    home = Path(".wavedp/data")
    home.mkdir(parents=True, exist_ok=True)
    decoded.write(home / f"{name}{decoded.SUFFIX}", DataConfig(name=name, n_records=256), ("thing", "bag"), splits)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_plans(path, tmp_path, monkeypatch, capsys):
    """Each file opens with its command and composes, checks and prices in miniature."""
    assert f"python -m sweeps.run +sweep={path.stem}" in path.read_text()
    monkeypatch.chdir(tmp_path)
    overrides = [f"+sweep={path.stem}", "preset=tiny", "dry_run=true", f"store={tmp_path / 'store'}"]
    if path.stem == "public_data":  # whose cases name datasets and numbers of records
        stand_in("openclipart", 8), stand_in("photographs", 8), stand_in("icons", 20_000)
    if path.stem == "baselines":
        overrides.append("data.n_records=1000")  # one of dp_kernel's batches
    if path.stem == "baselines_gpu":
        # A batch; the only split of procedural images; priv_image's clusters.
        overrides += ["data.n_records=5000", "data.split=official", "public.n_records=1000"]
    if path.stem == "random_search":
        overrides.append("sweep.search.random_k.seed=0")  # which its file leaves to whoever keeps the secret
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert sweeps.run.run(hydra.compose("config", overrides=overrides), overrides) == 0
    assert "trials" in capsys.readouterr().out


def test_a_random_search_of_no_trial_is_recorded_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overrides = [
        "+sweep=random_search", "preset=tiny", "sweep.search.random_k={distribution: poisson, mean: 1, seed: 2}",
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert sweeps.run.run(hydra.compose("config", overrides=overrides), overrides) == 0
    assert "K = 0 was drawn" in capsys.readouterr().out
    folder = tmp_path / "runs" / "random_search"
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"study.yaml"}
    recorded = yaml.safe_load((folder / "study.yaml").read_text())["axes"]["search"]["random_k"]
    assert recorded == {"distribution": "poisson", "mean": 1, "seed": 2, "drawn": 0}


def test_relative_paths_mean_the_folder_the_user_started_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.pth").touch()
    base = {
        "sampling": {"prompts": "prompts.txt"}, "data": {"home": "d", "path": None}, "public": None,
        "metrics": {"second_network_file": "dino.pt"}, "upscaler": {"name": "spandrel", "path": "network.pth"},
    }  # fmt: skip
    assert with_absolute_paths(base) == {
        "sampling": {"prompts": str(tmp_path / "prompts.txt")}, "data": {"home": str(tmp_path / "d"), "path": None},
        "public": None, "metrics": {"second_network_file": str(tmp_path / "dino.pt")},
        "upscaler": {"name": "spandrel", "path": str(tmp_path / "network.pth")},
    }  # fmt: skip
    hub = {"upscaler": {"name": "ldm_sr", "path": "CompVis/ldm", "revision": "0" * 40}}
    assert with_absolute_paths(hub) == hub


def test_the_gpu_preset_is_the_cpu_pipeline_at_another_size():
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        values = OmegaConf.to_container(hydra.compose("config", overrides=["preset=gpu"]), resolve=True)
    trial = trial_of({name: values[name] for name in sections(TrialConfig)})
    assert (trial.device, trial.metrics.fid_samples, trial.metrics.reference_samples) == ("cuda", 10_000, None)
    assert trial.generator.width % trial.generator.heads == 0
    assert chain.mechanisms(trial)["private_fit"].noise_multiplier > 0
    assert (trial.upscaler.name, trial.upscaler.train_steps, trial.privacy.precision) == (
        "wavelet_detail", 4000, "bfloat16")  # fmt: skip


@pytest.mark.parametrize(("epsilon", "percent"), [(1, 1), (3, 5), (10, 17)])
def test_the_gpu_presets_batch_is_near_the_recipes(epsilon, percent):
    """What its header says of the noise, from N, ε and the number of passes alone."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        privacy = hydra.compose("config", overrides=["preset=gpu"]).privacy
    found = recipe.candidates(60_000, epsilon, None, privacy.batch_size * privacy.steps)
    (ours,) = (item for item in found if item.batch_size == privacy.batch_size)
    assert ours.steps == privacy.steps
    assert round(100 * (ours.noise_per_signal / min(item.noise_per_signal for item in found) - 1)) == percent
    assert privacy.learning_rate == pytest.approx(ours.learning_rate * (64 / 256) ** 0.5)


def damaged_images(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    for split in ("train", "test"):
        for index in range(4):
            path = folder / "images" / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((28, 28), 9 * index, np.uint8)).save(path)
    (folder / "images/train/class0/broken.png").write_bytes(b"not a picture")
    return folder / "images"
