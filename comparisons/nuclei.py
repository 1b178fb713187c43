# The main experiment (docs/protocol.md): two images a step, from scratch, the norm in the
# backbone.
data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 2
# The best rate of BN, UBN and BNET in nuclei-tuning.py.
options = {'optim_wrapper.optimizer.lr': 0.01}
groups = [dict(norms=['BN', 'UBN', 'BNET', 'GN'], seeds=range(10, 20))]
_pairs = ('UBN', 'BN'), ('BNET', 'BN'), ('UBN', 'BNET')
primary = [
    dict(norm=norm, baseline=baseline, metric=metric)
    for norm, baseline in _pairs
    for metric in ('bbox_mAP', 'segm_mAP')
]
