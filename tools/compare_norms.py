"""Train a detector with several norms and seeds, everything else equal.

Each finished run adds one JSON line to the results file. After an interruption, the same
command resumes, also in the middle of a run. Runs use a copy of the code of one commit.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from ubn_mmdet.comparison.driver import Driver
from ubn_mmdet.comparison.launchers import (
    CLUSTERS,
    ClusterLauncher,
    Launcher,
    LocalLauncher,
)
from ubn_mmdet.comparison.results import FAILED, ResultsError
from ubn_mmdet.comparison.spec import Comparison, SpecError
from ubn_mmdet.comparison.workspace import ComparisonError, claim, run_from_copy
from ubn_mmdet.mm.toolbox import ToolboxError, require_toolbox
from ubn_mmdet.mm.tools import add_cfg_options, ended_by, resumable, tool_parser

say = partial(print, flush=True)  # at once, also into a pipe
WORK_DIRS = Path('work_dirs/comparisons')


def parse_args() -> argparse.Namespace:
    """The command line; --help tells."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add('comparison', type=Path, help='a file like comparisons/nuclei.py')
    add(
        '--data',
        help='the COCO-format folder (default: the one that the comparison names)',
    )
    add('--work-dir', type=Path, help=f'where runs go (default: {WORK_DIRS}/NAME)')
    add(
        '--results',
        type=Path,
        help='the results file (default: WORK_DIR/results.jsonl)',
    )
    add('--only', nargs='+', default=[], metavar='NORM', help='run only these norms')
    add('--seeds', nargs='+', type=int, default=[], help='run only these seeds')
    add(
        '--jobs',
        type=int,
        help='how many runs in parallel; they share the threads (default: one for each '
        'GPU, one on the CPU). On a cluster: how many jobs at once',
    )
    add('--gpus', nargs='+', type=int, help='indices of the GPUs to use (default: all)')
    add(
        '--cluster',
        choices=CLUSTERS,
        help='submit each run as a job, through submitit. Jobs continue when this command '
        'ends; a later call collects their results (local: jobs on the CPU here)',
    )
    add('--partition', help='partition of the Slurm cluster')
    add_cfg_options(
        parser,
        '--cluster-options',
        "parameters of submitit's executor, such as timeout_min=600 cpus_per_task=8 "
        'slurm_account=me',
    )
    add(
        '--commit',
        metavar='REV',
        help='the commit whose code runs (default: that of WORK_DIR; HEAD if it is new)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def choose(
    comparison: Comparison, work_dir: Path, args: argparse.Namespace
) -> Launcher:
    """What starts the runs, as asked for."""
    import torch

    if args.jobs is not None and args.jobs < 1:
        raise ComparisonError(f'--jobs must be at least 1, got {args.jobs}')
    there = list(range(torch.cuda.device_count()))
    if args.cluster:
        if args.gpus is not None:
            raise ComparisonError('--gpus is for runs without --cluster')
        options = args.cluster_options or {}
        if args.partition:
            options |= {'slurm_partition': args.partition}
        if args.cluster == 'local':  # which would give all jobs the same GPU
            options.setdefault('gpus_per_node', 0)
        return ClusterLauncher(
            work_dir / 'submitit',
            args.cluster,
            comparison.processes,
            comparison.workers,
            args.jobs,
            options,
        )
    if args.partition or args.cluster_options:
        raise ComparisonError('--partition and --cluster-options need --cluster')
    gpus = there if args.gpus is None else args.gpus
    if missing := set(gpus) - set(there):
        raise ComparisonError(f'there is no GPU {min(missing)}; there are {len(there)}')
    if len(set(gpus)) < len(gpus):
        raise ComparisonError(f'--gpus names one twice: {gpus}')
    jobs = args.jobs or max(1, len(gpus) // comparison.processes)
    return LocalLauncher(jobs, gpus, comparison.processes)


def read_comparison(args: argparse.Namespace) -> Comparison:
    """The file, with what the command line overrides."""
    comparison = Comparison.open(args.comparison)
    options = comparison.options | (args.cfg_options or {})
    comparison = replace(comparison, options=options)
    seeds = sorted({run.seed for run in comparison.all_runs})
    known: dict[str, list] = {'--only': list(comparison.planned()), '--seeds': seeds}
    for option, asked in ('--only', args.only), ('--seeds', args.seeds):
        for each in asked:
            if each not in known[option]:
                there = ', '.join(map(str, known[option]))
                raise SpecError(f'{option}: there is no {each!r}; there are {there}')
    if not list(comparison.runs(args.only, args.seeds)):
        raise SpecError('no run has one of these norms and one of these seeds')
    return comparison


def main() -> None:
    """Run the comparison; what is wrong with it ends it with a message."""
    with (
        resumable(),
        ended_by(ToolboxError, SpecError, ComparisonError, ResultsError),
    ):
        args = parse_args()
        require_toolbox()
        comparison = read_comparison(args)
        work_dir = args.work_dir or WORK_DIRS / comparison.name
        commit = claim(work_dir, comparison.name, args.commit)
        run_from_copy(commit, work_dir / 'code', say)
        driver = Driver(
            comparison,
            data=args.data or comparison.data,
            work_dir=work_dir,
            results_file=args.results or work_dir / 'results.jsonl',
            commit=commit,
            say=say,
            runs=list(comparison.runs(args.only, args.seeds)),
        )
        launcher = choose(comparison, work_dir, args)
        lines = driver.run(launcher)
    failed = sum(line['status'] == FAILED for line in lines)
    print(f'{len(lines)} runs in {driver.results_file}')
    if failed:
        sys.exit(
            f'{failed} of them failed: see their "error"; the same command retries'
        )


if __name__ == '__main__':
    main()
