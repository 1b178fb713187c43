"""The door to the toolbox: the only part that imports mmengine, mmcv and mmdet."""
