_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/shapes_detection.py',
    '../_base_/demo_6e.py',
    '../_base_/custom_imports.py',
]
# Narrower than the base, smaller anchors: small images, little time.
model = dict(
    backbone=dict(
        depth=18,
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    bbox_head=dict(
        num_classes={{_base_.num_classes}},
        in_channels=128,
        feat_channels=128,
        anchor_generator=dict(octave_base_scale=2),
    ),
)
