# InputBN (arXiv 2110.13989) in place of the data set's mean and std, for any detector:
#     _base_ = [DETECTOR, '_base_/input_bn.py']
#     custom_imports = _base_.input_bn_imports
#     model = dict(data_preprocessor=_base_.input_bn)
input_bn = dict(type='InputBN', mean=None, std=None)
input_bn_imports = dict(
    imports=['ubn_mmdet', 'ubn_mmdet.mm.preprocessor'], allow_failed_imports=False
)
