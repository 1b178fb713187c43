"""Points a config at a COCO-format folder."""

from mmengine.config import Config, ConfigDict

from ..data.coco_folder import CocoFolder, annotation_file

SPLIT_OF_LOADER = {'train': 'train', 'val': 'val', 'test': 'val'}


def use_coco_folder(cfg: Config, folder: CocoFolder) -> None:
    """Train and evaluate on ``folder``, with its classes, in place.

    Sets the data of the train, val and test loaders, the annotations of the evaluators,
    and every ``num_classes`` of the model. The test split is the validation split.

    Raises:
        ValueError: If the model has no ``num_classes`` to set.
    """
    for loader, split in SPLIT_OF_LOADER.items():
        cfg[f'{loader}_dataloader'].dataset.merge(
            {
                'data_root': str(folder.root),
                'ann_file': annotation_file(split),
                'data_prefix': {'img': f'{split}/'},
                'metainfo': {'classes': folder.classes},
            }
        )
        if loader != 'train':
            annotations = folder.root / annotation_file(split)
            cfg[f'{loader}_evaluator'].ann_file = str(annotations)
    if not _set_num_classes(cfg.model, len(folder.classes)):
        raise ValueError('the config has no model component with num_classes')


def _set_num_classes(node: object, num_classes: int) -> int:
    """Set every ``num_classes`` below ``node``; how many there were."""
    count = 0
    if isinstance(node, ConfigDict):
        if 'num_classes' in node:
            node.num_classes = num_classes
            count += 1
        count += sum(_set_num_classes(child, num_classes) for child in node.values())
    elif isinstance(node, list | tuple):
        count += sum(_set_num_classes(child, num_classes) for child in node)
    return count
