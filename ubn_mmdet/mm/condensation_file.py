"""The record of condensation over a run: one JSON file, written whole."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_whole

QUANTITIES = 'condensation', 'average', 'gate', 'shift'


class CondensationFile:
    """Rows of numbers by step, a column a layer, for each of ``QUANTITIES``.

    The file holds ``layers`` (names), ``has_gate`` and ``threshold`` (one a layer),
    ``steps`` (completed training steps, ascending) and, under each quantity's name, a list
    of rows, steps x layers. What there is no number for is null.

    Args:
        path: Where to.
        layers: Names of the columns.
        has_gate: Whether the layer has a gate, or one is only supposed.
        threshold: Of the gate.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        layers: Sequence[str],
        has_gate: Sequence[bool],
        threshold: Sequence[float],
    ) -> None:
        self.path = Path(path)
        self._head = {
            'layers': list(layers),
            'has_gate': list(has_gate),
            'threshold': list(threshold),
        }
        self.steps: list[int] = []
        self._rows: dict[str, list[list]] = {name: [] for name in QUANTITIES}
        self._written = 0

    def resume(self, step: int) -> bool:
        """Take over the file on disk up to ``step``, if it is of the same layers.

        Returns:
            Whether there was such a file.
        """
        try:
            known = json.loads(self.path.read_text())
            if any(known[key] != value for key, value in self._head.items()):
                return False
            count = sum(s <= step for s in known['steps'])
            rows = {name: known[name][:count] for name in QUANTITIES}
        except (OSError, ValueError, KeyError):
            return False
        self.steps, self._rows = known['steps'][:count], rows
        self._written = count
        return True

    def append(self, step: int, row: Mapping[str, Sequence[float | None]]) -> None:
        """Add a row to each quantity, and write the file if it is time.

        That is at once for the first hundred rows, later whenever the file has grown by
        a hundredth: all of a long run's writing costs as much a row as it did then.
        """
        self.steps.append(step)
        for name in QUANTITIES:
            self._rows[name].append([*map(_short, row[name])])
        if len(self.steps) - self._written > len(self.steps) // 100:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        content = {**self._head, 'steps': self.steps, **self._rows}
        write_whole(self.path, json.dumps(content).encode())
        self._written = len(self.steps)


def _short(value: float | None) -> float | None:
    """Six digits, which is what float32 has; JSON knows no nan."""
    known = value is not None and math.isfinite(value)
    return float(f'{value:.6g}') if known else None
