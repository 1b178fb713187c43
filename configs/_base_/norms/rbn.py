# Representative BatchNorm (CVPR 2021): centering and scaling.
norm = dict(type='RBN', requires_grad=True)
