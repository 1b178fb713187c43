_base_ = [
    'mmpretrain::resnet/resnet101_8xb32_in1k.py',
    '../_base_/norms/ubn.py',
    '../_base_/custom_imports.py',
]
# Like its twin, it normalises the 32 images of one GPU by their own statistics.
model = dict(backbone=dict(norm_cfg=dict(sync=False, **_base_.norm)))
