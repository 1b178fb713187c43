"""What benchmarks share: their command line, their results, and tables of these.

Results are json lines: what they were measured on, then one line for each case.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ubn_mmdet.files import append_line, read_lines
from ubn_mmdet.machine import describe_machine
from ubn_mmdet.markdown import markdown_table

from .measuring import Times, ratio

ROOT = Path(__file__).resolve().parents[1]
Rows = Mapping[str, Mapping[str, Any]]  # by section and case


class ResultsError(ValueError):
    """The file holds other results; the message says which."""


class Results:
    """A file that grows line by line. What it holds is not measured again.

    Attributes:
        record: What the results were measured on, the first line.
        rows: The results, by section and case.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        """Open a file, or begin one.

        Raises:
            ResultsError: If the file was measured on something else.
        """
        self._path, self.record = path, record
        self.rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            append_line(path, record)
        found, self.rows = read_results(path)
        if found != record:
            raise ResultsError(
                f'{path} holds results of {found}; now there is {dict(record)}. '
                'Name another file.'
            )

    def measure(self, section: str, case: str, run: Callable[[], Any]) -> Any:
        """The result of a case. If there is none, it is what ``run`` returns."""
        cases = self.rows.setdefault(section, {})
        if case not in cases:
            print(f'{section}: {case}', flush=True)
            cases[case] = run()
            line = {'section': section, 'case': case, 'value': cases[case]}
            append_line(self._path, line)
        return cases[case]


def read_results(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The record of a file, and its results by section and case.

    Raises:
        ResultsError: If the file has no record.
    """
    lines = read_lines(path)
    if not lines:
        raise ResultsError(f'{path} holds no results')
    rows: dict[str, dict[str, Any]] = {}
    for line in lines[1:]:
        rows.setdefault(line['section'], {})[line['case']] = line['value']
    return lines[0], rows


def describe(record: Mapping[str, Any]) -> str:
    """What was measured on, a sentence."""
    listed = ', '.join(f'{key} {value}' for key, value in record.items())
    return f'Measured on: {listed}.'


def ratio_table(
    cases: Mapping[str, Times], ratios: tuple[tuple[str, str], ...], base: str
) -> str:
    """A row for each case: the ratios of steps, and the milliseconds of ``base``."""
    header = ['', *(f'{over} / {under}' for over, under in ratios), f'{base}, ms']
    rows = (
        [
            case,
            *(ratio(times, *pair) for pair in ratios),
            f'{1e3 * statistics.median(times[base]):.2f}',
        ]
        for case, times in cases.items()
    )
    return markdown_table(header, rows)


def value_table(
    title: str, cases: Mapping[str, Mapping[str, float]], form: str = ''
) -> str:
    """A row for each case, a column for each layer; ``form`` is how numbers look."""
    names = list(next(iter(cases.values())))
    rows = (
        [case, *(format(values[name], form) for name in names)]
        for case, values in cases.items()
    )
    return markdown_table([title, *names], rows)


def in_megabytes(cases: Mapping[str, Mapping[str, int]]) -> dict[str, dict]:
    """Of bytes."""
    return {
        case: {name: size / 1e6 for name, size in sizes.items()}
        for case, sizes in cases.items()
    }


def parse_args(description: str | None, name: str, turns: int) -> argparse.Namespace:
    """The command line of a benchmark; ``turns`` is the default."""
    parser = argparse.ArgumentParser(
        prog=f'python -m benchmarks.{name}',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(f'work_dirs/benchmarks/{name}.jsonl'),
        help='the file for results, which the same command resumes (%(default)s)',
    )
    parser.add_argument(
        '--turns', type=int, default=turns, help='rounds to measure (%(default)s)'
    )
    parser.add_argument(
        '--device',
        type=torch.device,
        default=torch.device('cuda' if torch.cuda.is_available() else 'cpu'),
        help='where to measure (%(default)s)',
    )
    return parser.parse_args()


def run_and_print(
    args: argparse.Namespace,
    measure: Callable[[Results, int, torch.device], None],
    tables: Callable[[Rows], dict[str, str]],
) -> None:
    """Measure what ``args.out`` does not have yet, and print all as tables."""
    # The machine, its versions, and the commit of this checkout.
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty']
    commit = subprocess.run(
        [*command, '--exclude=*', '--abbrev=12'],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    record = describe_machine(args.device) | {'ubn_mmdet': commit}
    try:
        results = Results(args.out, record)
    except ResultsError as error:
        sys.exit(str(error))
    measure(results, args.turns, args.device)
    print('\n\n'.join([describe(record), *tables(results.rows).values()]))
