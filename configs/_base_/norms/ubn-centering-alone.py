# UBN with centering as its only stage; it starts as BatchNorm.
norm = dict(
    type='UBN',
    scaling=None,
    kernel_size=1,
    condensation_threshold=None,
    requires_grad=True,
)
