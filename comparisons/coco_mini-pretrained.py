# The second half, with the detectors of coco_mini.py: they start from the backbones of
# coco_mini-pretraining.py, whose stem and first stage stay as they are, as do the
# statistics of all norm layers.
_base_ = 'coco_mini.py'
_runs = 'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops'
_norms = [
    dict(name=name, backbone=f'{_runs}/{name}/seed0/final.pth')
    for name in ('BN', 'UBN', 'BNET')
]
groups = [dict(norms=_norms, seeds=range(2))]
options = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
