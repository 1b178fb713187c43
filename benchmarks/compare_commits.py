"""What a change made faster or slower: two commits of this package, side by side.

A process of each commit is started, and the two take turns. That is done several times, as
one process can be slow by chance. BatchNorm, which no commit changes, shows how far a
measurement is to be trusted.

    python -m benchmarks.compare_commits main HEAD
"""

import argparse
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .command import add_common_arguments
from .layer_steps import SHAPES
from .results import Results, ResultsError, describe, git, measured_on
from .tables import value_table
from .timing import SHORTEST, median_with_interval
from .worker import DETECTOR, Worker


def compare_round(
    old: Worker, new: Worker, cases: Iterable[str], turns: int
) -> dict[str, dict[str, float]]:
    """For each case and layer the median over turns of new over old."""
    medians: dict[str, dict[str, float]] = {}
    for case in cases:
        names = old.ask('prepare', case)
        new.ask('prepare', case)
        medians[case] = {}
        for name in names:
            for worker in (old, new):
                worker.ask('seconds', name, 1)
            calls = math.ceil(SHORTEST / old.ask('seconds', name, 1))
            pairs = []
            for turn in range(turns):
                order = (old, new) if turn % 2 else (new, old)
                seconds = {
                    worker: worker.ask('seconds', name, calls) for worker in order
                }
                pairs.append(seconds[new] / seconds[old])
            medians[case][name] = statistics.median(pairs)
    return medians


def measure(
    results: Results, trees: tuple[Path, Path], args: argparse.Namespace
) -> None:
    """Memory and launches of both commits, and rounds of two processes that take turns."""
    cases = [*SHAPES, *([DETECTOR] if args.detector else [])]

    @contextmanager
    def workers() -> Iterator[list[Worker]]:
        with ExitStack() as stack:
            yield [
                stack.enter_context(closing(Worker(tree, args.device)))
                for tree in trees
            ]

    def costs(*question: str) -> dict[str, Any]:
        with workers() as both:
            old, new = (worker.ask(*question) for worker in both)
        return {name: f'{old[name]:,} → {new[name]:,}' for name in new if name in old}

    def compare() -> dict[str, dict[str, float]]:
        with workers() as (old, new):
            return compare_round(old, new, cases, args.turns)

    results.measure('launches', 'of a step', partial(costs, 'launches'))
    for case in SHAPES:
        results.measure('saved bytes', case, partial(costs, 'memory', case))
    for i in range(args.rounds):
        results.measure('round', str(i + 1), compare)


def tables(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The results as Markdown tables."""
    rounds = list(rows['round'].values())
    ratios = {
        case: {
            name: median_with_interval([of[case][name] for of in rounds])
            for name in rounds[0][case]
        }
        for case in rounds[0]
    }
    detector = {case: ratios.pop(case) for case in [DETECTOR] if case in ratios}
    return {
        'layers': value_table('new / old', ratios),
        **({'detector': value_table('new / old', detector)} if detector else {}),
        'memory': value_table('kept for backward, bytes', rows['saved bytes']),
        'launches': value_table('launches', rows['launches']),
    }


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The code of a commit, with the benchmarks of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, commit)
        git('worktree', 'add', '--quiet', '--detach', str(tree), commit)
        try:
            here = Path(__file__).parent
            shutil.rmtree(tree / here.name, ignore_errors=True)
            shutil.copytree(here, tree / here.name)
            yield tree
        finally:
            git('worktree', 'remove', '--force', str(tree))


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('old', help='a commit')
    parser.add_argument('new', help='another')
    parser.add_argument(
        '--rounds', type=int, default=9, help='pairs of processes (%(default)s)'
    )
    parser.add_argument(
        '--detector', action='store_true', help=f'also: {DETECTOR} (needs MMDetection)'
    )
    out = Path('work_dirs/benchmarks/OLD-NEW.jsonl')
    add_common_arguments(parser, out, turns=9)
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, and print all."""
    args = parse_args()
    try:
        old, new = (
            git('rev-parse', '--short=12', f'{c}^{{commit}}')
            for c in (args.old, args.new)
        )
        out = args.out.with_name(args.out.name.replace('OLD-NEW', f'{old}-{new}'))
        results = Results(out, measured_on(args.device) | {'old': old, 'new': new})
    except (ResultsError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
    with worktree(old) as old_tree, worktree(new) as new_tree:
        measure(results, (old_tree, new_tree), args)
    print('\n\n'.join([describe(results.record), *tables(results.rows).values()]))


if __name__ == '__main__':
    main()
