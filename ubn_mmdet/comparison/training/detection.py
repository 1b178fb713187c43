"""What is particular to comparisons of detectors."""

import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...data.coco_folder import CocoFolder, annotation_file
from ...mm.config_nodes import nodes_of
from ...mm.datasets import SPLIT_OF_LOADER, use_coco_folder
from ..coco_metrics import coco_metrics
from ..predictions_file import PREDICTIONS, write_predictions
from .hooks import NothingFoundHook

_RAW = 'raw_predictions'
LEFTOVERS = (f'{_RAW}.*',)
PACKAGES = ('mmdet',)


def use_folder(cfg: Config, folder: CocoFolder, size: int | tuple[int, int]) -> None:
    """Train and evaluate on ``folder``, with images that fit into ``size``, in place.

    Raises:
        ValueError: If a pipeline has no ``Resize``, or the detector learns masks and the
            folder has none.
    """
    loads = nodes_of(cfg.train_dataloader, 'LoadAnnotations')
    if any(node.get('with_mask') for node in loads) and not folder.has_masks:
        raise ValueError(
            f'it learns masks, and annotations of {folder.root} have none '
            '(segmentation): choose a detector of boxes'
        )
    use_coco_folder(cfg, folder)
    for loader in SPLIT_OF_LOADER:
        resizes = nodes_of(cfg[f'{loader}_dataloader'], 'Resize')
        if not resizes:
            raise ValueError(f'its {loader} pipeline has no Resize')
        for resize in resizes:
            resize.scale = (size, size) if isinstance(size, int) else tuple(size)
            resize.keep_ratio = True


def listing(folder: CocoFolder, split: str) -> Path:
    """The file that says what a split is."""
    return folder.root / annotation_file(split)


def images(folder: CocoFolder, split: str) -> Iterator[Path]:
    """The files of a split, in the order of its list."""
    for image in json.loads(listing(folder, split).read_bytes())['images']:
        yield folder.root / split / image['file_name']


def prepare(cfg: Config, run_dir: Path) -> list[Hook]:
    """Let the evaluation keep its predictions; the hooks to run before all others."""
    for name in ('val_evaluator', 'test_evaluator'):
        cfg[name].outfile_prefix = str(run_dir / _RAW)
    return [NothingFoundHook(cfg.val_evaluator.metric)]


def outcome(runner: Runner, run_dir: Path, folder: CocoFolder) -> dict:
    """Metrics, and the file of the predictions."""
    raw = {kind: run_dir / f'{_RAW}.{kind}.json' for kind in ('bbox', 'segm')}
    kinds = [kind for kind, path in raw.items() if path.exists()]
    predictions = json.loads(raw[kinds[-1]].read_bytes())  # those of masks have boxes
    write_predictions(run_dir / PREDICTIONS, predictions)
    metrics = coco_metrics(listing(folder, 'val'), predictions, kinds)
    return {**metrics, 'predictions': PREDICTIONS}
