# The paper's protocol at full size, on 8 GPUs with 2 images each; the folder's train/ and
# val/ are links to train2017/ and val2017/. Each seed has a pre-training of its own
# (configs/protocol/README.md).
data = 'data/coco_folder'
detector = 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py'
image_size = (1333, 800)
epochs = 12
batch_size = 2
processes = 8
workers = 2
_arms = {
    'BN': 'bn',
    'UBN': 'ubn',
    'BNET': 'bnet',
    'BN-small': 'bn-small',
    'UBN-no-gate': 'ubn-no-gate',
}
_norms = [
    dict(name=name, backbone=f'work_dirs/seed{{seed}}/resnet50_{norm}/epoch_100.pth')
    for name, norm in _arms.items()
]
groups = [dict(norms=_norms, seeds=range(5))]
primary = [
    dict(norm='UBN', metric='bbox_mAP'),
    dict(norm='UBN', metric='segm_mAP'),
]
