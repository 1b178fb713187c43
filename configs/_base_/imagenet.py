# ImageNet backbone weights of the authors' protocol: the one place that names them. These
# are what the configs in pretrain/ leave, trained by tools/pretrain.py as docs/reproduce.md
# says. Of a classifier's weights the backbone's are taken: backbone.conv1.weight, ....
ubn_imagenet = dict(
    r50='work_dirs/resnet50_ubn_8xb32_in1k/epoch_100.pth',
    r101='work_dirs/resnet101_ubn_8xb32_in1k/epoch_100.pth',
)
bn_imagenet = dict(
    r50='work_dirs/resnet50_bn_8xb32_in1k/epoch_100.pth',
    r101='work_dirs/resnet101_bn_8xb32_in1k/epoch_100.pth',
)
