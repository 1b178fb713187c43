# The second main experiment (docs/protocol.md): three classes of blood cells, only boxes.
data = 'data/bccd'
detector = 'demo/faster-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 192
epochs = 12
batch_size = 8
# Each norm has its best rate in bccd-tuning.py.
options = {'optim_wrapper.optimizer.lr': 0.04}
_bnet = dict(name='BNET', options={'optim_wrapper.optimizer.lr': 0.08})
groups = [dict(norms=['BN', 'UBN', _bnet], seeds=range(10, 20))]
_pairs = ('UBN', 'BN'), ('BNET', 'BN'), ('UBN', 'BNET')
primary = [
    dict(norm=norm, baseline=baseline, metric='bbox_mAP') for norm, baseline in _pairs
]
