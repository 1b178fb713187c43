"""The set-up asks each index for what it has, and says how long compiling takes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT

pytestmark = pytest.mark.skipif(
    not (shutil.which('c++') and shutil.which('flock')), reason='needs c++ and flock'
)

# Stands between the wrapper and the compiler, and notes what it is asked for.
NOTING = '#!/bin/sh\necho "$*" >>{notes}\n{more}\nexec c++ "$@"\n'
REFUSES_HEADERS = 'case "$*" in *c++-header*) exit 1;; esac'
REFUSES_TO_READ_THEM = 'case "$*" in *-include*) exit 1;; esac'


class Build:
    """A source tree with headers of its own in the place of PyTorch's."""

    def __init__(self, folder: Path, more: str = ''):
        self.folder, self.notes = folder, folder / 'notes.txt'
        self.header = folder / 'include/torch/types.h'
        self.header.parent.mkdir(parents=True)
        self.header.write_text(
            '#ifndef TYPES\n#define TYPES\ninline int one() { return 1; }\n#endif\n'
        )
        for name in ('a', 'b', 'c'):
            source = f'#include <torch/types.h>\nint {name}() {{ return one(); }}\n'
            (folder / f'{name}.cpp').write_text(source)
        compiler = folder / 'compiler'
        compiler.write_text(NOTING.format(notes=self.notes, more=more))
        compiler.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen:
        environment = {
            'REAL_CXX': './compiler -Wall',
            'PCH_DIR': str(self.folder / 'pch'),
            'LC_ALL': 'C',
        }
        return subprocess.Popen(
            [ROOT / '.ci/pch-g++', *arguments],
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def compile(self, name: str, *options: str) -> subprocess.Popen:
        objects = '-MMD', '-MF', f'{name}.d', '-c', f'{name}.cpp', '-o', f'{name}.o'
        return self.start('-Iinclude', *options, *objects)

    def headers(self) -> int:
        """How many times a header has been precompiled."""
        return self.notes.read_text().count('c++-header')


def output(process: subprocess.Popen, ok: bool = True) -> str:
    said, _ = process.communicate(timeout=60)
    assert (process.returncode == 0) == ok, said
    return said


def test_headers_are_parsed_once_for_each_set_of_options(tmp_path):
    build = Build(tmp_path)
    together = [build.compile(name) for name in ('a', 'b')]
    assert [output(process) for process in together] == ['', '']
    assert build.headers() == 1
    text = build.header.read_text()
    build.header.write_text(text.replace('#define TYPES', '#error parsed again'))
    assert output(build.compile('c')) == ''
    build.header.write_text(text)
    assert output(build.compile('c', '-O2')) == ''
    assert build.headers() == 2
    assert all((tmp_path / f'{name}.o').exists() for name in ('a', 'b', 'c'))


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (REFUSES_HEADERS, "PyTorch's headers cannot be precompiled"),
        (REFUSES_TO_READ_THEM, 'a.cpp does not compile with precompiled headers'),
    ],
)
def test_otherwise_the_ordinary_build_goes_on_and_says_so_once(tmp_path, more, message):
    build = Build(tmp_path, more)
    said = output(build.compile('a'))
    assert said.startswith(f'set-up: {message}; ') and len(said.splitlines()) == 1
    assert output(build.compile('b')) == ''
    assert build.headers() == 1
    assert (tmp_path / 'a.o').exists() and (tmp_path / 'b.o').exists()


def test_an_error_in_a_file_remains_one(tmp_path):
    build = Build(tmp_path)
    (tmp_path / 'a.cpp').write_text('int a() { return two(); }\n')
    assert "'two' was not declared" in output(build.compile('a'), ok=False)


def test_links_and_questions_go_to_the_compiler_as_they_are(tmp_path):
    build = Build(tmp_path)
    output(build.compile('a'))
    output(build.start('-shared', 'a.o', '-o', 'a.so'))
    assert 'Copyright' in output(build.start('--version'))
    # nvcc has its host's files compiled this way.
    output(build.start('-x', 'c++', '-Iinclude', '-c', 'b.cpp', '-o', 'b.o'))
    assert build.headers() == 1
    assert '-include' not in build.notes.read_text().splitlines()[-1]


def test_after_three_files_the_time_left_is_known(tmp_path):
    script = (ROOT / '.ci/setup.sh').read_text()
    progress = script[script.index('progress() {') :]
    progress = progress[: progress.index('\n}\n') + 3]
    lines = 'downloads', '[1/78] c++', '[3/78] c++', '[4/78] c++', '  set-up: slow', ''
    (tmp_path / 'said.txt').write_text('\n'.join(lines))
    # In place of waiting: 20 s pass, the log has a line more, until there is none.
    # Once unset, SECONDS is a variable like any other.
    code = f"""
set -euo pipefail
unset SECONDS
SECONDS=0
sleep() {{ SECONDS=$((SECONDS + 20)); read -r line <&3 && echo "$line" >>log; }}
{progress}
progress log 3<said.txt
"""
    done = subprocess.run(
        ['bash', '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        '    0 min 20 s',
        '    0 min 40 s, 1 of 78 files compiled',
        '    1 min 00 s, 3 of 78 files compiled',
        # Three after the first in 40 s: 74 of them in 987 s.
        '    1 min 20 s, 4 of 78 files compiled, about 17 min left',
        '    1 min 40 s, 4 of 78 files compiled, about 25 min left',
        'set-up: slow',
    ]


@pytest.fixture
def set_up(tmp_path):
    """Run the set-up with programs that only write down what they are asked."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    calls = tmp_path / 'calls.txt'
    missing = tmp_path / 'missing.txt'  # what pip does not find
    for name in ('python', 'pip'):
        code = f'#!/bin/sh\necho "$*" >>{calls}\n'
        code += f'! echo "$*" | grep -qsf {missing}\n'
        (programs / name).write_text(code)
        (programs / name).chmod(0o755)

    def run(index, without='nothing'):
        missing.write_text(without)
        calls.write_text('')
        done = _set_up(tmp_path, index)
        return done, calls.read_text().splitlines()

    return run


def _set_up(tmp_path, index):
    return subprocess.run(
        [ROOT / '.ci/setup.sh'],
        env=os.environ
        | {
            'VENV': str(tmp_path),
            'PYTHON': sys.executable,
            'TORCH': f'torch==2.13.0 --index-url {index}',
            'TOOLBOX': 'onedl',
        },
        capture_output=True,
        text=True,
    )


def test_a_pytorch_without_torchvision_will_do(set_up):
    done, calls = set_up('https://example.org/cu999', without='torchvision==')
    assert done.returncode == 0, done.stderr
    assert 'goes on without torchvision, which only pre-training needs' in done.stdout
    assert any('mmcv' in call for call in calls)
    done, _ = set_up('https://example.org/cu998', without='mmcv==')
    assert done.returncode == 1 and 'set-up: failed' in done.stderr


def test_an_index_of_pytorch_alone_is_asked_for_nothing_else(set_up):
    index = 'https://example.org/cu999'
    done, calls = set_up(index)
    assert done.returncode == 0, done.stderr
    installs = [line.split(' install ')[1] for line in calls if ' install ' in line]
    requirements = [
        [word for word in install.split() if '==' in word]
        for install in installs
        if f'--index-url {index}' in install
    ]
    assert [[word.split('==')[0] for word in words] for words in requirements] == [
        ['torch'],
        ['torchvision'],
    ]
    # Numpy and the like come before PyTorch, whose index has other versions, if any.
    assert 'numpy==' in installs[0] and 'torch' not in installs[0]
