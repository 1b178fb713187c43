# The first half of the paper's protocol in miniature: backbones learn to classify crops of
# the annotated objects. The crops are those of
#     python tools/make_crops.py data/coco_mini data/coco_mini-crops --max-per-class 400
data = 'data/coco_mini-crops'
detector = 'pretrain/resnet18_bn_1xb64_crops.py'
image_size = 64
epochs = 20
batch_size = 64
groups = [dict(norms=['BN', 'UBN', 'BNET'], seeds=[0])]
