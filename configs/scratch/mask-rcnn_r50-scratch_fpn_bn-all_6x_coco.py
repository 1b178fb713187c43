_base_ = [
    'mmdet::scratch/mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py',
    '../_base_/norms/syncbn.py',
    '../_base_/custom_imports.py',
]
# _delete_: the base's GN leaves its num_groups behind otherwise.
norm_cfg = dict(_delete_=True, **_base_.norm)
# RPNHead takes no norm. norm_eval=True did GN no harm, but would stop these statistics.
model = dict(
    backbone=dict(norm_eval=False, norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
)
