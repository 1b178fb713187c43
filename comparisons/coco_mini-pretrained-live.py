# As coco_mini-pretrained.py, with nothing frozen: statistics and gate act in detection too.
from ubn_mmdet.comparison.pretrained import pretrained as _pretrained

_backbones = 'coco_mini-pretraining/resnet18_1xb64_crops'

_base_ = 'coco_mini.py'
groups = [dict(norms=_pretrained(_backbones, 'BN', 'UBN', 'BNET'), seeds=range(2))]
