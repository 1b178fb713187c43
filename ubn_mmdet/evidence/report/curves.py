"""Loss and mAP over a run, from the toolbox's own logs."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ...figures import write_figure

METRICS = {'coco/bbox_mAP': 'box', 'coco/segm_mAP': 'mask'}
EVALUATED = (*METRICS, 'accuracy/top1')  # of detectors, and of classifiers


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


def draw_curves(runs: Mapping[str, str | os.PathLike], path: str | os.PathLike) -> None:
    """Draw loss over iterations and mAP over epochs of some runs into one PNG.

    Args:
        runs: The work folder of each run, by the name to show.
        path: Where to.
    """
    figure = Figure(figsize=(10, 4), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2)
    for i, (name, work_dir) in enumerate(runs.items()):
        colour = f'C{i}'
        training, evaluation = read_scalars(work_dir)
        losses = [record['loss'] for record in training.values()]
        left.plot(list(training), losses, color=colour, label=name)
        for (key, kind), style in zip(METRICS.items(), ('-', '--'), strict=True):
            points = {e: r[key] for e, r in evaluation.items() if key in r}
            if points:
                label = f'{name}, {kind}'
                line = {'color': colour, 'linestyle': style, 'label': label}
                right.plot(list(points), list(points.values()), marker='o', **line)
    left.set(xlabel='iteration', ylabel='loss', title='Training loss')
    left.set_ylim(bottom=0)
    right.set(xlabel='epoch', ylabel='mAP', title='COCO mAP on the validation images')
    right.set_ylim(bottom=0)
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend()
    write_figure(path, figure)
