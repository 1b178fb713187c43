"""What the hook records is what the definition says, once a call, at one read a row."""

import copy
import json
import math

import pytest
import torch
from helpers import definition
from helpers.layers import images
from helpers.reads_back import CountedReads
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.checkpoint import checkpoint

from ubn_mmdet import UBN
from ubn_mmdet.mm.condensation import measure_condensation, statistics_shift
from ubn_mmdet.mm.condensation_hook import CondensationFile, CondensationHook

CHANNELS = 3


class Visualizer:
    """Keeps what it is given."""

    def __init__(self):
        self.scalars = {}

    def add_scalars(self, scalars, step):
        self.scalars[step] = scalars


class Logger:
    """Keeps what is said."""

    def __init__(self):
        self.said = []
        self.info = self.warning = self.said.append


class Run:
    """As much of a runner as the hook sees, around any function of a step."""

    def __init__(self, model, work_dir, step=None, iteration=0, state=None, **settings):
        self.model, self.work_dir, self.iter = model, str(work_dir), iteration
        self.visualizer, self.logger = Visualizer(), Logger()
        self.step = step or model
        self.hook = CondensationHook(**settings)
        if state is not None:
            self.hook.after_load_checkpoint(self, state)
        self.hook.before_train(self)

    def train(self, *batches):
        for x in batches:
            self.hook.before_train_iter(self, batch_idx=self.iter)
            self.step(x)
            self.hook.after_train_iter(self, batch_idx=self.iter)
            self.iter += 1
        return self

    def save(self):
        state = {}
        self.hook.before_save_checkpoint(self, state)
        return state

    @property
    def record(self):
        return json.loads((self.hook._file.path).read_text())


def column(record, name, layer=0):
    return torch.tensor([row[layer] for row in record[name]], dtype=torch.float64)


def batches(count, alike=True, n=4):
    return [images(n, CHANNELS, 6, 5, alike=alike, seed=i) for i in range(count)]


def cosines(xs, feature='flat'):
    return torch.stack([definition.condensation([x], feature) for x in xs])


def averages(cs, start=1.0, step=0.1):
    found = []
    for c in cs:
        start = (1 - step) * start + step * c
        found.append(start)
    return torch.stack(found)


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-6)


# --- the numbers ----------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['flat', 'pooled', 'ubn without gate', 'bn'])
def test_numbers_are_the_definitions(tmp_path, kind):
    layer = {
        'flat': lambda: UBN(CHANNELS),
        'pooled': lambda: UBN(CHANNELS, condensation_feature='pooled'),
        'ubn without gate': lambda: UBN(CHANNELS, condensation_threshold=None),
        'bn': lambda: nn.BatchNorm2d(CHANNELS),
    }[kind]().double()
    xs = batches(5, alike=False) + batches(3)
    record = Run(layer, tmp_path, interval=1).train(*xs).record
    assert record['layers'] == ['']
    assert record['has_gate'] == [kind in ('flat', 'pooled')]
    assert record['steps'] == [*range(1, 9)]
    expected = cosines(xs, 'pooled' if kind == 'pooled' else 'flat')
    close(column(record, 'condensation'), expected)
    close(column(record, 'average'), averages(expected))
    assert not torch.allclose(column(record, 'average'), expected, atol=0.1)


@pytest.mark.parametrize('shape', [(4, 3), (5, 3, 7), (17, 3, 4, 4), (2, 3, 2, 3, 2)])
def test_inputs_of_any_batchnorm_can_be_measured(shape):
    x = torch.randn(shape, dtype=torch.float64)
    close(
        measure_condensation(x, 'flat'),
        definition.condensation([x.reshape(*shape[:2], -1, 1)], 'flat'),
    )


def test_half_precision_under_autocast_is_measured_in_full():
    x = 300 * images(4, 3, 32, 32).float()  # its squares overflow float16
    with torch.autocast('cpu', dtype=torch.bfloat16):
        c = measure_condensation(x.half(), 'flat')
    close(c.double(), definition.condensation([x.half().double()], 'flat'))


@pytest.mark.parametrize('kind', [UBN, nn.BatchNorm2d])
def test_the_gate_is_the_layers(tmp_path, kind):
    layer = kind(CHANNELS).double()
    xs = batches(30, alike=False)
    record = Run(layer, tmp_path, interval=1).train(*xs).record
    expected = (averages(cosines(xs)) > 0.15).double()
    assert 0 < expected.mean() < 1
    close(column(record, 'gate'), expected)
    if kind is UBN:  # a closed gate moves nothing
        assert ((column(record, 'shift') > 0) == (expected > 0)).all()


def test_a_row_tells_of_gates_that_closed_before_it(tmp_path):
    layer = UBN(CHANNELS, condensation_threshold=0.5).double()
    xs = batches(12, alike=False)
    record = Run(layer, tmp_path, interval=4).train(*xs).record
    open_steps = (averages(cosines(xs)) > 0.5).double()
    close(column(record, 'gate'), open_steps.view(3, 4).mean(1))
    assert 0 < record['gate'][1][0] < 1
    assert record['threshold'] == [0.5]


def test_a_reversed_gate_is_open_where_the_other_is_closed(tmp_path):
    layers = [UBN(CHANNELS, condensation_opens=o) for o in ('similar', 'dissimilar')]
    model = nn.ModuleList(layers).double()
    run = Run(model, tmp_path, lambda x: [layer(x) for layer in model], interval=1)
    record = run.train(*batches(30, alike=False)).record
    similar, dissimilar = (column(record, 'gate', i) for i in (0, 1))
    assert 0 < similar.mean() < 1
    close(dissimilar, 1 - similar)


def test_a_sampled_average_keeps_its_pace(tmp_path):
    xs = batches(8, alike=False)
    run = Run(nn.BatchNorm2d(CHANNELS).double(), tmp_path, interval=4).train(*xs)
    assert run.record['steps'] == [4, 8]
    measured = cosines(xs)[[3, 7]]
    close(column(run.record, 'condensation'), measured)
    expected = averages(measured, step=1 - 0.9**4)
    close(column(run.record, 'average'), expected)


@pytest.mark.parametrize('kind', [UBN, nn.BatchNorm2d])
def test_shift_is_what_the_step_did(tmp_path, kind):
    layer = kind(CHANNELS).double()
    run = Run(layer, tmp_path, interval=3)
    for x in batches(6):
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        run.train(x)
    new_mean, new_var = layer.running_mean, layer.running_var
    squares = [
        (new_mean[c] - mean[c]) ** 2 / (var[c] + layer.eps)
        + torch.log((new_var[c] + layer.eps) / (var[c] + layer.eps)) ** 2 / 2
        for c in range(CHANNELS)
    ]
    close(column(run.record, 'shift')[-1], (sum(squares) / CHANNELS).sqrt())


def test_shift_agrees_with_the_divergence_of_small_moves():
    mean, var = torch.randn(5).double(), torch.rand(5).double() + 0.5
    new_mean, new_var = mean + 1e-3, var * 1.002
    divergence = (
        torch.log(new_var / var) / 2 + (var + (mean - new_mean) ** 2) / (2 * new_var)
    ) - 0.5
    shift = statistics_shift((mean, var), (new_mean, new_var), eps=0.0)
    torch.testing.assert_close(shift**2 / 2, divergence.mean(), rtol=1e-2, atol=0)
    one = statistics_shift((mean, var), (mean + var.sqrt(), var), eps=0.0)
    torch.testing.assert_close(one, torch.ones(()).double())


# --- the warning ----------------------------------------------------------------------


class Closed(UBN):
    """Its gate closes with the first batch that is not alike."""

    def __init__(self):
        super().__init__(CHANNELS, condensation_threshold=0.9)


WARNING = 'has been closed for 5 steps in a row'


def test_a_gate_that_stays_closed_is_warned_of_once(tmp_path):
    model = nn.Sequential(Closed(), UBN(CHANNELS)).double()
    run = Run(model, tmp_path, lambda x: model[0](x), interval=1, patience=5)
    run.train(*batches(2), *batches(30, alike=False))
    [said] = run.logger.said
    updates = int(model[0].num_batches_tracked)
    assert 2 <= updates < 30
    assert (
        f'the gate of 0 {WARNING}' in said and f'0 has moved them {updates} ti' in said
    )
    assert 'condensation_threshold (0.9)' in said and 'ubn-no-gate' in said


def test_patience_counts_steps_in_a_row(tmp_path):
    model = nn.ModuleList([Closed(), Closed()]).double()
    run = Run(
        model, tmp_path, lambda x: [layer(x) for layer in model], interval=1, patience=5
    )

    def close_for(steps):
        for layer in model:
            layer.condensation.fill_(0.5)
        run.train(*batches(steps, alike=False))

    close_for(4)
    model[1].condensation.fill_(1)
    run.train(*batches(1))
    assert [f'the gate of 0 {WARNING}' in said for said in run.logger.said] == [True]
    close_for(4)
    assert len(run.logger.said) == 1
    close_for(1)
    assert f'the gate of 1 {WARNING}' in run.logger.said[1]


def test_a_layer_without_input_is_not_warned_of(tmp_path):
    run = Run(Closed().double(), tmp_path, interval=1, patience=5)
    run.train(*[torch.empty(0, CHANNELS, 4, 4).double()] * 9)
    assert not run.logger.said and run.record['gate'] == 9 * [[None]]


def test_a_compiled_model_whose_hooks_are_skipped_is_recorded(tmp_path):
    layer = Closed().double()
    # A compiler calls no hooks that came after it.
    run = Run(layer, tmp_path, layer.forward, interval=5, patience=5)
    run.train(*batches(5), *batches(30, alike=False))
    gate = column(run.record, 'gate')
    assert 5 * gate.sum() == layer.num_batches_tracked > 0 == gate[-1]
    close(column(run.record, 'average')[-1], layer.condensation)
    assert [WARNING in said for said in run.logger.said] == [True]


def test_a_gate_that_plays_no_part_is_not_warned_of(tmp_path):
    model = nn.Sequential(Closed().eval(), nn.BatchNorm2d(CHANNELS)).double()
    model[0].condensation.fill_(0)
    run = Run(model, tmp_path, interval=1, patience=5)
    assert not run.train(*batches(50, alike=False)).logger.said


# --- calls ----------------------------------------------------------------------------


@pytest.mark.parametrize('kind', [UBN, nn.BatchNorm2d])
def test_calls_of_one_step_are_averaged(tmp_path, kind):
    layer = kind(CHANNELS).double()
    levels = images(4, CHANNELS, 8, 8), images(4, CHANNELS, 4, 4, alike=False)

    def step(_):
        for x in (*levels, torch.empty(0, CHANNELS, 4, 4).double()):
            layer(x)

    record = Run(layer, tmp_path, step, interval=1).train(None).record
    close(column(record, 'condensation')[0], cosines(levels).mean())


@pytest.mark.parametrize('use_reentrant', [True, False])
@pytest.mark.parametrize('kind', [UBN, nn.BatchNorm2d])
def test_a_recomputed_forward_counts_once(tmp_path, kind, use_reentrant):
    layer = kind(CHANNELS).double()
    calls = []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def step(x):
        x = x.clone().requires_grad_()

        def block(x):
            return layer(x).sin()  # a recomputation ends before what nothing follows

        # Of two inputs that differ, one is recomputed: were that to count, it would show.
        y = checkpoint(block, x, use_reentrant=use_reentrant) + block(x.abs())
        y.square().sum().backward()

    x = images(4, CHANNELS, 6, 5, alike=False)
    record = Run(layer, tmp_path, step, interval=1).train(x).record
    assert len(calls) == 3
    close(column(record, 'condensation')[0], cosines([x, x.abs()]).mean())


def train_rank(task):
    work_dir, xs = task
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS), UBN(CHANNELS, sync=False)).double()
    run = Run(model, work_dir, lambda x: [layer(x) for layer in model], interval=1)
    return run.train(*xs).save()['condensation']['layers'][0]


def test_ranks_share_one_record(two_ranks, tmp_path):
    each = batches(3, alike=False), batches(3, n=2)
    tasks = [(tmp_path / f'rank{i}', xs) for i, xs in enumerate(each)]
    first, second = two_ranks.run(train_rank, tasks)
    record = json.loads((tmp_path / 'rank0/condensation.json').read_text())
    assert not (tmp_path / 'rank1').exists()
    expected = torch.stack([cosines(xs) for xs in each]).mean(0)
    for layer in range(2):
        close(column(record, 'condensation', layer), expected)
    close(column(record, 'average'), averages(expected))
    torch.testing.assert_close(first[0], second[0])


def test_uncalled_and_frozen_layers(tmp_path):
    model = nn.ModuleList(
        [UBN(CHANNELS), UBN(CHANNELS).eval(), nn.BatchNorm2d(CHANNELS).eval()]
    ).double()

    def step(x):
        model[1](x)
        model[2](x)

    [x] = batches(1, alike=False)
    run = Run(model, tmp_path, step, interval=1).train(x)
    [c], [average], [gate], [shift] = (
        run.record[name] for name in ('condensation', 'average', 'gate', 'shift')
    )
    assert c[0] is None
    close(torch.tensor(c[1:]).double(), cosines([x, x]))
    assert (average, gate, shift) == ([1, None, None], [None] * 3, [0, 0, 0])
    assert run.visualizer.scalars[1].keys() == {
        *('condensation/1', 'condensation/2'),
        *(f'shift/{i}' for i in range(3)),
    }


def test_a_layer_that_evaluates_in_the_step_is_measured(tmp_path):
    """As the teacher of a semi-supervised detector does."""
    layer = UBN(CHANNELS).double()
    [x] = batches(1, alike=False)

    def step(x):
        layer.eval()(x)

    run = Run(layer, tmp_path, step, interval=1).train(x)
    close(column(run.record, 'condensation'), cosines([x]))


def test_no_running_statistics_no_shift(tmp_path):
    layer = UBN(CHANNELS, track_running_stats=False).double()
    record = Run(layer, tmp_path, interval=1).train(*batches(1)).record
    assert record['shift'] == [[None]]
    assert record['has_gate'] == [False]


def test_a_batch_with_nan_leaves_the_average_alone(tmp_path):
    good, bad = batches(2)
    bad[0] = torch.nan
    run = Run(nn.BatchNorm2d(CHANNELS).double(), tmp_path, interval=1).train(good, bad)
    assert run.record['condensation'][1] == [None]
    assert run.record['average'][0] == run.record['average'][1]


def test_hooks_stay_for_a_recorded_step_alone(tmp_path):
    layer = UBN(CHANNELS).double()
    seen = []

    def step(x):
        seen.append(len(layer._forward_hooks))
        layer(x)

    Run(layer, tmp_path, step, interval=2).train(*batches(4))
    assert seen == [0, 1, 0, 1]
    assert not layer._forward_hooks


# --- what it costs --------------------------------------------------------------------


@pytest.mark.parametrize('kind', [UBN, nn.BatchNorm2d])
def test_the_host_reads_once_a_row(tmp_path, kind):
    model = nn.Sequential(*(kind(CHANNELS) for _ in range(5))).double()
    run = Run(model, tmp_path, interval=3)
    with CountedReads() as reads:
        run.train(*batches(2))
        assert reads.count == 0
        run.train(*batches(7))
    assert len(run.record['steps']) == 3
    assert reads.count == 3


# --- the file -------------------------------------------------------------------------


def test_a_resumed_run_is_the_run_that_was_not_killed(tmp_path):
    def model():
        layers = UBN(CHANNELS, condensation_threshold=0.6), nn.BatchNorm2d(CHANNELS)
        return nn.Sequential(*layers).double()

    xs = batches(20, alike=False)
    whole = Run(model(), tmp_path / 'whole', interval=3).train(*xs).record

    first = Run(model(), tmp_path / 'killed', interval=3).train(*xs[:8])
    state = {**first.save(), 'state_dict': first.model.state_dict()}
    state = copy.deepcopy(state)
    first.train(*batches(4))  # lost, and other than what comes in its place
    assert first.record['steps'] == [3, 6, 9, 12]

    resumed = model()
    resumed.load_state_dict(state['state_dict'])
    second = Run(resumed, tmp_path / 'killed', iteration=8, state=state, interval=3)
    record = second.train(*xs[8:]).record
    assert record == whole
    assert record['steps'] == [3, 6, 9, 12, 15, 18]


def test_a_new_run_starts_a_new_file(tmp_path):
    model = nn.BatchNorm2d(CHANNELS).double()
    Run(model, tmp_path, interval=1).train(*batches(2))
    # Of the weights it starts from.
    state = {'condensation': {'step': 0, 'layers': torch.zeros(3, 1)}}
    record = Run(model, tmp_path, state=state, interval=1).train(*batches(1)).record
    assert record['steps'] == [1]
    close(column(record, 'average'), averages(cosines(batches(1))))


def test_a_file_of_other_layers_is_not_continued(tmp_path):
    Run(nn.BatchNorm2d(CHANNELS).double(), tmp_path, interval=1).train(*batches(2))
    model = nn.Sequential(nn.BatchNorm2d(CHANNELS)).double()
    run = Run(model, tmp_path, iteration=2, interval=1).train(*batches(1))
    assert run.record['steps'] == [3]
    kept = json.loads((tmp_path / 'condensation.before-2.json').read_text())
    assert kept['steps'] == [1, 2]
    assert 'is kept as condensation.before-2.json' in run.logger.said[0]


def test_a_run_that_is_resumed_without_its_record_starts_one(tmp_path):
    run = Run(nn.BatchNorm2d(CHANNELS).double(), tmp_path, iteration=2, interval=1)
    assert run.train(*batches(1)).record['steps'] == [3]
    assert not run.logger.said


def test_a_long_file_is_written_less_often_and_completed(tmp_path):
    file = CondensationFile(tmp_path / 'c.json', {'layers': ['bn']})
    writes, write = [], file.write
    file.write = lambda: (writes.append(step), write())
    row = {name: [0.5] for name in ('condensation', 'average', 'gate', 'shift')}
    for step in range(1, 1001):
        file.append(step, row)
    assert writes[:99] == [*range(1, 100)]
    assert len(writes) < 350
    gaps = [b - a for a, b in zip(writes, writes[1:], strict=False)]
    assert max(gaps) <= 1000 // 100 + 1
    file.write()
    assert len(json.loads(file.path.read_text())['gate']) == 1000


def test_numbers_that_json_lacks_are_null(tmp_path):
    file = CondensationFile(tmp_path / 'c.json', {'layers': ['a', 'b', 'c']})
    row = [math.nan, math.inf, 1 / 3]
    file.append(7, dict.fromkeys(('condensation', 'average', 'gate', 'shift'), row))
    text = file.path.read_text()
    assert json.loads(text)['shift'] == [[None, None, 0.333333]]
    assert 'NaN' not in text


# --- in the toolbox -------------------------------------------------------------------


class Maps(torch.utils.data.Dataset):
    """Six images."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return images(3, 8, 8, seed=index).float()


@MODELS.register_module()
class CondensationToy(nn.Module):
    """A norm of each kind."""

    def __init__(self):
        super().__init__()
        self.ubn, self.conv = UBN(3), nn.Conv2d(3, 3, 3)
        self.bn = nn.BatchNorm2d(3)

    def train_step(self, data, optim_wrapper):
        loss = self.bn(self.conv(self.ubn(torch.stack(data)))).square().mean()
        optim_wrapper.update_params(loss)
        return {'loss': loss}


@pytest.fixture
def _registered():
    if 'CondensationMaps' not in DATASETS.module_dict:
        DATASETS.register_module(name='CondensationMaps', module=Maps)


def runner(work_dir, epochs, **settings):
    settings.setdefault('custom_hooks', [{'type': 'CondensationHook', 'interval': 2}])
    return Runner(
        CondensationToy(),
        work_dir=str(work_dir),
        train_dataloader={
            'dataset': {'type': 'CondensationMaps'},
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 2,
            'collate_fn': {'type': 'pseudo_collate'},
        },
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        visualizer={
            'type': 'Visualizer',
            'vis_backends': [{'type': 'LocalVisBackend'}],
        },
        experiment_name=f'condensation_{work_dir.name}_{epochs}',
        **settings,
    )


@pytest.mark.usefixtures('_registered')
def test_a_runner_records_and_resumes(tmp_path):
    runner(tmp_path, epochs=1).train()
    runner(tmp_path, epochs=3, resume=True).train()
    record = json.loads((tmp_path / 'condensation.json').read_text())
    assert record['layers'] == ['ubn', 'bn']
    assert record['has_gate'] == [True, False]
    assert record['steps'] == [2, 4, 6, 8]
    first = torch.stack([images(3, 8, 8, seed=i).float() for i in (2, 3)])
    close(column(record, 'condensation')[0], cosines([first.double()])[0])
    assert (column(record, 'average').diff() < 0).all()

    lines = [
        json.loads(line)
        for path in tmp_path.glob('*/vis_data/scalars.json')
        for line in path.read_text().splitlines()
    ]
    ours = {line['step']: line for line in lines if 'gate/open' in line}
    assert sorted(ours) == record['steps']
    assert ours[4].keys() == {
        *('condensation/ubn', 'condensation/bn', 'shift/ubn', 'shift/bn'),
        *('gate/open', 'step'),
    }
    close(
        torch.tensor(ours[4]['condensation/bn']).double(),
        column(record, 'condensation', 1)[1],
    )


@pytest.mark.usefixtures('_registered')
def test_every_run_records_layers_with_a_gate(tmp_path):
    run = runner(tmp_path, epochs=1, custom_hooks=[])
    [hook] = [h for h in run.hooks if isinstance(h, CondensationHook)]
    assert hook.interval == 500
    hook.interval = 2
    run.train()
    record = json.loads((tmp_path / 'condensation.json').read_text())
    assert (record['layers'], record['steps']) == (['ubn'], [2])


@pytest.mark.usefixtures('_registered')
def test_the_hook_of_every_run_gives_way(tmp_path):
    run = runner(tmp_path, epochs=1)
    run.train()
    assert sum(isinstance(h, CondensationHook) for h in run.hooks) == 2
    record = json.loads((tmp_path / 'condensation.json').read_text())
    assert (record['layers'], record['steps']) == (['ubn', 'bn'], [2])


@pytest.mark.usefixtures('_registered')
def test_a_run_without_gates_is_not_recorded(tmp_path):
    run = runner(tmp_path, epochs=1, custom_hooks=[])
    run.model.ubn = nn.BatchNorm2d(3)
    run.train()
    assert not (tmp_path / 'condensation.json').exists()


def test_a_model_without_batchnorm_trains(tmp_path):
    run = Run(nn.GroupNorm(1, CHANNELS).double(), tmp_path)
    assert run.train(*batches(10)).save() == {}
    run.hook.after_train(run)
    assert not (tmp_path / 'condensation.json').exists()


@pytest.mark.parametrize(
    ('settings', 'error', 'allowed'),
    [
        ({'interval': 0}, ValueError, 'positive integer'),
        ({'patience': 0}, ValueError, 'positive integer'),
        ({'intervall': 5}, TypeError, 'intervall'),
    ],
)
def test_senseless_settings_are_refused(settings, error, allowed):
    with pytest.raises(error, match=allowed):
        HOOKS.build({'type': 'CondensationHook', **settings})
