_base_ = [
    '../_base_/crops_r18.py',
    '../_base_/norms/ubn.py',
    '../_base_/custom_imports.py',
]
model = dict(backbone=dict(norm_cfg=_base_.norm))
