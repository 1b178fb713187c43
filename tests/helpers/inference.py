"""A detector is trained, evaluated and used, as the toolbox's users do it."""

from pathlib import Path

from ubn_mmdet.data.shapes import make_shapes

from .commands import ROOT, run

EPOCH = """
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, **loader)
val_dataloader = dict(batch_size=2, **loader)
train_cfg = dict(max_epochs=1)
"""
CHECKPOINT = 'work/epoch_1.pth'
INFER = """
import sys
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector

config, checkpoint, picture = sys.argv[1:]
model = init_detector(config, checkpoint, device='cpu')
{look}
scores = inference_detector(model, picture).pred_instances.scores
inferencer = DetInferencer(config, checkpoint, device='cpu', show_progress=False)
again = inferencer(picture, return_datasamples=True)['predictions'][0]
torch.testing.assert_close(again.pred_instances.scores, scores)
print('inferred', len(scores))
"""


def train_and_infer(folder: Path, config: str, look: str) -> str:
    """Train an epoch on shapes, then infer from config and checkpoint in two ways.

    Leaves ``CHECKPOINT`` in ``folder``; fails if anything does, or the two ways differ.

    Args:
        folder: An empty one.
        config: The text of the config, without data loaders and schedule.
        look: Python lines that look at the loaded ``model`` and its ``checkpoint``.

    Returns:
        What the training printed.
    """
    make_shapes(folder / 'data/shapes', num_train=4, num_val=2, image_size=64)
    (folder / 'config.py').write_text(config + EPOCH)
    (folder / 'infer.py').write_text(INFER.replace('{look}', look))
    trained = run(
        ROOT / 'tools/train.py', 'config.py', '--work-dir', 'work', cwd=folder
    )
    assert 'coco/bbox_mAP' in trained
    picture = next((folder / 'data/shapes/val').glob('*.png'))
    assert 'inferred' in run('infer.py', 'config.py', CHECKPOINT, picture, cwd=folder)
    return trained
