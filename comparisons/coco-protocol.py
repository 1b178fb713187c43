# The paper's protocol at full size, on 8 GPUs (--launcher pytorch) with 2 images each; the
# folder's train/ and val/ are links to train2017/ and val2017/.
from ubn_mmdet.comparison.pretrained import backbone_from as _backbone_from


def _pretrained(name):
    checkpoint = f'work_dirs/resnet50_{name}_8xb32_in1k/epoch_100.pth'
    return dict(name=name.upper(), options=_backbone_from(checkpoint))


data = 'data/coco_folder'
detector = 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py'
image_size = (1333, 800)
epochs = 12
batch_size = 2
groups = [dict(norms=[_pretrained('bn'), _pretrained('ubn')], seeds=range(3))]
