# The main experiment (docs/protocol.md): two images per step, from scratch, the norm in the
# backbone.
data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 2
# Each norm has its best rate in nuclei-tuning.py.
lr = 0.01
_norms = ['BN', dict(name='UBN', lr=0.02), dict(name='BNET', lr=0.02)]
# How much of a difference is the rate's: exploratory.
_rates = ('UBN', 0.01), ('BNET', 0.01), ('BN', 0.005)
_at_other_rates = [
    dict(name=f'{norm}-lr-{lr}', preset=norm.lower(), lr=lr) for norm, lr in _rates
]
groups = [
    dict(norms=_norms, seeds=range(10, 20)),
    dict(norms=_at_other_rates, seeds=range(10, 15)),
]
_pairs = ('UBN', 'BN'), ('BNET', 'BN'), ('UBN', 'BNET')
primary = [
    dict(norm=norm, baseline=baseline, metric=metric)
    for norm, baseline in _pairs
    for metric in ('bbox_mAP', 'segm_mAP')
]
