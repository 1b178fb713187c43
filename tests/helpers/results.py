"""Results of comparisons as tools/compare_norms.py writes them, made up."""

import json
from pathlib import Path

import numpy as np

KEYS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
SHARED = {
    **{'comparison': 'made-up', 'data': 'squares', 'detector': 'mask-rcnn_r18'},
    **{'epochs': 4, 'image_size': 160, 'batch_size': 8, 'device': 'cpu'},
    **{'commit': 'c0ffee' * 6 + 'c0ff', 'setting_hash': '5e771', 'processes': 1},
    **{'jobs': 2, 'versions': {'torch': '2.13.0'}},
    **{'started': '2026-01-01T10:00:00', 'finished': '2026-01-01T10:10:00'},
}


def result(norm: str, seed: int, ap: float, masks: bool = True, **changes) -> dict:
    """One line of a results file: ``ap`` is box AP; the rest follows from it."""
    kinds = ('bbox', 'segm') if masks else ('bbox',)
    metrics = {
        f'{kind}_{key}': round(ap * (1 - 0.1 * i) + 0.01 * k, 6)
        for k, kind in enumerate(kinds)
        for i, key in enumerate(KEYS)
    }
    epochs = [1, 2, 3, 4]
    iterations = list(range(10, 101, 10))
    curves = {
        'epoch': epochs,
        **{f'{kind}_mAP': [ap * e / 4 for e in epochs] for kind in kinds},
        'iteration': iterations,
        'loss': [3 * np.exp(-i / 60) + 0.1 * seed for i in iterations],
    }
    settings = [v for k, v in changes.items() if k in SHARED]
    return {
        **SHARED,
        **{'norm': norm, 'norm_cfg': {'type': norm}, 'seed': seed},
        **{
            'config_hash': f'{norm}-{seed}-{settings}',
            'status': 'finished',
            'error': None,
        },
        **metrics,
        'curves': curves,
        **{'seconds_per_step': 0.4 + 0.01 * seed, 'seconds': 600.0},
        **{'peak_memory_mb': 1800, 'parameters': 21_000_000},
        **changes,
    }


def write_results(path: Path, lines: list[dict]) -> Path:
    """Write a results file; what is in it was planned, unless the lines say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    planned: dict[str, set[int]] = {}
    for line in lines:
        planned.setdefault(line['norm'], set()).add(line['seed'])
    plan = {norm: sorted(seeds) for norm, seeds in planned.items()}
    lines = [{'planned': plan} | line for line in lines]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def squares(images: int, seed: int = 0) -> dict:
    """COCO instances: rectangles of two classes, as boxes and polygons."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(1, 6)):
            # Small, medium and large by COCO's areas.
            w, h = rng.uniform(10, 150, 2).round(1).tolist()
            x, y = rng.uniform(0, 150, 2).round(1).tolist()
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {
                    **{'id': len(annotations) + 1, 'image_id': image, 'iscrowd': 0},
                    **{'category_id': int(rng.integers(1, 3)), 'bbox': [x, y, w, h]},
                    **{'area': w * h, 'segmentation': [corners]},
                }
            )
    return {
        'images': [
            {'id': i, 'width': 300, 'height': 300, 'file_name': f'{i}.png'}
            for i in range(1, images + 1)
        ],
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'a'}, {'id': 2, 'name': 'b'}],
    }


def predictions(truth: dict, error: float, seed: int) -> list[dict]:
    """COCO results for ``squares``: places off by ``error`` of their size; some wrong."""
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    found = []
    for annotation in truth['annotations']:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            w, h = annotation['bbox'][2:]
            box = np.array(annotation['bbox']) + rng.normal(0, error, 4) * [w, h, w, h]
            box[2:] = np.maximum(box[2:], 1)
            x, y, w, h = box.tolist()
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            mask = coco_mask.frPyObjects([corners], 300, 300)[0]
            mask['counts'] = mask['counts'].decode()
            label = annotation['category_id']
            found.append(
                {
                    'image_id': annotation['image_id'],
                    'category_id': label if rng.random() < 0.9 else 3 - label,
                    'bbox': box.tolist(),
                    'score': float(rng.random()),
                    'segmentation': mask,
                }
            )
    return found


def condensation(layers: int = 3, steps: int = 5, closed: bool = False) -> dict:
    """A record of condensation; one layer is never called."""
    rows = [[0.5 - 0.1 * i + 0.01 * s for i in range(layers)] for s in range(steps)]
    nulls = [[*row[:-1], None] for row in rows]
    gate = [[float(not closed)] * (layers - 1) + [None] for _ in range(steps)]
    return {
        'layers': [f'layer{i}.bn1' for i in range(layers)],
        'steps': [10 * (s + 1) for s in range(steps)],
        **{'condensation': nulls, 'average': nulls, 'gate': gate, 'shift': nulls},
    }
