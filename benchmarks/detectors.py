"""What UBN costs in a detector's training: time and memory.

The same detector with each norm takes turns, with random weights, images and boxes.

    python -m benchmarks.detectors
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .command import parse_args, run_and_print
from .detector_steps import (
    R18,
    R50,
    RETINANET,
    Case,
    feature_memory,
    feature_steps,
    whole_steps,
)
from .layer_steps import BN, BN_3X3, UBN_1, UBN_3
from .results import Results
from .tables import ratio_table, value_table
from .timing import time_in_turns

RATIOS = (UBN_1, BN), (UBN_3, BN), (UBN_3, BN_3X3)


def measure(results: Results, turns: int, device: torch.device) -> None:
    """Seconds of each turn, and bytes that backbone and neck keep for backward."""

    def time(steps: Callable, case: Case) -> dict:
        return time_in_turns(steps(case, device), turns, device)

    for case in (R50, R18):
        name = f'{case}: backbone and neck'
        results.measure('seconds', name, partial(time, feature_steps, case))
        results.measure('saved bytes', str(case), partial(feature_memory, case, device))
    name = f'{RETINANET}: whole step'
    results.measure('seconds', name, partial(time, whole_steps, RETINANET))


def tables(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The results as Markdown tables."""
    saved = {
        case: {name: f'{size / 1e6:.0f}' for name, size in sizes.items()}
        for case, sizes in rows['saved bytes'].items()
    }
    return {
        'step': ratio_table(rows['seconds'], RATIOS, BN),
        'memory': value_table('backbone and neck keep for backward, MB', saved),
    }


def main() -> None:
    """Measure what is missing, and print all."""
    out = Path('work_dirs/benchmarks/detectors.jsonl')
    run_and_print(parse_args(__doc__, out, turns=15), measure, tables)


if __name__ == '__main__':
    main()
