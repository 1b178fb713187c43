_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    '../_base_/imagenet.py',
    '../_base_/custom_imports.py',
]
# norm_eval=True and frozen_stages=1 are mmdet's own, and the authors'.
model = dict(
    backbone=dict(init_cfg=dict(prefix='backbone.', checkpoint=_base_.bn_imagenet.r50))
)
