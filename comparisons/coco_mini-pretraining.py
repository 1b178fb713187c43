# Backbones learn to classify crops of annotated objects (docs/protocol.md, E5 and E6). The
# crops are those of
#     python tools/make_crops.py data/coco_mini data/coco_mini-crops --size 128 \
#         --max-per-class 250
# At 128 pixels the last stage has maps of 4x4.
data = 'data/coco_mini-crops'
detector = 'pretrain/resnet18_bn_1xb64_crops.py'
image_size = 128
epochs = 20
batch_size = 64
# On photographs the stem's gate may close after 18 updates of its statistics, for good.
_settled = dict(
    name='UBN-settled',
    preset='ubn',
    options={'model.backbone.norm_cfg.condensation_min_updates': 500},
)
groups = [dict(norms=['BN', 'UBN', 'BNET', _settled], seeds=[10])]
