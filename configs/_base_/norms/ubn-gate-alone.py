# Of UBN's stages the gate on statistics alone; it starts as BatchNorm.
norm = dict(
    type='UBN',
    centering=False,
    scaling=None,
    kernel_size=1,
    requires_grad=True,
)
