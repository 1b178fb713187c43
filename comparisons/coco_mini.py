# Ten classes of ordinary photographs, few images: a folder made of COCO's, not COCO.
# BatchNorm finds next to nothing in these epochs, nor in twice as many (docs/results.md).
data = 'data/coco_mini'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
classes = 10
train_images = 1000
image_size = 160
epochs = 12
batch_size = 8
groups = [
    dict(norms=['BN', 'UBN'], seeds=range(5)),
    dict(norms=['BNET'], seeds=range(3)),
]
primary = [dict(norm='UBN', metric='segm_mAP')]
