# The backbones of coco_mini-pretraining.py in detectors for nuclei, which learn in minutes:
# as in the paper's protocol, stem and first stage as they are and all statistics held.
from ubn_mmdet.comparison.pretrained import pretrained as _pretrained

_backbones = 'coco_mini-pretraining/resnet18_1xb64_crops'

_base_ = 'nuclei.py'
groups = [dict(norms=_pretrained(_backbones, 'BN', 'UBN', 'BNET'), seeds=range(2))]
options = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
