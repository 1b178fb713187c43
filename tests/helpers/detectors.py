"""Small detectors as after training: with statistics of data, and scores that differ."""

from unittest.mock import patch

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from helpers.commands import ROOT
from ubn_mmdet.mm.deploy import example

# At rest, with a kernel: what folds.
KERNEL = {
    'type': 'UBN',
    'centering': False,
    'scaling': None,
    'initial_weight': 0.5,
    'initial_spatial': 'kaiming',
}
SIZE = 64, 96


def config(kind: str, norm_cfg: dict | None = None) -> Config:
    """That of the demo's ``kind``, ``mask-rcnn`` or ``retinanet``, with another norm."""
    path = ROOT / f'configs/demo/{kind}_r18-scratch_fpn_ubn_6e_shapes.py'
    cfg = Config.fromfile(path)
    cfg.model.backbone.base_channels = cfg.model.backbone.stem_channels = 16
    cfg.model.neck.in_channels = [16, 32, 64, 128]
    if norm_cfg:
        cfg.model.backbone.norm_cfg = norm_cfg
    return cfg


def detector(cfg: Config) -> nn.Module:
    """A detector in evaluation mode, as after training."""
    register_all_modules()
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for name, module in model.named_modules():  # init_weights would log each of them
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if 'reg' in name.rpartition('.')[2]:  # small steps, as those learnt are
                module.weight.data *= 0.1
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = None
        for name in ('centering_weight', 'scaling_weight'):
            if getattr(norm, name, None) is not None:
                nn.init.normal_(norm.get_parameter(name), std=0.1)
    model.train()
    with torch.no_grad():
        for seed in range(2):
            model.extract_feat(image(seed))
    return model.eval()


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    """``(1, 3, H, W)``, normalised noise of low frequency."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(1, 3, size[0] // 8, size[1] // 8, generator=generator)
    return nn.functional.interpolate(small, size=size, mode='bilinear')


@torch.no_grad()
def predictions(model: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    """Boxes, scores, labels and masks for an image; masks from 0 to 1, in steps of 1/255.

    Which pixels are above the threshold is a matter of rounding where one is close to it.
    """
    rcnn = model.roi_head.test_cfg if hasattr(model, 'roi_head') else {}
    grey = {'mask_thr_binary': -1} if 'mask_thr_binary' in rcnn else {}
    with patch.dict(rcnn, grey):
        [found] = model.predict(image(seed), [example(model, SIZE)[1]])
    predicted = dict(found.pred_instances.items())
    if grey:
        predicted['masks'] = predicted['masks'] / 255
    return predicted
