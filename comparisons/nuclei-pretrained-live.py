# As nuclei.py, from the backbones of coco_mini-pretraining.py (docs/protocol.md, E6).
# Nothing is frozen: statistics and gate act in detection, too.
_base_ = 'nuclei.py'
_runs = 'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops'
_rate_of = {'BN': 0.01, 'UBN': 0.02, 'BNET': 0.02}  # as in nuclei.py
_norms = [
    dict(name=name, backbone=f'{_runs}/{name}/seed10/final.pth', lr=lr)
    for name, lr in _rate_of.items()
]
groups = [dict(norms=_norms, seeds=range(10, 13))]
primary = []
