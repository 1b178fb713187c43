#!/usr/bin/env bash
# Train under Slurm:
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS, as MMDetection's.
set -euo pipefail
(($# >= 4)) || {
    sed -n "2,4s/^# //p" "$0" >&2
    exit 2
}
tools=$(dirname "$0")
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
partition=$1 job_name=$2 config=$3 work_dir=$4
per_node=${GPUS_PER_NODE:-8}
read -ra srun_args <<<"${SRUN_ARGS:-}"

srun -p "$partition" \
    --job-name="$job_name" \
    --gres=gpu:"$per_node" \
    --ntasks="${GPUS:-8}" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    "${srun_args[@]}" \
    python -u "$tools/train.py" "$config" --work-dir="$work_dir" --launcher=slurm "${@:5}"
