# UBN with the paper's initialisation, whose gate closes later: at a condensation of 0.05.
norm = dict(
    type='UBN',
    initial_weight=0,
    initial_spatial='kaiming',
    condensation_threshold=0.05,
    requires_grad=True,
)
