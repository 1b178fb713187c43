#!/usr/bin/env bash
# Test on several devices:
# tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of test.py]
# Over several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, as MMDetection's.
set -euo pipefail
(($# >= 3)) || {
    sed -n "2,4s/^# //p" "$0" >&2
    exit 2
}
tools=$(dirname "$0")
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
config=$1 checkpoint=$2 processes=$3

python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
