"""COCO-format folders, and the generated data set."""
