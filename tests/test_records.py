"""Folders and files are resumed by the settings that made them, and by no others."""

import json
import os

import pytest

from ubn_mmdet import files
from ubn_mmdet.records import RecordError, check_record, claim_folder, differences

RECORD = {'seed': 0, 'model': {'norms': ['BN', 'UBN'], 'scale': (1, 2)}, 'rate': 0.5}


def claim(folder, **changed):
    claim_folder(folder, 'record.json', RECORD | changed, 'drawings')


@pytest.mark.parametrize('exists', [False, True])
def test_a_new_folder_is_claimed_and_claimed_again(tmp_path, exists):
    folder = tmp_path / 'a/b'
    if exists:
        folder.mkdir(parents=True)
    claim(folder)
    (folder / 'drawing.png').touch()
    written = (folder / 'record.json').read_bytes()
    claim(folder)
    assert (folder / 'record.json').read_bytes() == written
    assert json.loads(written)['model'] == {'norms': ['BN', 'UBN'], 'scale': [1, 2]}


def test_other_settings_are_refused_by_name(tmp_path):
    claim(tmp_path)
    written = (tmp_path / 'record.json').read_bytes()
    with pytest.raises(
        RecordError, match='drawings with seed 0 instead of 1, rate 0.5 instead of 2;'
    ):
        claim(tmp_path, seed=1, rate=2)
    with pytest.raises(RecordError, match=r"with model.norms.1 'UBN' instead of 'GN';"):
        claim(tmp_path, model=RECORD['model'] | {'norms': ['BN', 'GN']})
    assert (tmp_path / 'record.json').read_bytes() == written


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    for i in range(6):
        (tmp_path / f'{i}.tex').touch()
    with pytest.raises(
        RecordError, match=r'else than drawings \(0.tex, .*4.tex, ...\);'
    ):
        claim(tmp_path)
    assert len(os.listdir(tmp_path)) == 6
    with pytest.raises(RecordError, match='0.tex is a file'):
        claim(tmp_path / '0.tex')


@pytest.mark.parametrize('content', [b'', b'\xff', b'[1]', b'{"seed"'])
def test_a_broken_record_is_refused(tmp_path, content):
    (tmp_path / 'record.json').write_bytes(content)
    with pytest.raises(RecordError, match='no readable record of drawings'):
        claim(tmp_path)


def test_an_interrupted_claim_is_taken_up(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files.os, 'replace', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            claim(tmp_path)
    assert os.listdir(tmp_path) == ['record.json.tmp']
    claim(tmp_path)
    assert os.listdir(tmp_path) == ['record.json']


def test_differences_are_named_where_they_are():
    assert list(
        differences({'a': {'b': [1, {'c': 2}]}}, {'a': {'b': [1, {'c': 3}]}})
    ) == ['a.b.1.c 2 instead of 3']
    assert list(differences({'a': 1, 'x': 0}, {'b': 2, 'x': 0})) == [
        'a 1 instead of absent',
        'b absent instead of 2',
    ]
    assert list(differences({'a': [1, 2]}, {'a': [1]})) == ['a.1 2 instead of absent']
    assert list(differences({'a': {}}, {'a': {'b': None}})) == [
        'a {} instead of absent',
        'a.b absent instead of None',
    ]
    assert list(differences({'a': []}, {'a': {}})) == ['a [] instead of {}']
    assert list(differences({'a': 'x' * 99}, {'a': 1})) == [
        f"a '{'x' * 56}... instead of 1"
    ]
    assert list(differences({'a': 1}, {'a': True})) == ['a 1 instead of True']
    assert not list(differences({'a': float('nan')}, {'a': float('nan')}))


def test_many_differences_are_counted(tmp_path):
    found, wanted = ({str(i): i + add for i in range(7)} for add in (0, 1))
    with pytest.raises(RecordError, match='4 4 instead of 5 and 2 more differences'):
        check_record(tmp_path, found, wanted, 'numbers')
    check_record(tmp_path, found, found, 'numbers')


def test_what_json_does_not_know_is_compared_as_text(tmp_path):
    for _ in range(2):
        claim(tmp_path, path=tmp_path)
    with pytest.raises(RecordError, match='with path'):
        claim(tmp_path, path=tmp_path / 'other')


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    calls = []
    for name in ('fsync', 'replace'):
        original = getattr(os, name)

        def noted(*arguments, name=name, original=original):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(os, name, noted)
    files.write_whole(tmp_path / 'file', b'content')
    assert calls == ['fsync', 'replace', 'fsync']
