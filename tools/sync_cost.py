"""What UBN's synchronised statistics cost.

Alone it prints the alpha-beta model of a ResNet-50. Under torchrun it measures, on CPU:

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 tools/sync_cost.py
"""

import torch.distributed as dist

from ubn_mmdet.bench import sync_cost
from ubn_mmdet.bench.tables import ratio_table

SHAPES = ((2, 64, 160, 160), (2, 256, 50, 84), (2, 512, 25, 42), (8, 256, 10, 10))


def main() -> None:
    """Print a table."""
    if not dist.is_torchelastic_launched():
        print(sync_cost.model_table())
        return
    dist.init_process_group('gloo')
    cases = {str(shape): sync_cost.measure(shape, repeats=30) for shape in SHAPES}
    if dist.get_rank() == 0:
        print(ratio_table(cases, {'merged / local': ('merged', 'local')}))
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
