"""MMDetection's own detectors with UBN in place of BatchNorm, compared.

Takes one config of each folder that the installed MMDetection has, puts UBN in place of
every BatchNorm and SyncBN, loads the same random weights, and compares a training step and
the predictions of both for random images, on the CPU. Nothing is downloaded. Each detector
that is done is a line of --out; to do one again, delete its line.

    python -m benchmarks.sweep
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Collection
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import mmengine
import torch
from mmdet.utils import register_all_modules

from ..detectors import log_warnings_alone
from ..reporting import Results, ResultsError
from . import compare
from .configs import families
from .verdict import DIFFERS, verdict

OUT = Path('docs/sweep.jsonl')
SECTION = 'detectors'
SECONDS = 900  # given to a detector, at most
NORM = {'type': 'UBN'}


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
    results = Results(
        out,
        {
            'torch': torch.__version__,
            **{m.__name__: m.__version__ for m in (mmengine, mmcv, mmdet)},
        },
    )
    register_all_modules()
    log_warnings_alone('sweep')
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', '1')))
    different = 0
    for name in only or configs:
        row = results.measure(SECTION, name, partial(compare_alone, configs[name]))
        print(f'  {verdict(row)}', flush=True)
        different += verdict(row) == DIFFERS
    return different


def compare_alone(config: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """The comparison in a process of its own: a crash or a leak ends with it."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, config))
    process.start()
    sender.close()
    row = {'config': config.name}
    try:
        if not receiver.poll(seconds):
            return row | {'skipped': f'more than {seconds / 60:g} minutes'}
        return row | receiver.recv()
    except EOFError:
        process.join()
        return row | {'failed': f'the process ended with {process.exitcode}'}
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, config: Path) -> None:
    try:
        result = compare.compare(config, NORM)
    except compare.NotSwept as error:
        result = {'skipped': str(error)}
    except Exception as error:  # the norm's own: reported like a difference
        result = {'failed': compare.sentence(error)}
    sender.send(result)


def main() -> None:
    """Sweep; ends with 1 if a detector differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, default=OUT, help='(%(default)s)')
    parser.add_argument(
        '--only', nargs='+', metavar='FOLDER', help='these folders of configs alone'
    )
    args = parser.parse_args()
    try:
        different = sweep(args.out, args.only)
    except (ResultsError, ValueError) as error:
        sys.exit(str(error))
    sys.exit(1 if different else 0)


if __name__ == '__main__':
    main()
