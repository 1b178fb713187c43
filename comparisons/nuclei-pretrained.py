# The backbones of coco_mini-pretraining.py in detectors for nuclei, which learn in minutes:
# as in the paper's protocol, stem and first stage as they are and all statistics held.
_base_ = 'nuclei.py'
_runs = 'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops'
_norms = [
    dict(name=name, backbone=f'{_runs}/{name}/seed0/final.pth')
    for name in ('BN', 'UBN', 'BNET')
]
groups = [dict(norms=_norms, seeds=range(2))]
options = {'model.backbone.norm_eval': True, 'model.backbone.frozen_stages': 1}
