# What detectors have that hold the statistics of their own norm's pre-training.
_base_ = './coco.py'
# The one place that names the pre-trained backbones: what the configs in pretrain/ leave,
# trained by tools/pretrain.py as protocol/README.md says. Of a classifier's weights the
# backbone's are taken: backbone.conv1.weight, ....
imagenet = 'work_dirs/resnet{depth}_{norm}_8xb32_in1k/epoch_100.pth'
# What cannot be right stops before the first step: weights of another norm, and features
# much larger than in pre-training.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='CheckpointLayoutHook'),
    dict(type='FeatureScaleHook'),
]
