"""What UBN's synchronised statistics cost.

Alone it prints the alpha-beta model of a ResNet-50. Under torchrun it measures, on CPU, and
writes OUT:

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 tools/sync_cost.py --out sync-2.json
"""

import argparse
import json
from pathlib import Path

import torch
import torch.distributed as dist

from ubn_mmdet.bench import sync_cost
from ubn_mmdet.bench.machine import describe_machine
from ubn_mmdet.bench.tables import sync_tables
from ubn_mmdet.comparison.code_copy import describe_code
from ubn_mmdet.files import write_whole

SHAPES = ((2, 64, 160, 160), (2, 256, 50, 84), (2, 512, 25, 42), (8, 256, 10, 10))
CHANNELS = (64, 256, 2048)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmark/sync.json')
    )
    parser.add_argument('--repeats', type=int, default=30, help='turns (%(default)s)')
    return parser.parse_args()


def main() -> None:
    """Print the model, or measure."""
    args = parse_args()
    if not dist.is_torchelastic_launched():
        print(sync_cost.model_table())
        return
    dist.init_process_group('gloo')
    machine = describe_machine(torch.device('cpu')) | {
        'processes': dist.get_world_size(),
        'ubn_mmdet': describe_code(),
    }
    layers = {
        str(shape): sync_cost.measure_layers(shape, args.repeats) for shape in SHAPES
    }
    merges = {
        f'{channels} channels': sync_cost.measure_merges(channels, args.repeats)
        for channels in CHANNELS
    }
    if dist.get_rank() == 0:
        content = {'machine': machine, 'layer': layers, 'merge': merges}
        write_whole(args.out, json.dumps(content, indent=1).encode())
        print('\n\n'.join(sync_tables(content).values()))
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
