"""The mathematics of the layers: pure functions on tensors, PyTorch alone."""
