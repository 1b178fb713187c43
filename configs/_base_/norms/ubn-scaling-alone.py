# UBN with the scaling gate as its only stage; it starts as BatchNorm.
norm = dict(
    type='UBN',
    centering=False,
    kernel_size=1,
    condensation_threshold=None,
    requires_grad=True,
)
