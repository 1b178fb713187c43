# As coco_mini-pretrained.py, with nothing frozen: statistics and gate act in detection too.
from ubn_mmdet.evidence.pretrained import pretrained as _pretrained

_backbones = 'coco_mini-pretraining/resnet18_1xb64_crops'

data = 'data/coco_mini'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
classes = 10
train_images = 1000
image_size = 160
epochs = 12
batch_size = 8
groups = [dict(norms=_pretrained(_backbones, 'BN', 'UBN', 'BNET'), seeds=range(2))]
