_base_ = ['../_base_/mask-rcnn_r50-scratch_6x.py', '../_base_/norms/bn-merged.py']
# _delete_: the base's GN leaves its num_groups behind otherwise. RPNHead accepts no norm.
norm_cfg = dict(_delete_=True, **_base_.norm)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
)
