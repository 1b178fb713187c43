"""Train a detector with several norms and seeds, everything else equal.

Every finished run is one json line in the results file. Interrupted, also in the middle of
a run, the same command goes on. Runs use the code of a commit, from a copy of its own.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ubn_mmdet.comparison.code_copy import CodeError
from ubn_mmdet.comparison.driver import Driver, Resources
from ubn_mmdet.comparison.results import FAILED, ResultsError
from ubn_mmdet.comparison.spec import Comparison, SpecError
from ubn_mmdet.comparison.workspace import ComparisonError
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox

WORK_DIRS = Path('work_dirs/comparisons')


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'comparison', type=Path, help='a file like comparisons/nuclei.py'
    )
    parser.add_argument(
        '--data', help='a COCO-format folder, in place of the one that the file names'
    )
    parser.add_argument(
        '--work-dir', type=Path, help=f'where runs go (default: {WORK_DIRS}/NAME)'
    )
    parser.add_argument(
        '--results',
        type=Path,
        help='the results file (default: WORK_DIR/results.jsonl)',
    )
    parser.add_argument(
        '--only', nargs='+', default=[], metavar='NORM', help='run these norms alone'
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[], help='run these seeds alone'
    )
    parser.add_argument(
        '--jobs',
        type=int,
        help='runs side by side, which share the threads (default: one for each GPU, '
        'one on the CPU)',
    )
    parser.add_argument(
        '--gpus',
        nargs='+',
        type=int,
        help='indices of the GPUs to use (default: all there are)',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='pytorch: one run after the other, each on all GPUs',
    )
    parser.add_argument(
        '--commit',
        metavar='REV',
        help='the code to run (default: that of the runs in WORK_DIR; HEAD for a new one)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help="settings of the config to override, key=value as in MMDetection's tools",
    )
    return parser.parse_args()


def choose(comparison: Comparison, args: argparse.Namespace) -> Resources:
    """The machine's share, as asked for."""
    import torch

    there = list(range(torch.cuda.device_count()))
    gpus = tuple(there if args.gpus is None else args.gpus)
    if missing := set(gpus) - set(there):
        raise ComparisonError(f'there is no GPU {min(missing)}; there are {len(there)}')
    if args.jobs is not None and args.jobs < 1:
        raise ComparisonError(f'--jobs must be at least 1, got {args.jobs}')
    jobs = args.jobs or max(1, len(gpus) // comparison.processes)
    return Resources(jobs=jobs, gpus=gpus)


def read_comparison(args: argparse.Namespace) -> Comparison:
    """The file, with what the command line overrides."""
    comparison = Comparison.open(args.comparison)
    options = comparison.options | (args.cfg_options or {})
    comparison = replace(comparison, options=options)
    for name in args.only:
        if name not in comparison.norm_names():
            known = ', '.join(comparison.norm_names())
            raise SpecError(f'--only: there is no norm {name!r}; there are {known}')
    if args.launcher == 'pytorch':
        import torch

        there = len(args.gpus or range(torch.cuda.device_count()))
        comparison = replace(comparison, processes=max(comparison.processes, there))
    return comparison


def main() -> None:
    """Run the comparison; what is wrong with it ends it with a message."""
    try:
        require_toolbox()
        args = parse_args()
        comparison = read_comparison(args)
        work_dir = args.work_dir or WORK_DIRS / comparison.name
        driver = Driver(
            comparison,
            data=args.data or comparison.data,
            work_dir=work_dir,
            results_file=args.results or work_dir / 'results.jsonl',
            revision=args.commit,
            say=lambda text: print(text, flush=True),
        )
        lines = driver.run(choose(comparison, args), args.only, args.seeds)
    except (ToolboxError, SpecError, CodeError, ComparisonError, ResultsError) as error:
        sys.exit(f'compare_norms: {error}')
    except KeyboardInterrupt:
        print('\nInterrupted: the same command goes on from here.', file=sys.stderr)
        sys.exit(130)
    failed = sum(line['status'] == FAILED for line in lines)
    print(f'{len(lines)} runs in {driver.results_file}')
    if failed:
        sys.exit(
            f'{failed} of them failed: see their "error"; the same command retries'
        )


if __name__ == '__main__':
    main()
