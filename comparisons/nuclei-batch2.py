# As nuclei.py, with two images a step and the learning rate that goes with them.
data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 2
groups = [dict(norms=['BN', 'UBN'], seeds=range(3))]
options = {'optim_wrapper.optimizer.lr': 0.005}
