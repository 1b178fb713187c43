# Mask R-CNN for norms in all its parts, trained from scratch.
_base_ = ['mmdet::scratch/mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py', './coco.py']
# norm_eval=True did GN no harm, but would stop these statistics.
model = dict(backbone=dict(norm_eval=False))
# mmdet's own has norm_decay_mult=0, by which a kernel would not decay either.
optim_wrapper = dict(constructor='UBNOptimWrapperConstructor')
auto_scale_lr = dict(enable=True)
