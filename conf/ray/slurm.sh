#!/bin/bash
# A study on the nodes of one Slurm job: Ray on every node, the command on the first, and all of it gone at the end.
#   sbatch --nodes=2 --gpus-per-task=2 conf/ray/slurm.sh +sweep=full_grid store=/shared/wavedp/store results=/shared/wavedp/runs
# Killed by its time limit? Submit the same line again: it goes on. The environment is that of the shell that submits.
#SBATCH --job-name=wavedp
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))  # of this job alone, should two share a node
export RAY_AUTH_MODE=token  # of the home folder, which the nodes share: nobody else on them gets in
ray get-auth-token --generate > /dev/null
exec srun ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_PER_TASK:-0}" \
    -- python -m sweeps.run ray=slurm "ray.address=$head:$port" "$@"
