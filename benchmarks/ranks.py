"""What it costs to merge UBN's statistics over ranks, by gloo on CPUs, by NCCL on GPUs.

Merged and local statistics are timed interleaved in a layer's training step.

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m benchmarks.ranks
"""

import os
import sys
from functools import partial

import torch
import torch.distributed as dist

from ubn_mmdet import UBN

from .layers import Shape, training_step
from .measuring import Step, time_in_turns
from .reporting import Results, Rows, parse_args, ratio_table, run_and_print

SHAPES = (2, 64, 160, 160), (2, 256, 50, 84), (2, 512, 25, 42), (8, 256, 10, 10)
MERGED, LOCAL = 'merged', 'local'


def rank_steps(shape: Shape, device: torch.device) -> dict[str, Step]:
    """A training step of a layer with merged and with local statistics."""

    def together(step: Step) -> Step:
        def run() -> None:
            dist.barrier()  # as without, one rank's lead counts as the other's cost
            step()

        return run

    x = torch.randn(shape, device=device)
    layers = {MERGED: UBN(shape[1]), LOCAL: UBN(shape[1], sync=False)}
    return {
        name: together(training_step(layer.to(device), x))
        for name, layer in layers.items()
    }


def tables(rows: Rows) -> dict[str, str]:
    """The results as a Markdown table."""
    return {'layer': ratio_table(rows['seconds'], ((MERGED, LOCAL),), LOCAL)}


def main() -> None:
    """Measure on all ranks; the first writes and prints."""
    args = parse_args(__doc__, 'ranks', turns=31)
    if not dist.is_torchelastic_launched():
        sys.exit('start it as `torchrun --nproc_per_node 2 -m benchmarks.ranks`')
    if args.device.type == 'cuda':
        args.device = torch.device('cuda', int(os.environ['LOCAL_RANK']))
        torch.cuda.set_device(args.device)
    dist.init_process_group()
    ranks = dist.get_world_size()
    # One call a turn: all ranks have to make equally many.
    times = {
        f'{shape} on each of {ranks} ranks': time_in_turns(
            rank_steps(shape, args.device), args.turns, args.device, shortest=0
        )
        for shape in SHAPES
    }

    def keep(results: Results, turns: int, device: torch.device) -> None:
        for case in times:
            results.measure('seconds', case, partial(times.get, case))

    if dist.get_rank() == 0:
        run_and_print(args, keep, tables)
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
