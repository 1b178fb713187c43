"""Norms of a comparison of detectors that start from another comparison's backbones."""

from pathlib import PurePosixPath

COMPARISONS = PurePosixPath('work_dirs/comparisons')


def pretrained(first: str, *names: str, seed: int = 0) -> list[dict]:
    """Entries for ``norms``, each with the weights of the same norm's classifier.

    Args:
        first: The comparison that has trained them and its classifier, as their folder
            below ``work_dirs/comparisons``: ``'<comparison>/<classifier>'``.
        *names: Of norms, with the same presets in both.
        seed: Of the classifiers.
    """
    return [
        {
            'name': name,
            'options': {
                'model.backbone.init_cfg': {
                    '_delete_': True,
                    'type': 'Pretrained',
                    'prefix': 'backbone.',
                    'checkpoint': f'{COMPARISONS / first / name}/seed{seed}/final.pth',
                }
            },
        }
        for name in names
    ]
