# UBN with the paper's initialisation whose statistics take every batch.
norm = dict(
    type='UBN',
    initial_weight=0,
    initial_spatial='kaiming',
    condensation_threshold=None,
    requires_grad=True,
)
