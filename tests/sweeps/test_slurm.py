"""conf/ray/slurm.sh, with programs of Slurm and Ray that say how they are called."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "conf" / "ray" / "slurm.sh"
PROGRAMS = {
    "scontrol": '#!/bin/sh\n[ "$*" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n',
    "srun": '#!/bin/sh\nexec "$@"\n',
    "ray": '#!/bin/sh\nfor each; do echo "$each"; done >> "$SAID"\necho "mode $RAY_AUTH_MODE" >> "$SAID"\n',
}


def test_every_node_starts_ray_and_the_first_the_study(tmp_path):
    for name, content in PROGRAMS.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_NUM_NODES": "2"}
    job |= {"SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_PER_TASK": "2"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")}
    typed = ["+sweep=full_grid", "only=epsilon=1 seed=0"]
    done = subprocess.run(["bash", str(SCRIPT), *typed], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "said").read_text().splitlines()
    token = told.index("mode token")
    assert told[:token] == ["get-auth-token", "--generate"]
    address = "gpu07:24567"
    assert told[token + 1 :] == [
        "symmetric-run", "--address", address, "--min-nodes", "2", "--num-cpus", "16", "--num-gpus", "2", "--",
        "python", "-m", "sweeps.run", "ray=slurm", f"ray.address={address}", *typed, "mode token",
    ]  # fmt: skip
