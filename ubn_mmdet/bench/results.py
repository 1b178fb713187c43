"""A json file of measurements, which grows case by case."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from ..files import write_whole
from ..records import check_record, read_json


class Results:
    """A json file that grows case by case; a case that it holds is not run again.

    Raises:
        RecordError: If the file was measured on another machine.
    """

    def __init__(self, path: str | os.PathLike, machine: dict[str, str]) -> None:
        self.path = Path(path)
        self.content: dict[str, dict] = {'machine': machine}
        if self.path.exists():
            found = read_json(self.path)
            measured_on = found.get('machine') if isinstance(found, dict) else None
            check_record(path, measured_on, machine, 'measurements')
            self.content = found

    def case(self, section: str, name: str, run: Callable[[], object]) -> None:
        """Run a case and write its result, unless it is there."""
        cases = self.content.setdefault(section, {})
        if name not in cases:
            cases[name] = run()
            write_whole(self.path, json.dumps(self.content, indent=1).encode())
