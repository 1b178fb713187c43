# The paper's protocol at full size, on 8 GPUs with 2 images each; the folder's train/ and
# val/ are links to train2017/ and val2017/.
data = 'data/coco_folder'
detector = 'protocol/mask-rcnn_r50_fpn_bn_1x_coco.py'
image_size = (1333, 800)
epochs = 12
batch_size = 2
processes = 8
workers = 2
_classifiers = 'work_dirs/resnet50_{}_8xb32_in1k/epoch_100.pth'
groups = [
    dict(
        norms=[
            dict(name='BN', backbone=_classifiers.format('bn')),
            dict(name='UBN', backbone=_classifiers.format('ubn')),
        ],
        seeds=range(5),
    )
]
primary = [dict(norm='UBN', metric='bbox_mAP')]
