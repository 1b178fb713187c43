"""What UBN costs in a detector's inference, as trained and folded for deployment.

One image of noise, random weights. What is done with the last boxes and masks is left out.
"At rest" is UBN without centering and scaling, which can be folded.

    python -m benchmarks.inference
"""

from copy import deepcopy
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from ubn_mmdet.measuring import Step, time_in_turns
from ubn_mmdet.mm.deploy import example, fold_detector

from . import reporting

DETECTORS = {
    'Mask R-CNN R18': 'demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py',
    'RetinaNet R18': 'demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py',
}
SIZE = 320, 320  # height and width in pixels
AT_REST: dict[str, Any] = {'type': 'UBN', 'centering': False, 'scaling': None}
START: dict[str, Any] = {'initial_weight': 0, 'initial_spatial': 'kaiming'}
NORMS: dict[str, dict[str, Any]] = {
    'BN': {'type': 'BN'},
    'UBN': {'type': 'UBN'},
    'UBN k=1 at rest': {**AT_REST, 'kernel_size': 1},
    'UBN k=3 at rest': {**AT_REST, **START},
}
FOLDED = ', folded'  # behind a norm's name
RATIOS = (
    *((name, 'BN') for name in NORMS if name != 'BN'),
    *((name + FOLDED, 'BN' + FOLDED) for name in NORMS if 'at rest' in name),
)


def time_inference(
    config: str, turns: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each turn by the norm of the backbone, and by norm that is folded."""
    register_all_modules()
    steps = {}
    for name, norm_cfg in NORMS.items():
        cfg = Config.fromfile(reporting.ROOT / 'configs' / config)
        cfg.model.backbone.norm_cfg = norm_cfg
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).to(device).eval()
        steps[name] = forward_step(model)
        if name != 'UBN':  # with centering and scaling it stays as it is
            folded = deepcopy(model)
            fold_detector(folded)
            steps[name + FOLDED] = forward_step(folded)
    return time_in_turns(steps, turns)


def forward_step(model: Any) -> Step:
    """A detector's forward pass."""
    image, sample = example(model, SIZE)
    return torch.no_grad()(lambda: model(image, [sample], mode='tensor'))


def measure(results: reporting.Results, turns: int, device: torch.device) -> None:
    """Seconds of each of ``DETECTORS``."""
    for name, config in DETECTORS.items():
        case = f'{name}, one image of {SIZE[0]}x{SIZE[1]}'
        results.measure('seconds', case, time_inference, config, turns, device)


def tables(rows: reporting.Rows) -> dict[str, str]:
    """The results as a Markdown table."""
    return {'ratios': reporting.ratio_table(rows['seconds'], RATIOS, 'BN')}


if __name__ == '__main__':
    reporting.run(reporting.parse_args('inference', __doc__), measure, tables)
