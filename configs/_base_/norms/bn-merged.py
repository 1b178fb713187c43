# BatchNorm with the statistics of all processes, on CPU too, where SyncBN does not train:
# UBN with every stage off.
norm = dict(
    type='UBN',
    centering=False,
    scaling=None,
    kernel_size=1,
    condensation_threshold=None,
    requires_grad=True,
)
