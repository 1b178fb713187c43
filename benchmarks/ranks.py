"""What it costs to merge UBN's statistics over ranks, by gloo on CPUs, by NCCL on GPUs.

Merged and local statistics are timed interleaved in a layer's training step.

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m benchmarks.ranks
"""

import os
import sys

import torch
import torch.distributed as dist

from ubn_mmdet import UBN
from ubn_mmdet.measuring import Step, time_in_turns, training_step

from . import reporting

SHAPES = (2, 64, 160, 160), (2, 256, 50, 84), (2, 512, 25, 42), (8, 256, 10, 10)
MERGED, LOCAL = 'merged', 'local'


def rank_step(x: torch.Tensor, sync: bool) -> Step:
    """A training step of a layer that merges its statistics or does not."""
    step = training_step(UBN(x.shape[1], sync=sync).to(x.device), x)

    def together() -> None:
        dist.barrier()  # as without, one rank's lead counts as the other's cost
        step()

    return together


def tables(rows: reporting.Rows) -> dict[str, str]:
    """The results as a Markdown table."""
    return {'layer': reporting.ratio_table(rows['seconds'], ((MERGED, LOCAL),), LOCAL)}


def main() -> None:
    """Measure on all ranks; the first writes and prints."""
    args = reporting.parse_args('ranks', __doc__)
    if not dist.is_torchelastic_launched():
        sys.exit('start it as `torchrun --nproc_per_node 2 -m benchmarks.ranks`')
    if args.device.type == 'cuda':
        args.device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        torch.cuda.set_device(args.device)
    dist.init_process_group()
    times = {}
    for shape in SHAPES:
        x = torch.randn(shape, device=args.device)
        steps = {MERGED: rank_step(x, True), LOCAL: rank_step(x, False)}
        case = f'{shape} on each of {dist.get_world_size()} ranks'
        # One call a turn: all ranks have to make equally many.
        times[case] = time_in_turns(steps, args.turns, shortest=0)

    def keep(results: reporting.Results, turns: int, device: torch.device) -> None:
        for case, seconds in times.items():
            results.measure('seconds', case, dict, seconds)

    if dist.get_rank() == 0:
        reporting.run(args, keep, tables)
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
