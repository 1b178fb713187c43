"""Results as json lines: what they were measured on, then one line for each case."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ubn_mmdet.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]


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
        if path.exists():
            found, self.rows = read_results(path)
            if found != record:
                raise ResultsError(
                    f'{path} holds results of {found}; now there is {dict(record)}. '
                    'Name another file.'
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(record)

    def measure(self, section: str, case: str, run: Callable[[], Any]) -> Any:
        """The result of a case. If there is none, it is what ``run`` returns."""
        cases = self.rows.setdefault(section, {})
        if case not in cases:
            print(f'{section}: {case}', flush=True)
            cases[case] = run()
            self._append({'section': section, 'case': case, 'value': cases[case]})
        return cases[case]

    def _append(self, line: Mapping[str, Any]) -> None:
        # A kill may have left half a line.
        torn = self._path.exists() and not self._path.read_text().endswith('\n')
        with self._path.open('a') as file:
            file.write('\n' * torn + json.dumps(line) + '\n')


def read_results(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The record of a file, and its results by section and case.

    Raises:
        ResultsError: If the file has no record.
    """
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # half a line
            continue
    if not lines:
        raise ResultsError(f'{path} holds no results')
    rows: dict[str, dict[str, Any]] = {}
    for line in lines[1:]:
        rows.setdefault(line['section'], {})[line['case']] = line['value']
    return lines[0], rows


def measured_on(device: torch.device) -> dict[str, str]:
    """The machine, its versions, and the commit of this checkout."""
    commit = git('describe', '--always', '--dirty', '--exclude=*', '--abbrev=12')
    return describe_machine(device) | {'ubn_mmdet': commit}


def git(*arguments: str) -> str:
    """What git says of this checkout.

    Raises:
        CalledProcessError: If it refuses; it has printed why.
    """
    command = ['git', '-C', str(ROOT), *arguments]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def describe(record: Mapping[str, Any]) -> str:
    """What was measured on, a sentence."""
    listed = ', '.join(f'{key} {value}' for key, value in record.items())
    return f'Measured on: {listed}.'
