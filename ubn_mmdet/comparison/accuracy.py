"""A classifier's accuracy from its kept predictions, on all images and on halves of them.

A prediction is ``{'image': 'cat/1.png', 'truth': 3, 'classes': [3, 0, ...]}``: the classes
with the highest scores, best first, five of them if there are as many.
"""

from collections.abc import Sequence

import numpy as np

from .bootstrap import RESAMPLES, ImagesError, Scores, random_halves

TOP = (1, 5)


def score(predictions: Sequence[dict], resamples: int = RESAMPLES) -> Scores:
    """``accuracy_top1`` and ``accuracy_top5``, in percent, as the toolbox has them.

    Args:
        predictions: One for each image, in any order.
        resamples: How many halves.

    Raises:
        ImagesError: For what is no prediction of a classifier.
    """
    try:
        ordered = sorted(predictions, key=lambda prediction: prediction['image'])
        hits = {
            f'accuracy_top{k}': np.array(
                [p['truth'] in p['classes'][:k] for p in ordered]
            )
            for k in TOP
        }
    except (KeyError, TypeError):
        raise ImagesError('these are no predictions of a classifier') from None
    halves = list(random_halves(list(range(len(ordered))), resamples).values())
    return Scores(
        metrics={name: 100 * float(hit.mean()) for name, hit in hits.items()},
        halves={name: 100 * hit[halves].mean(axis=1) for name, hit in hits.items()},
        errors={},
        images=len(ordered),
    )
