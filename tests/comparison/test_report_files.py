"""The files of a report: Markdown, json, figures, and the page."""

import json
import re
import sys

import numpy as np
import pytest
from helpers.commands import ROOT, run
from helpers.results import (
    condensation,
    predictions,
    result,
    squares,
    write_results,
)
from PIL import Image

from ubn_mmdet.comparison.image_scores import score
from ubn_mmdet.comparison.predictions import write_predictions
from ubn_mmdet.comparison.report.figures import BASELINE, OTHERS, colours
from ubn_mmdet.comparison.report.write import write_report

pytestmark = pytest.mark.slow

TOOL = ROOT / 'tools/report_norms.py'
PRIMARY = [{'norm': 'UBN', 'baseline': 'BN', 'metric': 'bbox_mAP'}]


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Two norms, two seeds, with all that runs can leave."""
    pytest.importorskip('hotcoco')
    folder = tmp_path_factory.mktemp('results')
    truth = squares(8)
    (folder / 'val.json').write_text(json.dumps(truth))
    lines = []
    for norm, error in {'BN': 0.15, 'UBN': 0.05}.items():
        for seed in (0, 1):
            found = predictions(truth, error, seed)
            name = f'{norm}-{seed}/predictions.json.gz'
            write_predictions(folder / name, found)
            record = f'{norm}-{seed}/condensation.json'
            (folder / record).write_text(json.dumps(condensation()))
            metrics = {k: s['AP'] for k, s in score(truth, found, 1).items()}
            line = result(norm, seed, metrics['bbox'], primary=PRIMARY)
            line |= {'segm_mAP': metrics['segm'], 'predictions': name}
            lines.append(line | {'condensation': record})
    return write_results(folder / 'results.jsonl', lines)


@pytest.fixture(scope='module')
def report(results, tmp_path_factory):
    pytest.importorskip('markdown_it')
    out = tmp_path_factory.mktemp('report')
    annotations = results.parent / 'val.json'
    write_report([results], out, 'BN', annotations, say=lambda _: None)
    return out


FIGURES = {
    *('contrasts', 'differences'),
    *('made-up-curves', 'made-up-errors', 'made-up-condensation'),
}


def test_every_figure_is_there_for_screen_and_print(report):
    names = {path.name for path in (report / 'figures').iterdir()}
    assert names == {f'{name}.{s}' for name in FIGURES for s in ('png', 'pdf')}
    assert (report / 'figures/made-up-curves.pdf').read_bytes().startswith(b'%PDF')


def test_markdown_shows_every_figure(report):
    text = (report / 'report.md').read_text()
    shown = re.findall(r'!\[[^]]+\]\(([^)]+)\)', text)
    assert sorted(shown) == sorted(f'figures/{name}.png' for name in FIGURES)


def test_json_holds_the_numbers(report):
    content = json.loads((report / 'report.json').read_text())['made-up']
    against = content['against']['UBN']
    assert against['bbox_mAP']['over_images'] and against['segm_mAP']['over_images']
    assert 'over_images' not in against['bbox_mAP_50']
    assert content['norms']['UBN']['errors'].keys() == {'bbox', 'segm'}


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def colours_in(path):
    pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    return {tuple(pixel) for pixel in pixels.tolist()}


@pytest.mark.parametrize('name', ['curves', 'errors'])
def test_figures_show_both_norms(report, name):
    found = colours_in(report / f'figures/made-up-{name}.png')
    assert {rgb(BASELINE), rgb(OTHERS[0])} <= found
    assert rgb(OTHERS[1]) not in found


def test_a_norm_has_one_colour_in_all_figures():
    found = colours(
        {'a': {'norms': ['A', 'BN', 'B']}, 'b': {'norms': ['C', 'A']}}, 'BN'
    )
    assert found == {'BN': BASELINE, **dict(zip('ABC', OTHERS, strict=False))}
    assert len({*OTHERS, BASELINE}) == 11


def test_the_page_needs_no_network_and_is_small(report):
    page = (report / 'report.html').read_text()
    assert len(page) < 300_000
    assert '<!DOCTYPE html>' in page
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)=', page)


def test_the_page_has_figures_that_answer_in_place_of_pictures(report):
    page = (report / 'report.html').read_text()
    assert '<img' not in page and page.count('<svg') == 5
    tips = re.findall(r'data-tip="([^"]*)"', page)
    # Three panels of differences; four epochs twice and ten steps; six errors twice.
    assert len(tips) == 3 + 2 * (4 + 4 + 10) + 2 * 2 * 6
    content = json.loads((report / 'report.json').read_text())['made-up']
    mean, deviation = (
        content['norms']['UBN']['curves']['bbox_mAP'][key][3]
        for key in ('mean', 'deviation')
    )
    assert f'UBN, epoch 4: {mean:.3g} ± {deviation:.2g}' in tips
    difference = content['against']['UBN']['segm_mAP']['difference']
    assert any(t.startswith(f'UBN: {difference:+.3f} (') for t in tips)


def test_the_page_says_what_markdown_says(report):
    page = (report / 'report.html').read_text()
    tables = len(re.findall(r'^\|-', (report / 'report.md').read_text(), re.MULTILINE))
    assert page.count('<div class="table"><table>') == tables
    assert '>too few seeds for a verdict</td>' in page


def test_a_name_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / 'c.json').write_text(json.dumps(condensation()))
    line = result('../evil', 0, 0.1, condensation='c.json', comparison='../../x')
    path = write_results(tmp_path / 'r.jsonl', [line])
    before = {p for p in tmp_path.rglob('*') if p.is_file()}
    write_report([path], tmp_path / 'a/b/out', say=lambda _: None)
    new = {p for p in tmp_path.rglob('*') if p.is_file()} - before
    inside = {p for p in new if p.is_relative_to(tmp_path / 'a/b/out')}
    assert new == inside


def test_names_cannot_break_the_page(tmp_path):
    pytest.importorskip('markdown_it')
    evil = '</script><b>'
    lines = [result(n, s, 0.1 * s) for n in ('BN', evil) for s in (1, 2)]
    path = write_results(tmp_path / 'r.jsonl', lines)
    write_report([path], tmp_path / 'out', say=lambda _: None)
    page = (tmp_path / 'out/report.html').read_text()
    assert '<b>' not in page and page.count('</script>') == 1
    assert '&lt;/script&gt;&lt;b&gt;, epoch 1: ' in page


def test_without_markdown_it_all_but_the_page_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'markdown_it', None)
    path = write_results(tmp_path / 'r.jsonl', [result('BN', 0, 0.1)])
    said = []
    write_report([path], tmp_path / 'out', say=said.append)
    assert said[-1] == 'the HTML page needs markdown_it: pip install markdown-it-py'
    names = {p.name for p in (tmp_path / 'out').iterdir()}
    assert names == {'report.md', 'report.json', 'figures'}


def test_the_tool_reports_several_files(tmp_path):
    pytest.importorskip('markdown_it')
    a = write_results(tmp_path / 'a.jsonl', [result('BN', 0, 0.1)])
    b = write_results(tmp_path / 'b.jsonl', [result('BN', 0, 0.1, comparison='other')])
    printed = run(TOOL, a, b, '--out', 'out', cwd=tmp_path)
    assert 'report.html' in printed
    text = (tmp_path / 'out/report.md').read_text()
    assert re.findall('^## (.*)', text, re.MULTILINE) == ['made-up', 'other']


def test_the_tool_says_what_is_wrong(tmp_path):
    printed = run(TOOL, 'none.jsonl', '--out', 'out', cwd=tmp_path, ok=False)
    assert printed.startswith('report_norms: ') and 'Traceback' not in printed


def test_pre_training_is_reported_by_its_accuracy(tmp_path):
    pytest.importorskip('markdown_it')
    lines = []
    for norm, seed, top1 in ('BN', 0, 20.0), ('BN', 1, 21.0), ('UBN', 0, 23.0):
        line = {k: v for k, v in result(norm, seed, 0.1).items() if 'mAP' not in k}
        line |= {'accuracy_top1': top1, 'accuracy_top5': 2 * top1}
        line['curves'] = {'epoch': [1, 2], 'accuracy_top1': [9.0, top1]}
        lines.append(line)
    out = tmp_path / 'report'
    write_report(
        [write_results(tmp_path / 'r.jsonl', lines)], out, 'BN', say=lambda _: None
    )
    text = (out / 'report.md').read_text()
    assert '| BN | 2 | 20.500 ± 0.707 | 41.000 ± 1.414 |' in text
    assert '| UBN | top-1, % | +2.500 |' in text
    assert {p.stem for p in (out / 'figures').iterdir()} == {
        'made-up-curves', 'differences'
    }  # fmt: skip
