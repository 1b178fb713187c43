# Representative BatchNorm (CVPR 2021), by UBN's switches: centering and scaling alone.
norm = dict(type='UBN', kernel_size=1, condensation_threshold=None, requires_grad=True)
