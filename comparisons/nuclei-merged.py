# Two processes with two images each: statistics of two images, or merged, of four.
data = 'data/nuclei'
detector = 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
image_size = 160
epochs = 6
batch_size = 2
processes = 2
groups = [
    dict(
        norms=[
            'BN',
            'BN-merged',
            'UBN',  # merges by itself
            dict(
                name='UBN-local',
                preset='ubn',
                options={'model.backbone.norm_cfg.sync': False},
            ),
        ],
        seeds=range(3),
    ),
]
options = {'optim_wrapper.optimizer.lr': 0.01}
