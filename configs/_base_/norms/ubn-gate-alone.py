# UBN with the gate on statistics as its only stage; it starts as BatchNorm.
norm = dict(
    type='UBN',
    centering=False,
    scaling=None,
    kernel_size=1,
    requires_grad=True,
)
