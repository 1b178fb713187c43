# Of UBN's stages the scaling gate alone; it starts as BatchNorm.
norm = dict(
    type='UBN',
    centering=False,
    kernel_size=1,
    condensation_threshold=None,
    requires_grad=True,
)
