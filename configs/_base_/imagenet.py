# ImageNet backbone weights of the authors' protocol: the one place that names them.
# Each pair is to come from the same ImageNet training, with UBN and with BN. Keys are
# those of a torchvision ResNet (conv1.weight, bn1.weight, layer1.0.bn1.weight, ...).
ubn_imagenet = dict(
    r50='checkpoints/resnet50_ubn_imagenet.pth',
    r101='checkpoints/resnet101_ubn_imagenet.pth',
)
bn_imagenet = dict(
    r50='checkpoints/resnet50_bn_imagenet.pth',
    r101='checkpoints/resnet101_bn_imagenet.pth',
)
