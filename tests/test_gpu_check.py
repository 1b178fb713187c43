"""The checks for a GPU, tried on a CPU: those that need none."""

import json

import pytest
import torch
from helpers.commands import run

from ubn_mmdet import gpu_check
from ubn_mmdet.gpu_check import checks, run_checks
from ubn_mmdet.ops import fused

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def no_interpreter(monkeypatch):
    """Interpreted kernels take a minute."""
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)


def only(monkeypatch, *words):
    """Leave the checks whose names have one of the words."""
    chosen = {
        name: check
        for name, check in checks(CPU).items()
        if any(word in name for word in words)
    }
    monkeypatch.setattr(gpu_check, 'checks', lambda device: chosen)


def test_what_needs_no_gpu_passes(tmp_path, monkeypatch, capsys):
    only(monkeypatch, 'numbers', 'AMP', 'checkpointing', 'layer')
    result = run_checks(CPU, tmp_path / 'check.json', 60)
    lines = capsys.readouterr().out.splitlines()
    assert not result['failed']
    assert len(lines) == len(result['checks']) == len(gpu_check.FAMILY) + 6
    assert json.loads((tmp_path / 'check.json').read_text()) == result
    table = (tmp_path / 'check.md').read_text()
    assert ', PyTorch' in table and '| numbers: UBN, fused |' in table


@pytest.mark.slow
def test_the_command_line(tmp_path):
    out = tmp_path / 'check.json'
    assert gpu_check.main(['--device', 'cpu', '--out', str(out)]) == 0
    assert 'two ranks' in json.loads(out.read_text())['checks']


def test_every_member_is_compared():
    numbers = [name for name in checks(CPU) if name.startswith('numbers: ')]
    names = {name.split(',')[0].removeprefix('numbers: ') for name in numbers}
    assert names == {member.__name__ for member in gpu_check.FAMILY}


@pytest.mark.parametrize('name', ['MABN', 'MBN', 'BatchRenorm', 'PowerNorm'])
def test_members_are_past_their_start(name):
    """Where they are BatchNorm, their own statistics would not be checked."""
    layer, x = gpu_check.members()[name], gpu_check.maps(4, 6, 5, 5)
    y = layer(x)
    like = torch.nn.functional.batch_norm(
        x, None, None, layer.weight, layer.bias, training=True
    )
    assert not torch.allclose(y, like, rtol=0.05, atol=0.05)


@pytest.mark.parametrize('broken', ['apply', 'sums', 'moments', 'gradient'])
def test_a_wrong_kernel_fails_and_is_named(tmp_path, monkeypatch, broken):
    right = getattr(fused.EAGER, broken)

    def wrong(*args):
        result = right(*args)
        first = result[0] if isinstance(result, tuple) else result
        first.view(-1)[-1] += 0.5 * first.abs().max()
        return result

    kernels = fused.EAGER._replace(**{broken: wrong})
    monkeypatch.setattr(fused, 'EAGER', kernels)
    only(monkeypatch, 'numbers: UBN, fused')
    result = run_checks(CPU, tmp_path / 'check.json', 60)
    assert 'differs by' in result['failed']['numbers: UBN, fused']
    assert 'failed' in (tmp_path / 'check.md').read_text()


def test_an_error_of_any_kind_leaves_the_other_checks(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError('device-side assert')

    monkeypatch.setattr(
        gpu_check, 'checks', lambda device: {'a': fail, 'b': lambda: {'c': 1.0}}
    )
    result = run_checks(CPU, tmp_path / 'check.json', 60)
    assert result['failed'] == {'a': 'RuntimeError: device-side assert'}
    assert result['checks'] == {'b': {'c': 1.0}}


def test_what_there_was_no_time_for_counts_as_failed(tmp_path, monkeypatch):
    only(monkeypatch, 'AMP')
    result = run_checks(CPU, tmp_path / 'check.json', -1)
    assert 'time was over' in result['failed']['AMP with a scaler that overflows once']


def test_it_exits_with_1_if_a_check_has_failed(tmp_path):
    options = '--device=cpu', '--seconds=-1'  # no time for any
    output = run('-m', 'ubn_mmdet.gpu_check', *options, cwd=tmp_path, ok=False)
    failed = json.loads((tmp_path / 'gpu_check.json').read_text())['failed']
    assert output.endswith(f'0 passed, {len(failed)} failed: gpu_check.json\n')


def test_without_a_gpu_it_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip('there is one')
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert 'finds no GPU' in capsys.readouterr().err
