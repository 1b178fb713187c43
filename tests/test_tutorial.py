"""The tutorial's cells run, one after the other, and show what they say."""

import json
import re

import pytest
from helpers.commands import ROOT, run

NOTEBOOK = json.loads((ROOT / 'docs/tutorial.ipynb').read_text())
CELLS = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']


def test_it_is_committed_without_outputs():
    assert not any(cell['outputs'] or cell['execution_count'] for cell in CELLS)


@pytest.mark.slow
def test_it_runs(tmp_path):
    code = '\n\n'.join(''.join(cell['source']) for cell in CELLS)
    (tmp_path / 'tutorial.py').write_text(code)
    said = run('-W', 'ignore', 'tutorial.py', cwd=tmp_path, MPLBACKEND='Agg')
    first = re.search(r"'BN': \[([\d.]+), .*'UBN': \[([\d.]+), ", said)
    assert float(first[1]) == pytest.approx(float(first[2]), rel=1e-4)
    gates = re.findall(r"'backbone\.\S+': ([\d.]+)", said)
    assert len(gates) == 20 and all(18 / 30 <= float(gate) <= 1 for gate in gates)
    reports = re.findall(r'^(\d+) norm layers folded.* (\d+) left$', said, re.M)
    assert reports == [('0', '20'), ('20', '0')]
    assert float(re.search(r'largest change: (\S+)', said)[1]) < 1e-4
    assert said.rstrip().endswith('(1, 128, 1, 1)]')
