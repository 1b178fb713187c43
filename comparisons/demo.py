# What `make demo` runs: UBN beside BatchNorm, in minutes on two CPU cores.
data = 'data/shapes'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 8
groups = [dict(norms=['BN', 'UBN'], seeds=[0])]
