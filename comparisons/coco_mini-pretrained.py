# The second half, with the detectors of coco_mini.py: they start from the backbones of
# coco_mini-pretraining.py, whose stem and first stage stay as they are, as do the
# statistics of all norm layers.
from ubn_mmdet.comparison.pretrained import pretrained as _pretrained

_backbones = 'coco_mini-pretraining/resnet18_1xb64_crops'

_base_ = 'coco_mini.py'
groups = [dict(norms=_pretrained(_backbones, 'BN', 'UBN', 'BNET'), seeds=range(2))]
options = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
