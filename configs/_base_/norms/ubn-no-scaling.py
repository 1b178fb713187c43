# UBN with the paper's initialisation, without the scaling gate.
norm = dict(
    type='UBN',
    scaling=None,
    initial_weight=0,
    initial_spatial='kaiming',
    requires_grad=True,
)
