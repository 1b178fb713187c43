"""Results are kept line by line and never mix."""

import pytest

from ubn_mmdet.comparison import results

LINE = {
    'comparison': 'some',
    'norm': 'BN',
    'seed': 0,
    'commit': 'c1',
    'config_hash': 'h0',
    'setting_hash': 's',
    'norm_hash': 'n',
    'status': 'finished',
    'planned': {'BN': [0]},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'deep/results.jsonl'


def test_lines_come_back_in_order(path):
    assert results.read(path) == []
    other = LINE | {'norm': 'UBN', 'config_hash': 'h1'}
    results.append(path, LINE)
    results.append(path, other)
    assert results.read(path) == [LINE, other]


@pytest.mark.parametrize(
    ('change', 'what'),
    [
        ({'commit': 'c2'}, 'other code'),
        ({'setting_hash': 't'}, 'other settings'),
        ({'norm_hash': 'n2'}, 'other settings, weights or code of BN'),
    ],
)
def test_other_code_and_settings_are_refused(path, change, what):
    results.append(path, LINE)
    with pytest.raises(results.ResultsError, match=what):
        results.append(path, LINE | change)
    assert results.read(path) == [LINE]
    elsewhere = LINE | change | {'comparison': 'another', 'config_hash': 'h9'}
    results.append(path, elsewhere)
    assert results.read(path) == [LINE, elsewhere]


def test_norms_and_comparisons_may_have_equal_configs(path):
    lines = [LINE, LINE | {'norm': 'BN-again'}, LINE | {'comparison': 'another'}]
    for line in lines:
        results.append(path, line)
    assert results.read(path) == lines


def test_a_norm_that_failed_may_be_corrected(path):
    wrong = LINE | {'status': 'failed', 'norm_hash': 'wrong', 'config_hash': 'wrong'}
    for line in (wrong, LINE):
        results.append(path, line)
    assert results.read(path) == [wrong, LINE]


def test_norms_have_settings_of_their_own(path):
    lines = [LINE, LINE | {'norm': 'UBN', 'norm_hash': 'n2', 'config_hash': 'h1'}]
    for line in lines:
        results.append(path, line)
    assert results.read(path) == lines


def test_runs_of_another_device_are_told_of():
    made = {'device': 'A100', 'versions': {'torch': '2.13'}}
    failed = LINE | {'status': 'failed'}
    assert results.made_elsewhere([LINE | made, failed, LINE | made]) == ''
    told = results.made_elsewhere([LINE | made, LINE | made | {'device': 'V100'}])
    assert '(A100, torch 2.13; V100, torch 2.13)' in told


def test_of_two_attempts_the_last_counts(path):
    results.append(path, LINE | {'status': 'failed'})
    results.append(path, LINE)
    assert results.read(path) == [LINE]


def test_a_line_that_does_not_say_what_was_planned_is_refused(path):
    results.append(path, {k: v for k, v in LINE.items() if k != 'planned'})
    with pytest.raises(results.ResultsError, match="line 1 has no 'planned'"):
        results.read(path)


def test_half_a_line_at_the_end_is_none(path):
    results.append(path, LINE)
    with open(path, 'a') as file:
        file.write('{"comparison": "so')
    assert results.read(path) == [LINE]
    other = LINE | {'config_hash': 'h1'}
    results.append(path, other)
    assert results.read(path) == [LINE, other]


def test_a_last_line_may_lack_its_end_and_lines_may_be_blank(path):
    results.append(path, LINE)
    path.write_text('\n' + path.read_text().rstrip('\n'))
    assert results.read(path) == [LINE]
    other = LINE | {'config_hash': 'h1'}
    results.append(path, other)
    assert results.read(path) == [LINE, other]


@pytest.mark.parametrize(
    ('text', 'message'),
    [('no json\n', 'line 1 is not json'), ('{"norm": "BN"}\n', "no 'comparison'")],
)
def test_damage_is_named(path, text, message):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(results.ResultsError, match=message):
        results.read(path)
