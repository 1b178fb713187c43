"""The numbers of a group, and what Markdown says of them."""

import json

import numpy as np
import pytest
from helpers.results import condensation, result, write_results
from PIL import Image

from ubn_mmdet.comparison.report import figures
from ubn_mmdet.comparison.report.numbers import numbers_of_all
from ubn_mmdet.comparison.report.tables import group_markdown
from ubn_mmdet.comparison.results import read_groups
from ubn_mmdet.markdown import markdown_table


@pytest.fixture
def numbers(tmp_path):
    def make(*lines, baseline='BN', images=None, note='They are gone.'):
        (group,) = read_groups([write_results(tmp_path / 'r.jsonl', list(lines))])
        found = numbers_of_all({'': group}, baseline, lambda _: (images, note))['']
        return json.loads(json.dumps(found))  # as report.json has it

    return make


def runs_of(norm, *aps, **changes):
    return [result(norm, seed, ap, **changes) for seed, ap in enumerate(aps)]


BN = runs_of('BN', 0.10, 0.20, 0.30)
UBN = runs_of('UBN', 0.22, 0.32, 0.42)
PRIMARY = [{'norm': 'UBN', 'baseline': 'BN', 'metric': 'bbox_mAP'}]


def table_after(markdown, start):
    """The rows of the table whose first row starts like this, as lists of cells."""
    lines = markdown[markdown.index(f'\n| {start}') :].strip().splitlines()
    rows = []
    for line in lines:
        if not line.startswith('|'):
            break
        rows.append([cell.strip() for cell in line.strip('|').split('|')])
    return [rows[0], *rows[2:]]


def test_contrasts_of_one_report_are_corrected_together(tmp_path):
    """They may belong to one design."""
    fives = runs_of('BN', *FIVE), runs_of('UBN', *(ap + 0.05 for ap in FIVE))
    groups = {}
    for name in ('nuclei', 'bccd'):
        lines = [
            {**line, 'comparison': name, 'primary': PRIMARY}
            for of in fives
            for line in of
        ]
        path = write_results(tmp_path / f'{name}.jsonl', lines)
        [groups[name]] = read_groups([path])

    def read(group):
        return {}, ''

    alone = numbers_of_all({'': groups['bccd']}, 'BN', read)
    both = numbers_of_all(groups, 'BN', read)
    [alone], *both = (of['primary'] for of in (alone[''], *both.values()))
    for [contrast] in both:
        assert contrast['holm'] == pytest.approx(2 * alone['holm'])
        assert contrast['detectable'] > alone['detectable']


def test_spreads_and_comparisons(numbers):
    found = numbers(*BN, *UBN)
    assert found['norms']['BN']['metrics']['bbox_mAP'] == {
        'mean': pytest.approx(0.2), 'deviation': pytest.approx(0.1), 'count': 3,
    }  # fmt: skip
    compared = found['against']['UBN']['bbox_mAP']
    assert compared['difference'] == pytest.approx(0.12)
    # Two variances of 0.01 over 3 seeds, 4 degrees of freedom.
    margin = 2.776445 * (0.02 / 3) ** 0.5
    assert compared['interval'] == pytest.approx([0.12 - margin, 0.12 + margin])
    assert compared['seeds'] == [3, 3]
    assert 'verdict' not in compared
    assert compared['q'] == pytest.approx(compared['p'])  # of two that are the same


def decided(numbers, *lines, primary=PRIMARY, images=None, **more):
    lines = [{**line, 'primary': primary, **more} for line in lines]
    norms = list(dict.fromkeys(line['norm'] for line in lines))
    agreeing = {  # with little spread over images
        (line['norm'], line['seed']): scores(
            [0.1, 0.1 + 1e-4 * norms.index(line['norm'])], COSTS
        )
        for line in lines
    }
    return numbers(*lines, images=images or agreeing)['primary']


def scores(halves, errors=None):
    """What ``scores_of_runs`` gives of a run."""
    return {'bbox': {'AP': 0.1, 'halves': halves, 'errors': errors}}


COSTS = dict.fromkeys(('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss'), 0.1)
FIVE = 0.10, 0.11, 0.12, 0.13, 0.14


def test_a_primary_contrast_is_decided(numbers):
    ubn = runs_of('UBN', *(ap + 0.05 for ap in FIVE))
    [found] = decided(numbers, *runs_of('BN', *FIVE), *ubn)
    assert found['verdict'] == 'higher' and found['holm'] == found['p'] < 0.01
    [found] = decided(numbers, *runs_of('BN', *FIVE), *ubn[:4])
    assert found['verdict'] == 'too few seeds for a verdict'
    same = runs_of('UBN', *(ap + 0.01 for ap in FIVE))
    [found] = decided(numbers, *runs_of('BN', *FIVE), *same)
    assert found['verdict'] == 'no significant difference'
    # What has this spread: the difference is half of what such a comparison finds.
    assert found['detectable'] > 0.02 > found['difference']


def test_contrasts_are_corrected_for_how_many_there_are(numbers):
    lines = [*runs_of('BN', *FIVE)]
    for norm in 'UBN', 'B', 'C':
        lines += runs_of(norm, *(ap + 0.025 for ap in FIVE))
    [alone] = decided(numbers, *lines)
    assert alone['verdict'] == 'higher' and 0.0167 < alone['p'] < 0.05
    named = [{**PRIMARY[0], 'norm': norm} for norm in ('UBN', 'B', 'C')]
    for found in decided(numbers, *lines, primary=named):
        assert found['holm'] == pytest.approx(3 * alone['p'])
        assert found['verdict'] == 'no significant difference'
        assert found['detectable'] > alone['detectable']
    # One that was never run counts as well.
    found, missing = decided(
        numbers, *lines, primary=[*PRIMARY, {**named[1], 'norm': 'X'}]
    )
    assert found['holm'] == pytest.approx(2 * alone['p'])
    assert missing['verdict'] == 'too few seeds for a verdict'


def test_a_plan_that_has_changed_is_told(numbers):
    lines = [*runs_of('BN', *FIVE), *runs_of('UBN', *FIVE)]
    assert 'were changed' not in group_markdown('a', numbers(*lines), {})
    plan = {'BN': list(range(5)), 'UBN': list(range(5))}
    lines = [{**line, 'planned': plan} for line in lines]
    lines[0]['planned'] = {**plan, 'UBN': [0, 1]}
    text = group_markdown('a', numbers(*lines), {})
    assert 'The seeds of UBN were changed after runs had ended.' in text


def test_what_is_decided_is_not_among_the_exploratory(numbers):
    lines = [*runs_of('BN', *FIVE), *runs_of('UBN', *(ap + 1 for ap in FIVE))]
    lines += runs_of('RBN', *(ap + 0.02 for ap in FIVE))
    primary = [{**PRIMARY[0], 'metric': m} for m in ('bbox_mAP', 'segm_mAP')]
    against = numbers(*({**line, 'primary': primary} for line in lines))['against']
    assert 'q' not in against['UBN']['bbox_mAP']
    found = against['RBN']['bbox_mAP']
    assert found['q'] == pytest.approx(found['p'])


def test_a_verdict_waits_for_all_planned_runs(numbers):
    lines = [*runs_of('BN', *FIVE), *runs_of('UBN', *(ap + 0.05 for ap in FIVE))]
    plan = {'BN': [0, 1, 2, 3, 4], 'UBN': [0, 1, 2, 3, 4, 5, 6]}
    [found] = decided(numbers, *lines, planned=plan)
    assert found['verdict'] == 'runs missing: 2' and found['p'] < 0.01
    assert found['holm'] is None
    # In the correction of others it counts as if its p were 1.
    lines += runs_of('RBN', *(ap + 0.025 for ap in FIVE))
    other = {**PRIMARY[0], 'norm': 'RBN'}
    both = decided(
        numbers, *lines, primary=[*PRIMARY, other], planned={**plan, 'RBN': plan['BN']}
    )
    assert both[1]['holm'] == pytest.approx(2 * both[1]['p'])
    lines = lines[:10]
    # A run that diverged has ended, one that failed has not.
    bad = [result('UBN', 5, 0, status='diverged'), result('UBN', 6, 0, status='failed')]
    [found] = decided(numbers, *lines, *bad, planned=plan)
    assert found['verdict'] == 'runs missing: 1'
    # Nobody can ask for less once there are results.
    shorter = {norm: seeds[:5] for norm, seeds in plan.items()}
    lines[1:] = [{**line, 'planned': shorter} for line in lines[1:]]
    lines[0]['planned'] = plan
    [found] = decided(numbers, *lines)
    assert found['missing'] == 2


def test_a_contrast_that_was_named_after_a_run_is_exploratory(numbers):
    first, *rest = [*runs_of('BN', *FIVE), *runs_of('UBN', *(ap + 1 for ap in FIVE))]
    found = numbers(first, *({**line, 'primary': PRIMARY} for line in rest))
    assert found['primary'] == []
    assert 'there is no verdict' in group_markdown('a', found, {})


def test_divergence_counts_against_a_norm(numbers):
    bad = {'status': 'diverged', 'error': 'nan'}
    ubn = runs_of('UBN', *(ap + 0.05 for ap in FIVE))
    ubn[3:] = [{**line, **bad} for line in ubn[3:]]
    lines = [{**line, 'primary': PRIMARY} for line in (*runs_of('BN', *FIVE), *ubn)]
    found = numbers(*lines)
    [contrast] = found['primary']
    assert contrast['verdict'] == 'no significant difference'
    assert contrast['difference'] == pytest.approx((0.15 + 0.16 + 0.17) / 5 - 0.12)
    assert contrast['diverged'] == [0, 2]
    text = group_markdown('a', found, {})
    assert table_after(text, 'primary contrast')[1][8] == '5 (2 diverged) and 5'
    said = '- UBN against BN, box AP, without the runs that diverged: +0.040, +0.0'
    assert said in text
    assert table_after(text, 'box | seeds')[2][:2] == ['UBN', '5, 2 diverged']
    # Not in what the data do not have.
    lines = [{**line, 'bbox_mAP_l': -1} for line in lines]
    metrics = numbers(*lines)['norms']['UBN']['metrics']
    assert metrics['bbox_mAP_l'] is None and metrics['bbox_mAP_m']['count'] == 5
    # As it does against a baseline.
    backwards = [{**PRIMARY[0], 'norm': 'BN', 'baseline': 'UBN'}]
    [contrast] = decided(numbers, *lines, primary=backwards)
    assert contrast['diverged'] == [2, 0] and contrast['difference'] > 0


def test_curves_are_means_over_seeds(numbers):
    found = numbers(*BN)['norms']['BN']['curves']['bbox_mAP']
    assert found['x'] == [1, 2, 3, 4]
    assert found['mean'] == pytest.approx([0.05, 0.10, 0.15, 0.20])
    assert found['deviation'] == pytest.approx([0.025, 0.05, 0.075, 0.1])


def test_curves_have_the_points_that_all_seeds_have(numbers):
    short = result('BN', 1, 0.2)
    short['curves']['epoch'] = [2, 4]
    short['curves']['bbox_mAP'] = [0.5, 1.0]
    found = numbers(result('BN', 0, 0.1), short)['norms']['BN']['curves']['bbox_mAP']
    assert found['x'] == [2, 4]


def test_markdown_of_a_comparison(numbers):
    lines = [{**line, 'primary': PRIMARY} for line in (*BN, *UBN)]
    text = group_markdown('nuclei', numbers(*lines), {})
    assert text.startswith('## nuclei\n\n| primary contrast |')
    header, row = table_after(text, 'primary contrast')
    assert dict(zip(header, row, strict=True)) == {
        'primary contrast': 'UBN against BN',
        'metric': 'box AP',
        'verdict': 'too few seeds for a verdict',
        'difference': '+0.120',
        '95% over seeds': '-0.107 to +0.347',
        'p': '0.216',
        'Holm': '0.216',
        'detectable': '0.304',
        'seeds': '3 and 3',
        '95% over images': '–',
    }
    header, mask = table_after(text, 'norm | metric')  # boxes have their verdict above
    assert header == [
        'norm', 'metric', 'difference', '95% over seeds', 'p', 'q', 'detectable', 'seeds',
        '95% over images',
    ]  # fmt: skip
    assert mask[1] == 'mask AP' and mask[5] == '0.216'
    assert '\n\nThey are gone.\n\n' in text
    header, bn, ubn = table_after(text, 'box | seeds')
    assert bn[:3] == ['BN', '3', '0.200 ± 0.100']
    assert table_after(text, 'mask | seeds')[2][2] == '0.330 ± 0.100'
    assert '![' not in text
    assert 'diverged, and' not in text
    assert "- UBN: seeds 0, 1, 2; `{'type': 'UBN'}`" in text


def test_costs_stand_beside_the_baseline(numbers):
    slow = runs_of('UBN', 0.2, 0.3, 0.4, seconds_per_step=0.615, parameters=None)
    text = group_markdown('a', numbers(*BN, *slow), {})
    _, bn, ubn = table_after(text, 'norm | seconds per step')
    assert bn == ['BN', '0.41', '1.00', '1,800', '1.00', '21']
    assert ubn == ['UBN', '0.615', '1.50', '1,800', '1.00', '–']


def test_an_interval_over_images_has_a_say(numbers):
    lines = [*runs_of('BN', *FIVE), *runs_of('UBN', *(ap + 0.05 for ap in FIVE))]

    def images(deviation):
        halves = {'BN': [0.1, 0.1], 'UBN': [0.1 - deviation, 0.1 + deviation]}
        return {
            (norm, seed): scores(halves[norm], COSTS)
            for norm in halves
            for seed in range(5)
        }

    [found] = decided(numbers, *lines, images=images(0.02))
    assert found['verdict'] == 'higher'
    assert found['over_images'] == pytest.approx(
        [0.05 - 0.0392, 0.05 + 0.0392], abs=1e-4
    )
    [found] = decided(numbers, *lines, images=images(0.03))
    assert found['verdict'] == 'not significant over images'
    text = group_markdown('a', numbers(*lines, images=images(0.02)), {})
    _, box, mask = table_after(text, 'norm | metric')
    assert box[-1] == '+0.011 to +0.089' and mask[-1] == '–'
    # Of a norm that is not scored as a whole there is none.
    some = images(0.02)
    del some['BN', 3]
    [found] = decided(numbers, *lines, images=some)
    assert found['over_images'] is None
    assert found['verdict'] == 'no interval over images: no verdict'
    # What diverged found nothing in any image.
    bad = result('UBN', 5, 0, status='diverged')
    [found] = decided(numbers, *lines, bad, images=images(0.02))
    low, high = found['over_images']
    assert (high - low) / 2 == pytest.approx(5 / 6 * 0.0392, abs=1e-4)
    assert (low + high) / 2 == pytest.approx(found['difference'])


def test_one_seed_is_no_comparison(numbers):
    text = group_markdown('a', numbers(BN[0], UBN[0]), {})
    assert 'all comparisons are exploratory' in text
    row = table_after(text, 'norm | metric')[1]
    assert row[2:8] == ['+0.120', '–', '–', '–', '–', '1 and 1']
    assert table_after(text, 'box | seeds')[1][2] == '0.100'


def test_runs_that_failed_are_listed_and_in_no_mean(numbers):
    failed = {'status': 'failed', 'error': 'no disk | at\nstep 3'}
    bad = {'status': 'diverged', 'error': 'nan'}
    lines = [*BN, *UBN, result('UBN', 3, 0.9, **failed), result('GN', 0, 0.9, **bad)]
    text = group_markdown('a', numbers(*lines), {})
    assert '- UBN, seed 3, failed, and is in no mean: no disk | at step 3\n' in text
    assert '- GN, seed 0, diverged, and counts as 0: nan\n' in text
    _, _, ubn, gn = table_after(text, 'box | seeds')
    assert ubn[:3] == ['UBN', '3', '0.320 ± 0.100']
    assert gn[:3] == ['GN', '1, 1 diverged', '0.000']
    assert '- GN: seeds none' in text


def test_without_the_baseline_nothing_is_compared(numbers):
    found = numbers(*UBN, *runs_of('GN', 0.1, 0.2, 0.3))
    assert found['baseline'] is None
    text = group_markdown('a', found, {})
    assert 'there is nothing to compare with' in text
    assert '### Against' not in text
    assert numbers(*BN, *UBN, baseline='UBN')['against'].keys() == {'BN'}


def test_boxes_alone_have_no_table_of_masks(numbers):
    lines = [result(n, s, 0.1 * s, masks=False) for n in ('BN', 'UBN') for s in (1, 2)]
    assert '| mask' not in group_markdown('a', numbers(*lines), {})


def test_errors_are_means_over_seeds(numbers):
    images = {
        ('BN', 0): scores([0.1], COSTS),
        ('BN', 1): scores([0.1], {**COSTS, 'Miss': 0.3}),
    }
    errors = numbers(*BN[:2], images=images)['norms']['BN']['errors']
    assert errors.keys() == {'bbox'}
    assert errors['bbox']['Miss']['mean'] == pytest.approx(0.2)
    assert errors['bbox']['Miss']['deviation'] == pytest.approx(0.02**0.5)
    assert numbers(*BN)['norms']['BN']['errors'] == {}


def test_condensation_is_drawn_of_the_first_run_of_each_norm(tmp_path):
    lines = []
    for norm, seed, gates in ('BN', 0, False), ('UBN', 0, True), ('UBN', 1, True):
        name = f'{norm}-{seed}.json'
        record = condensation() | {'has_gate': [gates] * 3}
        (tmp_path / name).write_text(json.dumps(record))
        lines.append(result(norm, seed, 0.1, condensation=name))
    (tmp_path / 'empty.json').write_text(json.dumps(condensation(steps=0)))
    lines.append(result('GN', 0, 0.1, condensation='empty.json'))
    (group,) = read_groups([write_results(tmp_path / 'r.jsonl', lines)])
    axes = [axes for axes in figures.condensation(group).axes if axes.images]
    # A norm without a gate has no panel of gates.
    assert [each.get_title() for each in axes] == [
        'BN, seed 0: mean cosine', 'UBN, seed 0: mean cosine', 'UBN, seed 0: gate open',
    ]  # fmt: skip
    assert {each.images[0].get_clim() for each in axes} == {(0, 1)}
    values = axes[0].images[0].get_array()
    assert values.shape == (3, 5) and values[1, 4] == pytest.approx(0.44)
    nothing = {name: [[None] * 3] * 5 for name in ('condensation', 'gate')}
    for path in tmp_path.glob('*.json'):
        path.write_text(json.dumps(condensation() | nothing))
    assert figures.condensation(group) is None
    for path in tmp_path.glob('*.json'):
        path.unlink()
    assert figures.condensation(group) is None


def test_cells_do_not_break_their_row():
    assert markdown_table(['a', 'b'], [['x|y', 'two\nlines'], ['', 1]]) == (
        '| a | b |\n|---|---:|\n| x\\|y | two lines |\n| | 1 |'
    )


@pytest.mark.parametrize('count', [2, 11])
def test_the_legend_of_the_curves_is_within_the_figure(numbers, tmp_path, count):
    lines = [result(f'a norm, its variant {i}', 0, 0.1) for i in range(count)]
    found = numbers(*lines)
    curves = figures.curves(found, figures.colours({'': found}, 'BN'))
    figures.write_figure(tmp_path / 'curves.png', curves)
    picture = np.asarray(Image.open(tmp_path / 'curves.png').convert('L'))
    assert (picture[:, [0, -1]] == 255).all()
    assert (picture[[0, -1]] == 255).all()
