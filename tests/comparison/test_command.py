"""The command line of tools/compare_norms.py, as far as nothing is trained."""

import runpy
import sys

import pytest
import torch
from helpers.commands import ROOT

from ubn_mmdet.comparison.launchers import ClusterLauncher
from ubn_mmdet.comparison.spec import SpecError
from ubn_mmdet.comparison.workspace import ComparisonError

TOOL = runpy.run_path(str(ROOT / 'tools/compare_norms.py'))
NUCLEI = ROOT / 'comparisons/nuclei.py'
PROTOCOL = ROOT / 'comparisons/coco-protocol.py'


@pytest.fixture
def parse(monkeypatch):
    def parse(*line):
        monkeypatch.setattr(sys, 'argv', ['compare_norms.py', *map(str, line)])
        return TOOL['parse_args']()

    return parse


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--seeds', 10, 7], '--seeds: there is no 7; there are 10, 11, 12, 13, 14'),
        (['--only', 'XN'], "--only: there is no 'XN'; there are BN, UBN, BNET"),
    ],
)
def test_what_selects_no_run_is_named(parse, options, message):
    with pytest.raises(SpecError, match=message):
        TOOL['read_comparison'](parse(NUCLEI, *options))


def test_a_norm_that_has_not_that_seed_is_named(parse):
    args = parse(ROOT / 'comparisons/shapes.py', '--only', 'BNET', '--seeds', 4)
    with pytest.raises(SpecError, match='no run has one of these norms and one of'):
        TOOL['read_comparison'](args)


def test_options_of_the_command_come_to_those_of_the_file(parse):
    args = parse(NUCLEI, '--cfg-options', 'optim_wrapper.optimizer.lr=0.5')
    options = TOOL['read_comparison'](args).options
    assert options['optim_wrapper.optimizer.lr'] == 0.5


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--jobs', 0], '--jobs must be at least 1, got 0'),
        (['--gpus', 0, 9], 'there is no GPU 9; there are 4'),
        (['--gpus', 1, 1], '--gpus names one twice'),
        (['--partition', 'gpu'], '--partition and --cluster-options need --cluster'),
        # The batch, and with it the learning rate, is that of the file.
        ([], 'a run has 8 processes, and there are 4 GPUs'),
    ],
)
def test_what_the_machine_has_not_is_named(
    parse, monkeypatch, tmp_path, options, message
):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    args = parse(PROTOCOL, *options)
    with pytest.raises(ComparisonError, match=message):
        TOOL['choose'](TOOL['read_comparison'](args), tmp_path, args)


def test_a_cluster_is_chosen(parse, tmp_path):
    pytest.importorskip('submitit')
    args = parse(PROTOCOL, '--cluster', 'local', '--cluster-options', 'timeout_min=5')
    launcher = TOOL['choose'](TOOL['read_comparison'](args), tmp_path, args)
    # 8 processes with 2 workers each have 24 cores.
    assert isinstance(launcher, ClusterLauncher) and launcher.threads == 3
