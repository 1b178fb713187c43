# As nuclei-pretrained.py, with nothing frozen: statistics and gate act in detection too.
from ubn_mmdet.evidence.pretrained import pretrained as _pretrained

_backbones = 'coco_mini-pretraining/resnet18_1xb64_crops'

data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 8
groups = [dict(norms=_pretrained(_backbones, 'BN', 'UBN', 'BNET'), seeds=range(3))]
