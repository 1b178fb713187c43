"""Points a config at a folder of data."""

from mmengine.config import Config

from ..data.coco_folder import CocoFolder, annotation_file
from ..data.image_folder import ImageFolder, list_file
from .config_nodes import all_nodes

SPLIT_OF_LOADER = {'train': 'train', 'val': 'val', 'test': 'val'}


def use_coco_folder(cfg: Config, folder: CocoFolder) -> None:
    """Train and evaluate on ``folder``, with its classes, in place.

    Sets the data of the train, val and test loaders, the annotations of the evaluators,
    and every ``num_classes`` of the model. The test split is the validation split.

    Raises:
        ValueError: If the model has no ``num_classes`` to set, if it learns masks where
            the folder has annotations without any, if a data set is within another, or if
            there are several evaluators.
    """
    pipeline = all_nodes(cfg.train_dataloader)
    if not folder.has_masks and any(node.get('with_mask') for node in pipeline):
        raise ValueError(
            f'it learns masks, and {folder.root} has annotations without segmentation: '
            'use a box detector such as RetinaNet'
        )
    for loader, split in SPLIT_OF_LOADER.items():
        dataset = cfg[f'{loader}_dataloader'].dataset
        if 'dataset' in dataset or 'datasets' in dataset:
            raise ValueError(
                f'its {loader} data are within a {dataset.type}: name a detector whose '
                'config has a plain dataset'
            )
        dataset.merge(
            {
                'data_root': str(folder.root),
                'ann_file': annotation_file(split),
                'data_prefix': {'img': f'{split}/'},
                'metainfo': {'classes': folder.classes},
            }
        )
        if loader != 'train':
            evaluator = cfg[f'{loader}_evaluator']
            if isinstance(evaluator, list):
                raise ValueError(
                    f'it has several evaluators of its {loader} data: name a detector '
                    'whose config has one'
                )
            evaluator.ann_file = str(folder.root / annotation_file(split))
            evaluator.setdefault('metric', 'bbox')  # as MMDetection's evaluator does
    _set_num_classes(cfg.model, len(folder.classes))


def use_image_folder(cfg: Config, folder: ImageFolder) -> None:
    """Train and evaluate a classifier on ``folder``, with its classes, in place.

    The test split is the validation split. Accuracies of the top 5 are left out where
    there are fewer classes.

    Raises:
        ValueError: If the model has no ``num_classes`` to set.
    """
    for loader, split in SPLIT_OF_LOADER.items():
        cfg[f'{loader}_dataloader'].dataset.merge(
            {
                'data_root': str(folder.root),
                'split': split,
                'ann_file': list_file(split),
                'metainfo': {'classes': folder.classes},
            }
        )
        if loader != 'train':
            evaluator = cfg[f'{loader}_evaluator']
            evaluator.topk = [k for k in evaluator.topk if k <= len(folder.classes)]
    cfg.data_preprocessor.num_classes = len(folder.classes)
    _set_num_classes(cfg.model, len(folder.classes))


def _set_num_classes(model: object, num_classes: int) -> None:
    nodes = [node for node in all_nodes(model) if 'num_classes' in node]
    if not nodes:
        raise ValueError('the config has no model component with num_classes')
    for node in nodes:
        node.num_classes = num_classes
