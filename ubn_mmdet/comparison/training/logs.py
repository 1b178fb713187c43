"""Loss and mAP over a run, from the toolbox's own logs."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

# Of detectors, and of classifiers.
EVALUATED = 'coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1'


def read_scalars(
    work_dir: str | os.PathLike,
) -> tuple[dict[int, dict], dict[int, dict]]:
    """Training and evaluation records of a run: ``{iteration: record}, {epoch: record}``.

    A resumed run logs to a new folder; what it did again replaces what it had done.
    """
    training: dict[int, dict] = {}
    evaluation: dict[int, dict] = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        records = list(_records(path))
        # There are other records than these: hooks write their own.
        for known, marks in (training, {'loss'}), (evaluation, set(EVALUATED)):
            new = {r['step']: r for r in records if marks & r.keys()}
            first = min(new, default=math.inf)
            for step in [step for step in known if step >= first]:
                del known[step]
            known.update(sorted(new.items()))
    return training, evaluation


def _records(path: Path) -> Iterator[dict]:
    for line in path.read_text().splitlines():
        # The last line of a run that was killed may be half a line.
        with contextlib.suppress(ValueError):
            yield json.loads(line)
