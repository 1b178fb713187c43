"""Norms of a comparison whose detectors start from backbones that have been pre-trained."""

from pathlib import PurePosixPath

COMPARISONS = PurePosixPath('work_dirs/comparisons')


def backbone_from(checkpoint: str) -> dict:
    """The ``options`` of a norm whose backbone starts from a classifier's checkpoint."""
    return {
        'model.backbone.init_cfg': {
            '_delete_': True,
            'type': 'Pretrained',
            'prefix': 'backbone.',
            'checkpoint': checkpoint,
        }
    }


def pretrained(first: str, *names: str, seed: int = 0) -> list[dict]:
    """Entries for ``norms``, each with the backbone of the same norm in a comparison.

    Args:
        first: The comparison that has trained them and its classifier, as their folder
            below ``work_dirs/comparisons``: ``'<comparison>/<classifier>'``.
        *names: Of norms, with the same presets in both.
        seed: Of the classifiers.
    """
    runs = COMPARISONS / first
    return [
        {'name': name, 'options': backbone_from(f'{runs}/{name}/seed{seed}/final.pth')}
        for name in names
    ]
