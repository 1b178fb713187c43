# The last releases of OpenMMLab's own toolbox, in place of OneDL's: turns the lines of
# requirements.txt and pretraining.txt into those of `make test-openmmlab`.
s/^onedl-mmengine==.*/mmengine==0.10.7/
s/^onedl-mmcv==.*/mmcv==2.1.0/
s/^onedl-mmdetection==.*/mmdet==3.3.0/
s/^onedl-mmpretrain==.*/mmpretrain==1.2.0/
