"""What a check has to say."""

from typing import NamedTuple

LEVELS = NOTE, WARNING, REFUSAL = 'note', 'warning', 'refusal'
VERDICTS = dict(
    zip(LEVELS, ('pass', 'warnings', 'refusal'), strict=True)
)  # by the highest


class Finding(NamedTuple):
    """What a check has found.

    Attributes:
        level: A note is for information. A warning is of a difference that may be meant.
            A refusal is of a run whose result would be worth nothing.
        where: A key of the configs, a layer, a file or the name of a side.
        what: The finding.
    """

    level: str
    where: str
    what: str
