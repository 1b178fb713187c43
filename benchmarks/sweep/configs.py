"""MMDetection's configs: one for each folder, made small."""

from pathlib import Path

from mmengine.config import Config, ConfigDict

from ubn_mmdet.mm.config_nodes import all_nodes

# Where the rule of `chosen` would take one that a smaller machine cannot train.
CHOSEN = {
    'albu_example': 'mask-rcnn_r50_fpn_albu-1x_coco.py',
    'cascade_rpn': 'cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
    'dcn': 'faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'dcnv2': 'faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
    'gcnet': 'mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco.py',
    'ld': 'ld_r18-gflv1-r101_fpn_1x_coco.py',
    'retinanet': 'retinanet_r50-caffe_fpn_1x_coco.py',
    'rtmdet': 'rtmdet-ins_tiny_8xb32-300e_coco.py',
    'yolo': 'yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    'yolox': 'yolox_nano_8xb8-300e_coco.py',
}
# Upper limits, wherever a config has such a key. Results stay few, and none is left out
# for its score: an untrained detector's are low.
LIMITS = {'nms_pre': 100, 'max_per_img': 20, 'max_num': 100, 'num': 32}
NO_THRESHOLD = ('score_thr', 'mask_score_thr')
# What would be downloaded, or changes the images at random.
REMOVED = ('pretrained', 'teacher_ckpt', 'batch_augments', 'lang_model_ckpt')


def families(folder: Path) -> dict[str, Path]:
    """One config of every subfolder that has any, by the subfolder's name.

    A ResNet-18 or ResNet-50 goes before others, then the shortest name.
    """
    chosen = {}
    for family in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(family.glob('*.py'), key=_preference)
        if files and family.name != '_base_':
            name = CHOSEN.get(family.name, files[0].name)
            chosen[family.name] = family / name
    return chosen


def _preference(path: Path) -> tuple:
    name = path.name
    return 'r18' not in name and 'r50' not in name, 'tta' in name, len(name), name


def small_model(path: Path) -> ConfigDict | None:
    """The model of a config without downloads and with few proposals, or None."""
    model = Config.fromfile(path).get('model')
    if model is None:
        return None
    root = path.parents[2]
    for node in all_nodes(model):
        for key, value in list(node.items()):
            if key == 'init_cfg' and 'Pretrained' in str(value):
                node[key] = None
            elif key in REMOVED:
                node[key] = None
            elif key in NO_THRESHOLD:
                node[key] = 0.0
            elif key in LIMITS and isinstance(value, int):
                node[key] = min(value, LIMITS[key])
            elif key == 'teacher_config':  # relative to a checkout
                teacher = Config.fromfile(root / value)
                node[key] = ConfigDict(model=teacher.model.to_dict())
    return model


def num_classes(model: ConfigDict) -> int:
    """The smallest number of classes that a head of ``model`` has."""
    found = [node.get('num_classes') for node in all_nodes(model)]
    return min((n for n in found if isinstance(n, int) and n > 0), default=80)
