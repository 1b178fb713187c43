"""Compare MMDetection's own detectors with UBN and with BatchNorm.

Takes one config of each folder that the installed MMDetection has, puts UBN in place of
every BatchNorm and SyncBN, loads the same random weights, and compares a training step and
the predictions of both for random images, on the CPU. Nothing is downloaded. Each detector
that is done adds a line to --out. To repeat one, delete its line.

    python -m benchmarks.sweep
"""

import json
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import torch

from ubn_mmdet.markdown import markdown_table
from ubn_mmdet.mm.tools import ended_by, tool_parser
from ubn_mmdet.records import RecordError

from .reporting import ROOT, Results
from .sweep_detectors import families

SECTION = 'detectors'
SECONDS = 900  # given to a detector, at most
COMPARE = (sys.executable, '-W', 'ignore', '-m', 'benchmarks.sweep_compare')
SAME, ROUNDING, DIFFERS = 'same', 'rounding', 'differs'
# Differences are relative. Rounding grows with depth and on small maps.
TOLERANCE = {'float64': 1e-6, 'float32': 1e-2}
# Over the effect of one unit in the last place. Two ways of computing a norm layer are
# further apart: 1e-12 and 3e-14 in the gradients of a RetinaNet.
AMPLIFIED = 100
COMPARED = (
    'loss', 'gradient', 'statistics',
    'loss_as_is', 'gradient_as_is', 'prediction',
)  # fmt: skip


def verdict(row: Mapping) -> str:
    """``'same'``, ``'rounding'``, ``'differs'``, or ``'not swept: <reason>'``.

    Rounding: where more than the tolerance is between the two, BatchNorm with its last
    digits changed is about as far from itself.
    """
    if 'skipped' in row:
        return f'not swept: {row["skipped"]}'
    if 'failed' in row:
        return DIFFERS
    large = [key for key in COMPARED if row[key] > TOLERANCE[row['dtype']]]
    if not large:
        return SAME
    rounding = row.get('rounding', dict.fromkeys(COMPARED, 0))
    amplified = all(row[key] <= AMPLIFIED * rounding[key] for key in large)
    return ROUNDING if amplified else DIFFERS


def tables(record: Mapping[str, str], rows: Mapping[str, Mapping]) -> dict[str, str]:
    """Of a sweep's record and rows by folder: a summary, and what became of each.

    Detectors that are the same and have no BatchNorm left are listed, all others have a
    row in a table.
    """
    swept = {name: row for name, row in sorted(rows.items()) if 'skipped' not in row}
    alike = [n for n, r in swept.items() if verdict(r) == SAME and not r['kept']]
    found = [verdict(row) for row in swept.values()]
    versions = ', '.join(f'{n} {record[n]}' for n in ('mmdet', 'mmcv', 'torch'))
    header = (
        'folder', 'config', 'swapped', 'kept', 'precision',
        'loss', 'gradient', 'statistics', 'prediction', 'result',
    )  # fmt: skip
    others = ([n, *_cells(row)] for n, row in swept.items() if n not in alike)
    parts = [
        f'The same, with every BatchNorm replaced: {", ".join(alike)}.',
        markdown_table(header, others, words=2),
        'Not swept, because they have no BatchNorm or do not run here with BatchNorm: '
        f'{", ".join(sorted(rows.keys() - swept.keys()))}.',
    ]
    return {
        'summary': (
            f'{found.count(SAME)} of the {len(swept)} detectors that were swept are '
            f'the same, {found.count(ROUNDING)} differ by rounding, and '
            f'{found.count(DIFFERS)} otherwise ({versions}).'
        ),
        'detectors': '\n\n'.join(parts),
    }


def _cells(row: Mapping[str, Any]) -> list[object]:
    config = row['config'].removesuffix('.py')
    if 'failed' in row:
        return [config, *[''] * 7, row['failed']]
    worst = (
        max(row['loss'], row['loss_as_is']),
        max(row['gradient'], row['gradient_as_is']),
        row['statistics'],
        row['prediction'],
    )
    differences = (f'{value:.0e}' if value else '0' for value in worst)
    counts = row['swapped'], row['kept'], row['dtype']
    return [config, *counts, *differences, verdict(row)]


def sweep(out: Path, only: Collection[str] | None) -> int:
    """Sweep what ``out`` does not have yet.

    Args:
        out: The results; the record has the versions.
        only: Folders of configs, in this order; None for all.

    Returns:
        The number of detectors that ran and differ.

    Raises:
        ValueError: If MMDetection has no such folder.
        RecordError: If ``out`` is of other versions.
    """
    configs = families(Path(mmdet.__file__).parent / '.mim' / 'configs')
    if unknown := sorted(set(only or ()) - set(configs)):
        raise ValueError(f'no folder {", ".join(unknown)} among {", ".join(configs)}')
    versions = {m.__name__: m.__version__ for m in (mmengine, mmcv, mmdet)}
    results = Results(out, {'torch': torch.__version__, **versions})
    different = 0
    for name in only or configs:
        row = results.measure(SECTION, name, compare_alone, configs[name])
        print(f'  {verdict(row)}', flush=True)
        different += verdict(row) == DIFFERS
    return different


def compare_alone(
    config: Path, seconds: float = SECONDS, command: Sequence[str] = COMPARE
) -> dict[str, Any]:
    """The comparison in a process of its own: a crash or a leak ends with it."""
    row = {'config': config.name}
    try:
        done = subprocess.run(
            [*command, str(config)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return row | {'skipped': f'more than {seconds / 60:g} minutes'}
    if done.returncode:
        return row | {'failed': f'the process ended with {done.returncode}'}
    return row | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Sweep; ends with 1 if a detector differs."""
    parser = tool_parser(__doc__, 'python -m benchmarks.sweep')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('docs/sweep.jsonl'),
        help='the file for results (%(default)s)',
    )
    parser.add_argument(
        '--only', nargs='+', metavar='FOLDER', help='only these folders of configs'
    )
    args = parser.parse_args()
    with ended_by(RecordError, ValueError):
        different = sweep(args.out, args.only)
    sys.exit(1 if different else 0)


if __name__ == '__main__':
    main()
