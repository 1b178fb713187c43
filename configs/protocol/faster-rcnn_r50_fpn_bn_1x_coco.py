_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/protocol.py']
# norm_eval=True and frozen_stages=1 are mmdet's own, and the authors'. Like theirs, this
# schedule clips no gradients: a limit that acted on only one norm would be a difference.
model = dict(
    backbone=dict(
        init_cfg=dict(
            prefix='backbone.', checkpoint=_base_.imagenet.format(depth=50, norm='bn')
        )
    )
)
# As in the paper, all of a norm layer decays.
optim_wrapper = dict(constructor='UBNOptimWrapperConstructor')
auto_scale_lr = dict(enable=True)
