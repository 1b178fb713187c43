# UBN without its kernel: BatchNorm's own affine, which starts as BatchNorm's.
norm = dict(
    type='UBN',
    kernel_size=1,
    requires_grad=True,
)
