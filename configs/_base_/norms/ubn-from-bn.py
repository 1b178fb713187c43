# UBN that starts as BatchNorm, or as the BatchNorm whose weights it is given.
norm = dict(type='UBN', requires_grad=True)
