"""What benchmarks share: their command line, their results, and tables of these.

Results are json lines: what they were measured on, then one line for each case.
"""

import argparse
import logging
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import quantile_test

from ubn_mmdet.files import append_line, read_lines
from ubn_mmdet.machine import describe_machine
from ubn_mmdet.markdown import markdown_table
from ubn_mmdet.mm.tools import ended_by, tool_parser
from ubn_mmdet.records import RecordError, check_record

ROOT = Path(__file__).resolve().parents[1]
Times = Mapping[str, Sequence[float]]
Rows = Mapping[str, Mapping[str, Any]]  # by section and case


class Results:
    """A file that grows line by line. What it holds is not measured again.

    Attributes:
        rows: The results, by section and case.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        """Open a file, or begin one.

        Raises:
            RecordError: If the file was measured on something else; it says what differs.
        """
        self._path = path
        if not path.exists():
            append_line(path, record)
        found, self.rows = read_results(path)
        check_record(path, found, record, 'results')

    def measure(
        self, section: str, case: str, run: Callable[..., Any], *args: object
    ) -> Any:
        """The result of a case. If there is none, it is what ``run(*args)`` returns."""
        cases = self.rows.setdefault(section, {})
        if case not in cases:
            print(f'{section}: {case}', flush=True)
            cases[case] = run(*args)
            line = {'section': section, 'case': case, 'value': cases[case]}
            append_line(self._path, line)
        return cases[case]


def read_results(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The record of a file, empty if it has none, and its results by section and case."""
    record, *lines = read_lines(path) or [{}]
    rows: dict[str, dict[str, Any]] = {}
    for line in lines:
        rows.setdefault(line['section'], {})[line['case']] = line['value']
    return record, rows


def describe(record: Mapping[str, Any]) -> str:
    """What was measured on, a sentence."""
    listed = ', '.join(f'{key} {value}' for key, value in record.items())
    return f'Measured on: {listed}.'


def ratio(times: Times, over: str, under: str) -> tuple[float, float, float]:
    """How long one takes over another: the median of the ratios of neighbouring turns.

    With it goes the median's 95% confidence interval. It is of order statistics, whatever
    the distribution. Five turns and fewer give none; then it is from nan to nan.
    """
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    found = quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return statistics.median(ratios), float(found.low), float(found.high)


def ratio_table(
    cases: Mapping[str, Times], ratios: tuple[tuple[str, str], ...], base: str
) -> str:
    """A row for each case: the ratios of steps, and the milliseconds of ``base``."""
    header = ['', *(f'{over} / {under}' for over, under in ratios), f'{base}, ms']
    rows = []
    for case, times in cases.items():
        found = [ratio(times, *pair) for pair in ratios]
        cells = [f'{middle:.2f} ({low:.2f}–{high:.2f})' for middle, low, high in found]
        rows.append([case, *cells, f'{1e3 * statistics.median(times[base]):.2f}'])
    return markdown_table(header, rows)


def value_table(
    title: str,
    cases: Mapping[str, Mapping[str, float]],
    form: str = '.0f',
    unit: float = 1,
) -> str:
    """A row for each case, a column for each layer; ``form`` is how numbers look."""
    names = list(next(iter(cases.values())))
    rows = (
        [case, *(format(values[name] / unit, form) for name in names)]
        for case, values in cases.items()
    )
    return markdown_table([title, *names], rows)


def parse_args(
    name: str, description: str | None, turns: int = 31
) -> argparse.Namespace:
    """The command line of a benchmark; ``turns`` is the default."""
    parser = tool_parser(description, f'python -m benchmarks.{name}')
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


def run(
    args: argparse.Namespace,
    measure: Callable[[Results, int, torch.device], None],
    tables: Callable[[Rows], dict[str, str]],
) -> None:
    """Measure what ``args.out`` does not have yet, and print all as tables."""
    if args.device.type == 'cuda':
        torch.cuda.set_device(args.device.index or 0)
    logging.disable(logging.INFO)  # the toolbox tells how it initialises each parameter
    describe_commit = 'git describe --always --dirty --exclude=* --abbrev=12'.split()
    commit = subprocess.check_output(describe_commit, cwd=ROOT, text=True).strip()
    record = describe_machine(args.device) | {'ubn_mmdet': commit}
    with ended_by(RecordError):
        results = Results(args.out, record)
    measure(results, args.turns, args.device)
    print('\n\n'.join([describe(record), *tables(results.rows).values()]))
