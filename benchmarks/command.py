"""The command line that the benchmarks share."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .results import Results, ResultsError, describe, measured_on

Measure = Callable[[Results, int, torch.device], None]
Tables = Callable[[Mapping[str, Any]], dict[str, str]]


def parse_args(description: str | None, out: Path, turns: int) -> argparse.Namespace:
    """Parse a command line of the common arguments alone."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser, out, turns)
    return parser.parse_args()


def add_common_arguments(
    parser: argparse.ArgumentParser, out: Path, turns: int
) -> None:
    """Add ``--out``, ``--turns`` and ``--device``; the defaults are those given."""
    parser.add_argument(
        '--out',
        type=Path,
        default=out,
        help='json lines; the same command goes on with them (%(default)s)',
    )
    parser.add_argument(
        '--turns', type=int, default=turns, help='measurements of each (%(default)s)'
    )
    parser.add_argument(
        '--device',
        type=torch.device,
        default=torch.device('cuda' if torch.cuda.is_available() else 'cpu'),
        help='(%(default)s)',
    )


def run_and_print(args: argparse.Namespace, measure: Measure, tables: Tables) -> None:
    """Measure what ``args.out`` does not have yet, and print all as tables."""
    try:
        results = Results(args.out, measured_on(args.device))
    except ResultsError as error:
        sys.exit(str(error))
    measure(results, args.turns, args.device)
    print('\n\n'.join([describe(results.record), *tables(results.rows).values()]))
