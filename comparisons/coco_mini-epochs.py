# How long coco_mini.py would have to train for figures that can be compared: BatchNorm's
# run with twice the epochs. Evaluated now and then, for it has more images to evaluate.
_base_ = 'coco_mini.py'
epochs = 24
groups = [dict(norms=['BN'], seeds=[0])]
primary = []
options = {'train_cfg.val_interval': 4}
