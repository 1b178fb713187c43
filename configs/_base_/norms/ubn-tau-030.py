# UBN with the paper's initialisation, whose gate closes sooner: at a condensation of 0.3.
norm = dict(
    type='UBN',
    initial_weight=0,
    initial_spatial='kaiming',
    condensation_threshold=0.3,
    requires_grad=True,
)
