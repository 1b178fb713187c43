"""What the toolbox (mmengine, mmcv and mmdet) needs to use the layers."""
