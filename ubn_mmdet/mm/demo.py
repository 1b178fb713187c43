"""The demo: from a folder of images to a trained detector, a table and pictures."""

import json
import os
from copy import deepcopy
from pathlib import Path

import numpy as np
from mmdet.apis import init_detector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from PIL import Image
from pycocotools.coco import COCO

from ..data.coco_folder import CocoFolder, annotation_file
from ..evidence.report.curves import draw_curves, read_scalars
from ..evidence.report.pictures import Instances, Pictured, draw_pictures
from ..evidence.report.table import coco_table
from ..files import write_whole
from ..records import claim_folder
from .datasets import use_coco_folder

PICTURED = 6
MIN_SCORE = 0.5
_RECORD = 'demo.json'
_METRICS = 'metrics.json'


def run_demo(
    config: str | os.PathLike,
    folder: CocoFolder,
    work_dir: str | os.PathLike,
    options: dict | None = None,
) -> str:
    """Train, evaluate and report; returns the COCO table.

    Leaves ``results.md``, ``curves.png`` and ``predictions.png`` beside the toolbox's own
    logs and checkpoints. An interrupted run goes on from its last checkpoint; a finished
    one is only reported again.

    Args:
        config: A config of the toolbox for detection or instance segmentation that
            trains by epochs; its data are replaced.
        folder: What to train and evaluate on.
        work_dir: Where results go; missing, empty, or of the same run.
        options: What to override in the config, ``{'dotted.key': value}``.

    Raises:
        RecordError: If ``work_dir`` holds a run of other settings, or something else.
    """
    work_dir = Path(work_dir)
    cfg = Config.fromfile(config)
    use_coco_folder(cfg, folder)
    cfg.merge_from_dict(options or {})
    cfg.work_dir = str(work_dir)
    cfg.resume = True  # from the last checkpoint, if there is one
    claim_folder(work_dir, _RECORD, cfg.to_dict(), 'a run')

    metrics_file = work_dir / _METRICS
    if metrics_file.exists():
        print(f'{work_dir} holds the finished run: delete it to train again')
    else:
        metrics = _train(cfg)
        write_whole(metrics_file, json.dumps(metrics, indent=2).encode())
    return _report(cfg, folder, json.loads(metrics_file.read_text()))


def _train(cfg: Config) -> dict[str, float]:
    """Train, or go on training; the metrics after the last epoch."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    _, evaluations = read_scalars(cfg.work_dir)
    # None if the run was killed between its last checkpoint and the evaluation.
    record = evaluations.get(runner.max_epochs) or runner.val()
    return {key: value for key, value in record.items() if key.startswith('coco/')}


def _report(cfg: Config, folder: CocoFolder, metrics: dict[str, float]) -> str:
    work_dir = Path(cfg.work_dir)
    table = coco_table(metrics)
    norm = cfg.model.backbone.get('norm_cfg', {}).get('type', 'BN')
    text = (
        f'# {cfg.model.type} with {norm} on {folder.root.name}\n\n'
        f'{folder.num_images["val"]} validation images with '
        f'{folder.num_instances["val"]} instances of {len(folder.classes)} classes, '
        f'after {cfg.train_cfg.max_epochs} epochs on {folder.num_images["train"]} '
        f'images. COCO metrics:\n\n{table}\n'
    )
    write_whole(work_dir / 'results.md', text.encode())
    draw_curves({norm: work_dir}, work_dir / 'curves.png')
    pictures = _pictures(cfg, folder)
    draw_pictures(pictures, folder.classes, work_dir / 'predictions.png')
    return text


def _pictures(cfg: Config, folder: CocoFolder) -> list[Pictured]:
    """Some validation images, spread over the data set, with their predictions."""
    checkpoint = (Path(cfg.work_dir) / 'last_checkpoint').read_text()
    model = init_detector(deepcopy(cfg), checkpoint, device='cpu')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    coco = COCO(folder.root / annotation_file('val'))
    pictures = []
    for i in np.linspace(0, len(dataset) - 1, min(PICTURED, len(dataset))).astype(int):
        [sample] = model.test_step(pseudo_collate([dataset[i]]))
        found = sample.pred_instances.cpu().numpy()
        found = found[found.scores >= MIN_SCORE]
        found = found[np.argsort(found.scores)]
        pictures.append(
            Pictured(
                image=np.asarray(Image.open(sample.img_path).convert('RGB')),
                truth=_truth(coco, sample.img_id, dataset.cat2label),
                predicted=Instances(
                    labels=found.labels,
                    boxes=found.bboxes,
                    masks=found.get('masks'),
                    scores=found.scores,
                ),
            )
        )
    return pictures


def _truth(coco: COCO, image_id: int, label_of: dict[int, int]) -> Instances:
    annotations = coco.loadAnns(coco.getAnnIds(image_id, iscrowd=False))
    boxes = np.array([a['bbox'] for a in annotations]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        labels=np.array([label_of[a['category_id']] for a in annotations], dtype=int),
        boxes=boxes,
        masks=np.array([coco.annToMask(a) for a in annotations], dtype=bool),
    )
