"""A config is pointed at a folder, if its detector can learn from it."""

import json
from dataclasses import replace

import pytest
from helpers.commands import ROOT
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.data.coco_folder import CocoFolder
from ubn_mmdet.data.shapes import make_shapes
from ubn_mmdet.mm.datasets import use_coco_folder

DEMO = ROOT / 'configs/demo'
RETINANET = DEMO / 'retinanet_r18-scratch_fpn_bn_6e_shapes.py'
MASK_RCNN = DEMO / 'mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'


@pytest.fixture
def boxes_alone(tmp_path):
    folder = make_shapes(tmp_path, 2, 1, 64, progress=lambda _: None)
    for split in ('train', 'val'):
        path = folder / f'instances_{split}.json'
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        path.write_text(json.dumps(content))
    return CocoFolder.open(folder)


def test_a_detector_of_boxes_takes_boxes_alone(boxes_alone):
    register_all_modules()
    cfg = Config.fromfile(RETINANET)
    use_coco_folder(cfg, boxes_alone)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 2 and cfg.model.bbox_head.num_classes == 4
    boxes = dataset[0]['data_samples'].gt_instances.bboxes
    assert len(boxes) > 0


def test_a_dataset_within_another_is_refused(boxes_alone):
    cfg = Config.fromfile(RETINANET)
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'dataset': inner}
    with pytest.raises(ValueError, match='train data are within a RepeatDataset'):
        use_coco_folder(cfg, boxes_alone)


def test_an_evaluator_need_not_name_its_metric(boxes_alone):
    cfg = Config.fromfile(RETINANET)
    del cfg.val_evaluator['metric']
    use_coco_folder(cfg, boxes_alone)
    assert cfg.val_evaluator.metric == 'bbox'


def test_several_evaluators_are_refused(boxes_alone):
    cfg = Config.fromfile(RETINANET)
    cfg.val_evaluator = [cfg.val_evaluator, cfg.val_evaluator]
    with pytest.raises(ValueError, match='several evaluators of its val data'):
        use_coco_folder(cfg, boxes_alone)


def test_a_detector_of_masks_refuses_them(boxes_alone):
    with pytest.raises(
        ValueError, match='it learns masks, and .* without segmentation'
    ):
        use_coco_folder(Config.fromfile(MASK_RCNN), boxes_alone)
    use_coco_folder(Config.fromfile(MASK_RCNN), replace(boxes_alone, has_masks=True))
