"""The stages of the pipeline: what is done with the mean, the statistics, the scale and
the affine part. A stage has settings, and no tensors: it declares those it wants, and
the layer registers them flat, under the names that checkpoints have.
"""
