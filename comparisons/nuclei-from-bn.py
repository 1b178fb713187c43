# As nuclei.py, from a backbone that BatchNorm has pre-trained (docs/protocol.md, E5).
_base_ = 'nuclei.py'
_backbone = (
    'work_dirs/comparisons/coco_mini-pretraining/resnet18_1xb64_crops/'
    'BN/seed10/final.pth'
)
# What UBN adds starts at nothing: a larger rate lets it become something.
_fast = {
    name: dict(lr_mult=10, decay_mult=0)
    for name in ('centering_weight', 'scaling_weight', 'scaling_bias')
}
_fast['spatial_weight'] = dict(lr_mult=10)
_norms = [
    dict(name='BN', backbone=_backbone),
    # MMDetection's default: the statistics stay those of the pre-training.
    dict(
        name='BN-frozen',
        preset='bn',
        backbone=_backbone,
        options={'model.backbone.norm_eval': True},
    ),
    dict(name='UBN-from-BN', backbone=_backbone),
    dict(
        name='UBN-from-BN-fast',
        preset='ubn-from-bn',
        backbone=_backbone,
        options={'optim_wrapper.paramwise_cfg.custom_keys': _fast},
    ),
]
groups = [dict(norms=_norms, seeds=range(10, 13))]
primary = []
