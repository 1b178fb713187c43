_base_ = './mask-rcnn_r50-scratch_fpn_ubn-all_6x_coco.py'
# BatchNorm tap for tap, with a small initial weight: UBN with every stage off.
norm_cfg = dict(
    _delete_=True,
    type='UBN',
    centering=False,
    scaling=None,
    kernel_size=1,
    condensation_threshold=None,
    initial_weight=0.1,
    requires_grad=True,
)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)),
)
