"""The runs of a comparison: their configs, their common start, their training."""
