_base_ = [
    'mmpretrain::resnet/resnet101_8xb32_in1k.py',
    '../_base_/norms/bn.py',
    '../_base_/custom_imports.py',
]
model = dict(backbone=dict(norm_cfg=_base_.norm))
