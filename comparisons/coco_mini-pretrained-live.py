# As coco_mini-pretrained.py, with nothing frozen: statistics and gate act in detection too.
_base_ = 'coco_mini.py'
_runs = 'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops'
_norms = [
    dict(name=name, backbone=f'{_runs}/{name}/seed0/final.pth')
    for name in ('BN', 'UBN', 'BNET')
]
groups = [dict(norms=_norms, seeds=range(2))]
