# The comparison of nuclei.py with a one-stage detector.
data = 'data/nuclei'
detector = 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 8
groups = [dict(norms=['BN', 'UBN'], seeds=range(3))]
