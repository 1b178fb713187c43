"""Which runs stand in one table."""

import pytest
from helpers.results import result, write_results

from ubn_mmdet.comparison.results import (
    ResultsError,
    read_groups,
    slugs,
    titles,
)


@pytest.fixture
def read(tmp_path):
    return lambda *lines: read_groups(
        [write_results(tmp_path / 'r.jsonl', list(lines))]
    )


def test_norms_and_seeds_of_one_comparison_are_one_group(read):
    (group,) = read(result('BN', 1, 0.1), result('UBN', 0, 0.2), result('BN', 0, 0.3))
    assert group.norms == ('BN', 'UBN')
    assert list(group.of('BN')) == [0, 1]
    assert group.of('BN')[0].number('bbox_mAP') == 0.3


@pytest.mark.parametrize(
    'changes',
    [
        {'comparison': 'other'},
        {'detector': 'other'},
        {'epochs': 5},
        {'image_size': [160, 320]},
        {'batch_size': 2},
        {'commit': 'bad'},
        {'processes': 2},
        {'setting_hash': 'other'},
        {'device': 'other'},
        {'versions': {'torch': '2.14.0'}},
    ],
)
def test_other_settings_or_code_are_another_group(read, changes):
    one, other = read(result('BN', 0, 0.1), result('UBN', 0, 0.2, **changes))
    assert one.norms == ('BN',)
    assert other.norms == ('UBN',)
    first, second = titles([one, other])
    assert first != second
    [value] = changes.values()
    shown = value if isinstance(value, dict) else [str(value)[:5]]
    assert all(part in second for part in shown)


def test_a_folder_may_be_renamed(read):
    assert len(read(result('BN', 0, 0.1), result('UBN', 0, 0.2, data='renamed'))) == 1


def test_titles_tell_installed_packages_apart(read):
    versions = 'v0.2.0.dev0-2d35e756', 'v0.2.0.dev0-9f0a11c2'
    groups = read(*(result('BN', 0, 0.1, commit=each) for each in versions))
    assert titles(groups) == ['made-up, commit 2d35e756', 'made-up, commit 9f0a11c2']


def test_a_title_says_no_more_than_it_has_to(read):
    assert titles(read(result('BN', 0, 0.1))) == ['made-up']
    assert titles(read(result('BN', 0, 0.1), result('BN', 0, 0.1, batch_size=2))) == [
        'made-up, batch size 8',
        'made-up, batch size 2',
    ]


def test_several_files_are_read_as_one(tmp_path):
    a = write_results(tmp_path / 'a.jsonl', [result('BN', 0, 0.1)])
    b = write_results(tmp_path / 'b/b.jsonl', [result('BN', 1, 0.1)])
    (group,) = read_groups([a, b])
    assert [run.folder for run in group.runs] == [tmp_path, tmp_path / 'b']


def test_the_last_finished_run_counts(read):
    (group,) = read(
        result('BN', 0, 0.1, status='failed', config_hash='a'),
        result('BN', 0, 0.2, config_hash='b'),
        result('BN', 0, 0.3, config_hash='c'),
        result('BN', 0, 0.4, status='failed', config_hash='d'),
    )
    assert [run.number('bbox_mAP') for run in group.runs] == [0.3]
    assert group.broken == ()


def test_what_never_finished_is_broken(read):
    (group,) = read(
        result('BN', 0, 0.1, status='failed', error='first'),
        result('BN', 0, 0.1, status='diverged', error='second'),
    )
    assert group.runs == ()
    assert [run.record['error'] for run in group.broken] == ['second']
    assert group.norms == ('BN',)


def test_what_coco_does_not_know_is_none(read):
    values = {'bbox_mAP_l': -1, 'bbox_mAP_m': float('nan'), 'bbox_mAP_s': None}
    (group,) = read(result('BN', 0, 0.1, **values))
    (run,) = group.runs
    assert [run.number(key) for key in (*values, 'absent')] == [None] * 4


def test_files_are_found_beside_the_results(tmp_path):
    line = result('BN', 0, 0.1, predictions='run/p.json.gz', checkpoint='gone.pth')
    ((run,),) = [g.runs for g in read_groups([write_results(tmp_path / 'r', [line])])]
    assert run.file('predictions') is None
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/p.json.gz').touch()
    assert run.file('predictions') == tmp_path / 'run/p.json.gz'
    assert run.file('checkpoint') is None


def test_a_work_folder_may_lie_elsewhere(tmp_path):
    path = write_results(tmp_path / 'r', [result('BN', 0, 0.1, predictions='p.json')])
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/p.json').touch()
    ((run,),) = [group.runs for group in read_groups([path])]
    assert run.file('predictions') is None
    ((run,),) = [group.runs for group in read_groups([path], tmp_path / 'work')]
    assert run.file('predictions') == tmp_path / 'work/p.json'


def test_a_norm_has_one_meaning(read):
    tried = {'options': {'model.backbone.norm_cfg.sync': False}}
    with pytest.raises(
        ResultsError, match='UBN has different settings in runs of made-up: .*sync'
    ):
        read(result('UBN', 0, 0.1), result('UBN', 1, 0.1, **tried))


def test_what_changes_no_number_does_not_matter(read):
    quiet = {'options': {'default_hooks.logger.interval': 10}, 'norm_hash': 'n'}
    (group,) = read(
        result('UBN', 0, 0.1, norm_hash='n'), result('UBN', 1, 0.1, **quiet)
    )
    assert len(group.runs) == 2


def test_settings_of_runs_that_failed_may_have_been_wrong(read):
    wrong = {'options': {'model.backbone.norm_cfg.snyc': False}, 'norm_hash': 'wrong'}
    (group,) = read(
        result('UBN', 0, 0.1, status='failed', **wrong),
        result('UBN', 0, 0.1, norm_hash='right', config_hash='right'),
    )
    assert len(group.runs) == 1 and not group.broken


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ResultsError, match='there is no results file .*none.jsonl'):
        read_groups([tmp_path / 'none.jsonl'])


def test_slugs_are_fit_for_file_names_and_differ():
    texts = ['nuclei, batch size 2', 'a/b (c)', '../../x', 'a-b-c', '细胞', '血液']
    found = ['nuclei-batch-size-2', 'a-b-c', 'x', 'a-b-c-4', '5', '6']
    assert slugs(texts) == dict(zip(texts, found, strict=True))


def test_a_run_that_failed_belongs_to_those_that_were_made_like_it(read):
    failed = result('BN', 0, 0.1, status='failed')
    del failed['device'], failed['versions']
    (group,) = read(failed, result('BN', 1, 0.1))
    assert [run.seed for run in group.broken] == [0] and len(group.runs) == 1
