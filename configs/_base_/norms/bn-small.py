# BatchNorm tap for tap, with a small initial weight: UBN with every stage off.
norm = dict(
    type='UBN',
    centering=False,
    scaling=None,
    kernel_size=1,
    condensation_threshold=None,
    initial_weight=0.1,
    requires_grad=True,
)
