_base_ = './mask-rcnn_r18-scratch_fpn_ubn_6e_shapes.py'
# BatchNorm tap for tap, with a small initial weight: UBN with every stage off.
model = dict(
    backbone=dict(
        norm_cfg=dict(
            _delete_=True,
            type='UBN',
            centering=False,
            scaling=None,
            kernel_size=1,
            condensation_threshold=None,
            initial_weight=0.1,
            requires_grad=True,
        )
    )
)
