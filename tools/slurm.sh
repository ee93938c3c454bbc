#!/usr/bin/env bash
# Trains on several nodes of a Slurm cluster, with one process per node, which uses all GPUs that it sees.
#
#   sbatch --nodes=4 tools/slurm.sh --data_dir=/shared/imagenet --workdir=/shared/runs/mine \
#       --recipe=original --batch_size=512 --learning_rate_scaling=linear
#
# The data and the work directory must be on a file system that all nodes share. If a process is lost, all others exit
# with status 75; they are restarted, up to ATTEMPTS times, and resume from the newest checkpoint. On Slurm's warning
# before the time limit, or scancel, they save a checkpoint and exit with status 143.
#SBATCH --job-name=alexnet
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -uo pipefail

PORT=${PORT:-2222}
ATTEMPTS=${ATTEMPTS:-10}
PYTHON=${PYTHON:-python}
# sbatch runs a copy of this file; the job starts in the directory from which it was submitted.
TRAIN=${TRAIN:-tools/train.py}

workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/:$PORT/" | paste -sd, -)
export workers PYTHON TRAIN

for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
    # The shell of each task expands its own index.
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=0 bash -c \
        'exec "$PYTHON" "$TRAIN" "$@" --distribute=multiworker --workers="$workers" --worker_index="$SLURM_PROCID"' \
        train "$@"
    status=$?
    # srun returns the highest status: 75 of a process that lost another, 137 of one that was killed.
    if ((status != 75 && status != 137)); then
        exit "$status"
    fi
    echo "attempt $attempt of $ATTEMPTS ended with status $status" >&2
done
exit "$status"
