"""Every line of ``docs/deploy.md`` runs, and what comes out agrees."""

import re
from collections import defaultdict
from functools import partial

import pytest
import torch
from helpers import detectors
from helpers.commands import ROOT, run
from mmdet.models.backbones.resnet import BasicBlock
from PIL import Image
from torch import nn

from ubn_mmdet import UBN
from ubn_mmdet.data.shapes import make_shapes

onnxruntime = pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.slow

CODE = re.compile(
    r'^## (?P<title>[^\n]*)$'
    r'|^```python\n(?P<code>.*?)^```'
    r'|^    python (?P<command>[^\n]*)$',
    re.MULTILINE | re.DOTALL,
)
TESTED = {
    'In Python',
    "MMDetection's tools",
    'Compiling',
    'Exporting',
    'Folding',
}


def sections():
    """Python code and command lines, ``(codes, commands)``, by title."""
    found = defaultdict(lambda: ([], []))
    title = None
    for match in CODE.finditer((ROOT / 'docs/deploy.md').read_text()):
        if match['title']:
            title = match['title']
        elif match['code']:
            found[title][0].append(match['code'])
        else:
            found[title][1].append(match['command'])
    return found


def test_all_of_the_page_is_tested():
    assert sections().keys() == TESTED


def prepare(folder, cfg):
    """A detector's files, and a little of the demo's data."""
    model = detectors.detector(cfg)
    make_shapes(folder / 'data/shapes', num_train=4, num_val=4)
    cfg.dump(folder / 'config.py')
    meta = {'dataset_meta': {'classes': cfg.classes}}
    checkpoint = {'state_dict': model.state_dict(), 'meta': meta}
    torch.save(checkpoint, folder / 'epoch_6.pth')
    first = sorted((folder / 'data/shapes/val').iterdir())[0]
    Image.open(first).convert('RGB').save(folder / 'image.jpg')
    return folder


@pytest.fixture(scope='module', params=['mask-rcnn', 'retinanet'])
def folder(request, tmp_path_factory):
    return prepare(
        tmp_path_factory.mktemp(request.param), detectors.config(request.param)
    )


@pytest.fixture(scope='module')
def retinanet(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp('files'), detectors.config('retinanet'))


def execute(title, folder, monkeypatch):
    """Run a section's Python code; what it has defined."""
    monkeypatch.chdir(folder)
    names = {}
    for code in sections()[title][0]:
        exec(code, names)
    return names


def command(line, folder, *more, ok=True):
    """Run a command line of the page; what it says."""
    script, *options = line.split()
    return run('-W', 'ignore', ROOT / script, *options, *more, cwd=folder, ok=ok)


def test_in_python(folder, monkeypatch):
    names = execute('In Python', folder, monkeypatch)
    scores = names['result'].pred_instances.scores
    assert len(scores) > 3
    torch.testing.assert_close(torch.tensor(names['found']['scores']), scores)
    assert [path.name for path in (folder / 'found/vis').iterdir()] == ['image.jpg']
    norms = sum(isinstance(module, UBN) for module in names['model'].modules())
    assert norms == 20


def test_tools(folder):
    plain, tta, flops, browse, benchmark = sections()["MMDetection's tools"][1]
    assert 'bbox_mAP' in command(plain, folder)
    augments = 'mask' not in folder.name  # MMDetection has it for boxes alone
    said = command(tta, folder, ok=augments)
    assert ('bbox_mAP' if augments else 'TTA of instance segmentation does not') in said
    if not augments:
        return  # the others have nothing to do with masks
    assert re.search(r'Flops: [\d.]+G', command(flops, folder))
    command(browse, folder)
    assert len([*(folder / 'browsed').iterdir()]) == 4
    few = '--max-iter', 4, '--num-warmup', 1
    assert 'img/s' in command(benchmark, folder, *few)


def assert_same(maps, wanted):
    assert len(maps) == len(wanted) == 5
    for ours, theirs in zip(maps, wanted, strict=True):
        ours = torch.as_tensor(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_compiling(retinanet, monkeypatch):
    # The compiler's last step, the slow one, is tested below.
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='aot_eager'))
    names = execute('Compiling', retinanet, monkeypatch)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert_same(names['compiled'](images), names['features'](images))


@pytest.mark.parametrize(('training', 'dynamic'), [(False, False), (True, True)])
def test_a_block_compiles_to_machine_code(training, dynamic):
    def block():
        torch.manual_seed(0)
        return BasicBlock(4, 4, norm_cfg={'type': 'UBN'})

    torch.compiler.reset()
    ours, theirs = block(), block()
    compiled = torch.compile(ours, fullgraph=True, dynamic=dynamic)
    for net in (ours, theirs):
        net.train(training)
    for size in ((32, 32), (40, 24)) if dynamic else ((32, 32),):
        x = torch.randn(2, 4, *size)
        y, want = compiled(x), theirs(x)
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
        if training:
            y.square().sum().backward()
            want.square().sum().backward()
    if training:
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(
        ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning')
def test_exporting(retinanet, monkeypatch):
    names = execute('Exporting', retinanet, monkeypatch)
    features: nn.Module = names['features']
    images = torch.randn(3, 3, 288, 192)
    with torch.no_grad():
        want = features(images)
        program = torch.export.load(retinanet / 'features.pt2')
        assert_same(program.module()(images), want)
        assert_same(torch.jit.load(retinanet / 'features.pt')(images), want)
    for file in ('features.onnx', 'traced.onnx'):
        session = onnxruntime.InferenceSession(retinanet / file)
        assert_same(session.run(None, {'images': images.numpy()}), want)
    assert [len(level) for level in names['maps']] == [1] * 5


def test_folding(tmp_path, monkeypatch, capsys):
    prepare(tmp_path, detectors.config('retinanet', detectors.KERNEL))
    execute('Folding', tmp_path, monkeypatch)
    said = capsys.readouterr().out
    shown = re.findall(r'^    (\d+ norm layers.*)\n    (.*)\n    \.\.\.$',
                       (ROOT / 'docs/deploy.md').read_text(), re.MULTILINE)  # fmt: skip
    for line in shown[0]:
        assert line in said.splitlines()
    assert '1: into 0' in said.splitlines()
    for line in sections()['Folding'][1]:
        command(line, tmp_path)
