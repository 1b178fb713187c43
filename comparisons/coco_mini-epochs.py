# How long coco_mini.py would have to train for figures that can be compared: BatchNorm's
# run with twice the epochs. Evaluated now and then, for it has more images to evaluate.
data = 'data/coco_mini'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
classes = 10
train_images = 1000
image_size = 160
epochs = 24
batch_size = 8
groups = [dict(norms=['BN'], seeds=[0])]
options = {'train_cfg.val_interval': 4}
