# The comparison of nuclei.py with a one-stage detector. Half of the nuclei are smaller than
# 8 pixels, so its pyramid starts a level lower, with anchors of that size.
_base_ = 'nuclei.py'
detector = 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'
primary = [dict(norm='UBN', metric='bbox_mAP')]
# Features at UBN's own start are a tenth of BatchNorm's, and this head sees them raw: the
# same layer from BatchNorm's start as well.
groups = [
    dict(norms=['BN', 'UBN'], seeds=range(5)),
    dict(norms=['UBN-from-BN'], seeds=range(3)),
]
options = {
    'model.neck.start_level': 0,
    'model.bbox_head.anchor_generator.strides': [4, 8, 16, 32, 64],
    # Four times the positions: narrower, and with towers of two convolutions.
    'model.neck.out_channels': 64,
    'model.bbox_head.in_channels': 64,
    'model.bbox_head.feat_channels': 64,
    'model.bbox_head.stacked_convs': 2,
    # The usual deviation of 0.01 is for 256 channels: with few, hardly anything comes
    # through the towers, and 400 steps teach them nothing.
    'model.bbox_head.init_cfg': dict(
        type='Normal',
        layer='Conv2d',
        std=0.03,
        override=dict(type='Normal', name='retina_cls', std=0.01, bias_prob=0.01),
    ),
    'optim_wrapper.optimizer.lr': 0.01,
    'optim_wrapper.clip_grad': dict(max_norm=10),
}
