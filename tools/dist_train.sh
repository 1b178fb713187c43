#!/usr/bin/env bash
# Train on several devices: tools/dist_train.sh CONFIG PROCESSES [options of train.py]
# Over several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, as MMDetection's.
set -euo pipefail
(($# >= 2)) || {
    sed -n "2,3s/^# //p" "$0" >&2
    exit 2
}
tools=$(dirname "$0")
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
config=$1 processes=$2

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$tools/train.py" "$config" --launcher pytorch "${@:3}"
