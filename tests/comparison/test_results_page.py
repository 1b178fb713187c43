"""docs/results.md from the files in docs/results/."""

import re
import runpy

import pytest
from helpers.commands import ROOT
from helpers.results import result, write_results

SCRIPT = runpy.run_path(str(ROOT / 'docs/make_results_page.py'))
write_results_page = SCRIPT['write_results_page']


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / 'docs/results'
    lines = [
        result(norm, seed, ap + 0.1 * seed)
        for norm, ap in {'BN': 0.1, 'UBN': 0.2}.items()
        for seed in (0, 1, 2)
    ]
    primary = [{'norm': 'UBN', 'baseline': 'BN', 'metric': 'bbox_mAP'}]
    lines.append(result('GN', 0, 0.1, status='diverged'))
    lines.append(result('GN', 1, 0.1, status='failed'))
    lines = [{**line, 'primary': primary} for line in lines]
    write_results(folder / 'one.jsonl', lines)
    other = [result('BN', 0, 0.1, comparison='other', commit='1234')]
    write_results(folder / 'two.jsonl', other)
    return tmp_path / 'docs'


def page_of(docs):
    write_results_page(docs, say=lambda _: None)
    return (docs / 'results.md').read_text()


def test_what_was_decided_has_its_tables(docs):
    text = page_of(docs)
    assert re.findall('^## (.*)', text, re.MULTILINE) == [
        *('What was to be decided', 'made-up', 'other'),
    ]
    row = '| made-up: UBN against BN | box AP | too few seeds for a verdict | +0.100 |'
    assert row in text and '| UBN | 3 | 0.300 ± 0.100 |' in text
    assert '- GN, seed 0, diverged, and counts as 0' in text
    assert len(text.splitlines()) < 100


def test_pictures_are_those_that_the_page_shows(docs):
    shown = re.findall(r'!\[[^]]+\]\(results/([^)]+)\)', page_of(docs))
    assert shown == ['contrasts.png', 'made-up-curves.png']
    assert {path.name for path in docs.glob('results/*.png')} == set(shown)


def test_nothing_is_decided_before_all_planned_runs_have_ended(docs):
    primary = [{'norm': 'UBN', 'baseline': 'BN', 'metric': 'bbox_mAP'}]
    lines = [
        result(norm, seed, 0.3, comparison='bccd', primary=primary)
        for norm in ('BN', 'UBN')
        for seed in range(10, 17)
    ]
    lines[0]['planned'] = {norm: list(range(10, 20)) for norm in ('BN', 'UBN')}
    write_results(docs / 'results/bccd.jsonl', lines)
    assert '| bccd: UBN against BN | box AP | runs missing: 6 |' in page_of(docs)


def test_the_same_files_make_the_same_page(docs):
    assert page_of(docs) == page_of(docs)


def test_conclusions_come_first(docs):
    (docs / 'results/summary.md').write_text('One is better.\n')
    (docs / 'results/notes.md').write_text('Rates were tuned.\n')
    text = page_of(docs)
    assert text.index('One is better.') < text.index('![')
    assert text.endswith('\n\nRates were tuned.\n')


def test_before_the_first_result_there_are_conclusions_alone(tmp_path):
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results/summary.md').write_text('Nothing yet.\n')
    write_results_page(tmp_path)
    assert (tmp_path / 'results.md').read_text().endswith('\nNothing yet.\n')
    assert not list(tmp_path.glob('results/*.png'))
