"""What a norm layer costs: the time of a training step, memory, launches.

The layers take turns. Weights and inputs are random.

    python -m benchmarks.layers
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .command import parse_args, run_and_print
from .layer_steps import (
    BN,
    BN_3X3,
    SHAPES,
    SMALL,
    UBN_1,
    UBN_3,
    Shape,
    layer_launches,
    layer_memory,
    layer_steps,
)
from .results import Results
from .tables import ratio_table, value_table
from .timing import time_in_turns

RATIOS = (UBN_1, BN), (UBN_3, BN), (UBN_3, BN_3X3), ('BNET', BN)


def measure(results: Results, turns: int, device: torch.device) -> None:
    """Seconds of each turn, bytes kept for backward, and launches of a step."""

    def time(shape: Shape) -> dict[str, list[float]]:
        return time_in_turns(layer_steps(shape, device), turns, device)

    for name, shape in SHAPES.items():
        case = f'{name}: {shape}'
        results.measure('seconds', case, partial(time, shape))
        results.measure('saved bytes', case, partial(layer_memory, shape, device))
    results.measure('launches', str(SMALL), partial(layer_launches, device))


def tables(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The results as Markdown tables."""
    saved = {
        case: {name: f'{size / 1e6:.2f}' for name, size in sizes.items()}
        for case, sizes in rows['saved bytes'].items()
    }
    return {
        'step': ratio_table(rows['seconds'], RATIOS, BN),
        'memory': value_table('kept for backward, MB', saved),
        'launches': value_table('launches of a step', rows['launches']),
    }


def main() -> None:
    """Measure what is missing, and print all."""
    out = Path('work_dirs/benchmarks/layers.jsonl')
    run_and_print(parse_args(__doc__, out, turns=31), measure, tables)


if __name__ == '__main__':
    main()
