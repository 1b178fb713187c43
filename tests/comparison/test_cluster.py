"""Runs that are submitted: they go on alone, are collected, and are queued again."""

import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import ROOT

from ubn_mmdet.comparison import driver, results
from ubn_mmdet.comparison.driver import Driver
from ubn_mmdet.comparison.launchers import ClusterLauncher, LocalLauncher
from ubn_mmdet.comparison.spec import Comparison
from ubn_mmdet.comparison.training import plan
from ubn_mmdet.comparison.workspace import ComparisonError

pytest.importorskip('submitit')

# A run that waits for a word, and ends with its metric or without one.
RUN = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1]).parent
with open(folder / 'starts', 'a') as starts:
    print(os.getppid(), file=starts)
while not (folder.parents[2] / 'go').exists():
    time.sleep(0.05)
if folder.parent.name == 'Broken':
    print('out of luck', flush=True)
    sys.exit(3)
result = {'status': 'finished', 'error': None, 'bbox_mAP': 0.5}
(folder / 'result.json').write_text(json.dumps(result))
"""
SBATCH = """#!{python}
import json, os, re, subprocess, sys
text = open(sys.argv[1]).read()
found = re.search('--array=0-([0-9]+)', text)
tasks = range(int(found[1]) + 1) if found else [None]
names = [f'77_{{task}}' if found else '77' for task in tasks]
json.dump([names, os.path.abspath(sys.argv[1])], open('{folder}/jobs.json', 'w'))
open('{folder}/script', 'w').write(text)
for name in names:
    subprocess.run(['scontrol', 'requeue', name], check=True)
print('Submitted batch job 77')
"""
SCONTROL = """#!{python}
import os, subprocess, sys
name = sys.argv[2]
job, _, task = name.partition('_')
of_job = dict(SLURM_JOB_ID=name.replace('_', '0'), SLURM_NTASKS='1', SLURM_NODEID='0')
of_job |= dict(SLURM_JOB_NUM_NODES='1', SLURM_JOB_NODELIST='n1', SLURM_PROCID='0')
of_job |= dict(SLURM_LOCALID='0', SUBMITIT_EXECUTOR='slurm')
if task:
    of_job |= dict(SLURM_ARRAY_JOB_ID=job, SLURM_ARRAY_TASK_ID=task)
else:
    of_job |= dict(SLURM_JOB_ID=job)
subprocess.Popen(
    ['bash', '{folder}/script'], env=os.environ | of_job, start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
"""
SRUN = """#!/bin/bash
while [ "$1" != '{python}' ]; do shift; done
exec "$@"
"""
SACCT = """#!/bin/bash
echo 'JobID|State|NodeList'
for i in 0 1 2; do echo "77_$i|RUNNING|n1"; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands with the names of slurm's, which start everything here and at once."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    commands = {'sbatch': SBATCH, 'scontrol': SCONTROL, 'srun': SRUN, 'sacct': SACCT}
    for name, text in commands.items():
        path = folder / name
        path.write_text(text.format(python=sys.executable, folder=folder))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv('PATH', str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A work folder whose code is the run above, and what makes drivers for it."""
    code = tmp_path / 'code/ubn_mmdet/comparison/training'
    code.mkdir(parents=True)
    for folder in (code, *code.parents[:2]):
        (folder / '__init__.py').touch()
    (code / 'run.py').write_text(RUN)
    monkeypatch.setattr(driver, 'PACKAGE', tmp_path / 'code/ubn_mmdet')
    # Jobs import the package that is tested.
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    def make_plan(comparison, runs, data, work_dir):
        entries = [
            {
                'config': None,
                'config_hash': str(run),
                'settings': {
                    'norm': run.norm.name,
                    'seed': run.seed,
                    'train_images': 1,
                },
            }
            for run in runs
        ]
        return {
            'root': '.',
            'setting_hash': 'setting',
            'runs': entries,
            'notes': [],
        }

    monkeypatch.setattr(plan, 'make_plan', make_plan)
    return tmp_path / 'work'


def comparison(*norms):
    fields = {
        'name': 'made-up',
        'data': 'data',
        'detector': 'some.py',
        'groups': [{'norms': list(norms), 'seeds': [0]}],
        'image_size': 64,
        'epochs': 1,
        'batch_size': 1,
    }
    return Comparison.read(fields)


def drive(work, cluster, norms, say=lambda _: None):
    started = Driver(
        comparison(*norms), 'data', work, work / 'results.jsonl', 'code', say
    )
    options = {'gpus_per_node': 0}
    return started.run(
        ClusterLauncher(work / 'submitit', cluster, 1, jobs=3, options=options)
    )


def starts(work, norm):
    """The processes that have started a run so far."""
    path = work / f'some/{norm}/seed0/starts'
    patience = time.monotonic() + 60
    while not path.exists() and time.monotonic() < patience:
        time.sleep(0.05)
    return path.read_text().split()


def state(process):
    """One letter, as ps shows it; none once a process is gone."""
    try:
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ''


def interrupt_after(count):
    """For ``say``: Ctrl-C after so many runs have been started."""
    started = []

    def say(text):
        started.extend([text] if 'started' in text else [])
        if len(started) == count:
            raise KeyboardInterrupt

    return say


@pytest.mark.slow
@pytest.mark.parametrize('cluster', ['local', 'slurm'])
def test_what_is_submitted_goes_on_and_is_collected_later(cluster, work, slurm):
    norms = 'BN', 'UBN', 'Broken'
    norms = [{'name': name, 'preset': 'bn'} for name in norms]
    with pytest.raises(KeyboardInterrupt):
        drive(work, cluster, norms, interrupt_after(3))
    assert not results.read(work / 'results.jsonl')
    assert len(starts(work, 'UBN')) == 1
    # What starts runs here leaves those alone that a cluster has.
    local = Driver(comparison(*norms), 'data', work, work / 'results.jsonl', 'code')
    with pytest.raises(
        ComparisonError, match=f'BN seed 0 .* --cluster {cluster}: coll'
    ):
        local.run(LocalLauncher(1))
    found = []

    def let_go(text):
        found.extend([text] if 'submitted before' in text else [])
        if len(found) == 3:
            (work / 'go').touch()

    lines = {line['norm']: line for line in drive(work, cluster, norms, let_go)}
    assert len(found) == 3
    assert [lines[name]['status'] for name in ('BN', 'UBN')] == ['finished'] * 2
    assert lines['Broken']['status'] == 'failed'
    assert 'exit status 3\nout of luck' in lines['Broken']['error']
    assert not list(work.glob('some/*/*/job.json'))
    # The same rules as without a cluster: what failed is tried again, nothing else.
    drive(work, cluster, norms)
    counts = {name: len(starts(work, name)) for name in lines}
    assert counts == {'BN': 1, 'UBN': 1, 'Broken': 2}


@pytest.mark.slow
def test_a_job_that_loses_its_machine_is_queued_again(work, slurm):
    norms = ['BN', {'name': 'UBN'}]
    with pytest.raises(KeyboardInterrupt):
        drive(work, 'slurm', norms, interrupt_after(2))
    [job] = starts(work, 'BN')
    os.kill(int(job), signal.SIGUSR2)
    patience = time.monotonic() + 60
    while len(starts(work, 'BN')) < 2 and time.monotonic() < patience:
        time.sleep(0.05)
    (work / 'go').touch()
    lines = drive(work, 'slurm', norms)
    assert [line['status'] for line in lines] == ['finished'] * 2
    assert [len(starts(work, name)) for name in ('BN', 'UBN')] == [2, 1]


@pytest.mark.slow
def test_a_job_whose_processes_are_all_ended_has_no_result(work, slurm):
    """Slurm ends them at once, and tells the job only then to queue itself again."""
    with pytest.raises(KeyboardInterrupt):
        drive(work, 'slurm', ['BN'], interrupt_after(1))
    [job] = starts(work, 'BN')
    [run] = Path(f'/proc/{job}/task/{job}/children').read_text().split()
    for process in (job, run):
        os.kill(int(process), signal.SIGTERM)
    # Once the run is gone, the job is busy until it waits for what Slurm tells it. A job
    # that writes a result ends.
    patience = time.monotonic() + 60
    while state(run) or state(job) not in ('', 'S'):
        assert time.monotonic() < patience
        time.sleep(0.05)
    assert not list(work.glob('submitit/*result.pkl'))
    os.kill(int(job), signal.SIGUSR2)
    (work / 'go').touch()
    [line] = drive(work, 'slurm', ['BN'])
    assert line['status'] == 'finished' and len(starts(work, 'BN')) == 2


def test_the_job_asks_for_what_the_run_needs(work, slurm):
    (work / 'go').parent.mkdir()
    options = {'timeout_min': 90, 'slurm_partition': 'gpu'}
    launcher = ClusterLauncher(
        work / 'submitit', 'slurm', processes=8, workers=2, jobs=2, options=options
    )
    assert launcher.threads == 3
    folders = [work / name for name in ('A', 'B')]
    for each in folders:
        each.mkdir()
    launcher.start(folders, lock=0)
    script = Path(slurm / 'script').read_text()
    for line in (
        '--gpus-per-node=8', '--cpus-per-task=24', '--partition=gpu', '--time=90',
        '--array=0-1%2',
    ):  # fmt: skip
        assert line in script
    assert json.loads((folders[1] / 'job.json').read_text()) == {
        'cluster': 'slurm', 'job': '77_1',
    }  # fmt: skip


def test_there_is_no_room_for_more_jobs_than_asked_for(tmp_path, slurm):
    assert ClusterLauncher(tmp_path, 'local', 1, jobs=2).limit == 2
    assert ClusterLauncher(tmp_path, 'local', 1).limit == 1
    # This one queues.
    assert ClusterLauncher(tmp_path, 'slurm', 1, jobs=2).limit is None


def test_what_is_missing_is_said(tmp_path, monkeypatch, slurm):
    with pytest.raises(ComparisonError, match=r'--cluster slurm: .*speed'):
        ClusterLauncher(tmp_path, 'slurm', 1, options={'speed': 1})
    (slurm / 'srun').unlink()
    with pytest.raises(ComparisonError, match='--cluster slurm: .*srun'):
        ClusterLauncher(tmp_path, 'slurm', 1)
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(ComparisonError, match='pip install submitit'):
        ClusterLauncher(tmp_path, 'slurm', 1)
