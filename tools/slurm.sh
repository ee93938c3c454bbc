#!/usr/bin/env bash
# Trains on several machines of a Slurm cluster: one process a node, which takes all GPUs that it sees.
#
#   sbatch --nodes=4 tools/slurm.sh --data_dir=/shared/imagenet --workdir=/shared/runs/mine \
#       --recipe=original --batch_size=512 --learning_rate_scaling=linear
#
# Data and work directory lie on a file system that all nodes share. A process that is lost ends all others (status 75);
# they are started again, up to ATTEMPTS times, and go on from the newest checkpoint. Slurm's warning before the time is
# over, or scancel, ends in a checkpoint (status 143).
#SBATCH --job-name=alexnet
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -uo pipefail

PORT=${PORT:-2222}
ATTEMPTS=${ATTEMPTS:-10}
PYTHON=${PYTHON:-python}
# sbatch runs a copy of this file; the job begins in the directory that it was submitted from.
TRAIN=${TRAIN:-tools/train.py}

workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/:$PORT/" | paste -sd, -)
export workers PYTHON TRAIN

for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
    # The shell of each task puts in its own number.
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=0 bash -c \
        'exec "$PYTHON" "$TRAIN" "$@" --distribute=multiworker --workers="$workers" --worker_index="$SLURM_PROCID"' \
        train "$@"
    status=$?
    # srun tells the highest status: 75 of one that lost another, 137 of one that was killed.
    if ((status != 75 && status != 137)); then
        exit "$status"
    fi
    echo "attempt $attempt of $ATTEMPTS ended with status $status" >&2
done
exit "$status"
