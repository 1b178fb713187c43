"""Folders of data: COCO-format or images to classify, and the generated data set."""
