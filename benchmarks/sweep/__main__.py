"""Compare MMDetection's own detectors with UBN and with BatchNorm.

Takes one config of each folder that the installed MMDetection has, puts UBN in place of
every BatchNorm and SyncBN, loads the same random weights, and compares a training step and
the predictions of both for random images, on the CPU. Nothing is downloaded. Each detector
that is done adds a line to --out. To repeat one, delete its line.

    python -m benchmarks.sweep
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import torch

from ..reporting import ROOT, Results, ResultsError
from .configs import families
from .verdict import DIFFERS, verdict

OUT = Path('docs/sweep.jsonl')
SECTION = 'detectors'
SECONDS = 900  # given to a detector, at most
COMPARE = (sys.executable, '-W', 'ignore', '-m', 'benchmarks.sweep.compare')


def sweep(out: Path, only: Collection[str] | None) -> int:
    """Sweep what ``out`` does not have yet.

    Args:
        out: The results; the record has the versions.
        only: Folders of configs, in this order; None for all.

    Returns:
        The number of detectors that ran and differ.

    Raises:
        ResultsError: If ``out`` is of other versions.
        ValueError: If MMDetection has no such folder.
    """
    configs = families(Path(mmdet.__file__).parent / '.mim' / 'configs')
    if unknown := sorted(set(only or ()) - set(configs)):
        raise ValueError(f'no folder {", ".join(unknown)} among {", ".join(configs)}')
    versions = {m.__name__: m.__version__ for m in (mmengine, mmcv, mmdet)}
    results = Results(out, {'torch': torch.__version__, **versions})
    different = 0
    for name in only or configs:
        row = results.measure(SECTION, name, partial(compare_alone, configs[name]))
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
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.sweep',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--out', type=Path, default=OUT, help='the file for results (%(default)s)'
    )
    parser.add_argument(
        '--only', nargs='+', metavar='FOLDER', help='only these folders of configs'
    )
    args = parser.parse_args()
    try:
        different = sweep(args.out, args.only)
    except (ResultsError, ValueError) as error:
        sys.exit(str(error))
    sys.exit(1 if different else 0)


if __name__ == '__main__':
    main()
