_base_ = ['../_base_/retinanet_r50-scratch_6x.py', '../_base_/norms/ubn.py']
model = dict(
    backbone=dict(norm_cfg=dict(_delete_=True, **_base_.norm)),
    neck=dict(norm_cfg=_base_.norm),
    bbox_head=dict(norm_cfg=_base_.norm),
)
