"""Two commits are run side by side, by the same benchmark."""

from contextlib import ExitStack, closing

import pytest
import torch
from helpers.commands import ROOT

from benchmarks import compare_commits
from benchmarks.compare_commits import compare_round, tables, worktree
from benchmarks.results import git
from benchmarks.worker import Worker

CPU = torch.device('cpu')
CASE = 'layer4, 8 images of 160x160'


class FakeWorker:
    """Answers that a step takes ``seconds``; notes who was asked in ``asked``."""

    def __init__(self, name, seconds, asked):
        self.name, self.seconds, self.asked = name, seconds, asked

    def ask(self, what, *arguments):
        if what == 'prepare':
            return ['BatchNorm', 'UBN']
        self.asked.append((self.name, *arguments))
        return self.seconds


def test_two_processes_take_turns_and_who_is_first_changes():
    asked = []
    old, new = FakeWorker('old', 0.005, asked), FakeWorker('new', 0.01, asked)
    assert compare_round(old, new, ['case'], turns=2) == {
        'case': {'BatchNorm': 2, 'UBN': 2}
    }
    measured = [name for name, layer, calls in asked if layer == 'UBN' and calls == 2]
    assert measured == ['new', 'old', 'old', 'new']


def test_the_interval_is_over_rounds():
    rounds = {str(i): {CASE: {'UBN': 1 + i / 10}} for i in range(1, 11)}
    costs = {'launches': {'of a step': {'UBN': '2 → 1'}}, 'saved bytes': {CASE: {}}}
    found = tables({'round': rounds, **costs})
    assert f'| {CASE} | 1.55 (1.20–1.90) |' in found['layers']
    assert '2 → 1' in found['launches']
    assert 'detector' not in found


@pytest.mark.slow
def test_a_worker_runs_the_code_of_its_commit_by_our_benchmark(tmp_path):
    """BatchNorm is timed; a layer that the commit has broken fails there alone."""
    before = git('worktree', 'list')
    with ExitStack() as stack:
        tree = stack.enter_context(worktree('HEAD'))
        layer = tree / 'ubn_mmdet/layers/ubn.py'
        worker = stack.enter_context(closing(Worker(tree, CPU)))
        assert 'UBN k=3' in worker.ask('prepare', CASE)
        assert worker.ask('seconds', 'UBN k=3', 1) > 0
        assert worker.ask('launches')['BatchNorm'] == 4
        assert worker.ask('memory', CASE)['BatchNorm'] >= 8 * 512 * 25 * 4
        layer.write_text('raise RuntimeError("this code runs")')
        broken = stack.enter_context(closing(Worker(tree, CPU)))
        with pytest.raises(RuntimeError, match='the process failed at'):
            broken.ask('launches')
    assert git('worktree', 'list') == before


def test_a_commit_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr('sys.argv', ['compare_commits', 'HEAD', 'no-such-commit'])
    with pytest.raises(SystemExit):
        compare_commits.main()


def test_only_public_names_are_used_of_other_commits():
    """What a worker imports has to run on the code of any commit."""
    for name in ('worker', 'layer_steps', 'detector_steps', 'costs', 'timing'):
        text = (ROOT / 'benchmarks' / f'{name}.py').read_text()
        lines = [line for line in text.splitlines() if 'ubn_mmdet' in line]
        imports = [line for line in lines if line.startswith(('from', 'import'))]
        assert all(line.startswith('from ubn_mmdet import') for line in imports), name
