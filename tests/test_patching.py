"""Functions of other modules are wrapped wherever they are known, and put back."""

import functools
import importlib.util
import sys
from types import ModuleType

import pytest

from ubn_mmdet.patching import Patches


def louder(original):
    @functools.wraps(original)
    def wrapped(*args):
        return original(*args) + '!'

    return wrapped


def speak():
    return 'speak'


class Speaker:
    @classmethod
    def of_class(cls):
        return cls.__name__

    @staticmethod
    def of_nobody():
        return 'nobody'

    def of_object(self):
        return 'object'


class Child(Speaker):
    @classmethod
    def of_class(cls):
        return f'child and {super().of_class()}'


PATHS = 'speak', 'Speaker.of_class', 'Speaker.of_nobody', 'Speaker.of_object'


@pytest.fixture
def home(monkeypatch):
    """A loaded module that defines what is above."""
    module = ModuleType('some_home')
    module.speak, module.Speaker = speak, Speaker
    monkeypatch.setitem(sys.modules, 'some_home', module)
    # What a test leaves there is no other test's matter.
    monkeypatch.setattr(Speaker, 'of_object', Speaker.of_object)
    return module


@pytest.fixture
def patches(home):
    """What is above, wrapped."""
    patches = Patches(('some_home', path, louder) for path in PATHS)
    patches.install()
    yield patches
    patches.uninstall()


def test_each_kind_of_function_stays_what_it_is(patches, home):
    assert home.speak() == 'speak!'
    assert [Speaker.of_nobody(), Speaker().of_nobody()] == ['nobody!'] * 2
    assert Speaker().of_object() == 'object!'
    assert Speaker.of_class() == 'Speaker!'


def test_a_class_method_gets_the_class_it_is_called_on(patches):
    assert Child.of_class() == 'child and Child!'


def test_copies_by_name_are_patched_too_and_later_ones_put_back(patches, home):
    # This module's own name is a copy that was there before.
    assert speak is home.speak
    later = ModuleType('some_user')
    later.speak = home.speak
    sys.modules['some_user'] = later
    try:
        patches.uninstall()
    finally:
        del sys.modules['some_user']
    assert later.speak is home.speak is speak and speak() == 'speak'


def test_uninstalling_puts_the_same_objects_back(patches, home):
    patches.uninstall()
    before = dict(vars(Speaker)), dict(vars(home))
    for _ in range(2):
        patches.install()
        patches.install()
        assert home.speak() == 'speak!' and Speaker.of_class() == 'Speaker!'
        patches.uninstall()
        for namespace, want in zip((vars(Speaker), vars(home)), before, strict=True):
            assert namespace.keys() == want.keys()
            assert all(namespace[name] is want[name] for name in want)


def test_what_others_put_there_since_stays(patches, home, monkeypatch):
    theirs = louder(Speaker.of_object)
    monkeypatch.setattr(Speaker, 'of_object', theirs)
    patches.uninstall()
    assert Speaker.of_object is theirs
    assert Speaker.of_class() == 'Speaker'


def test_what_is_not_there_is_passed_over(home):
    paths = 'other', 'Speaker.other', 'Other.of_class'
    absent = [('no_such_home', 'speak'), *(('some_home', path) for path in paths)]
    before = dict(vars(home))
    Patches((*place, louder) for place in absent).install()
    assert dict(vars(home)) == before


def test_a_module_that_loads_on_first_use_stays_asleep(patches, tmp_path, monkeypatch):
    (tmp_path / 'sleeper.py').write_text('raise RuntimeError("woken")')
    spec = importlib.util.spec_from_file_location('sleeper', tmp_path / 'sleeper.py')
    spec.loader = importlib.util.LazyLoader(spec.loader)
    sleeper = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'sleeper', sleeper)
    spec.loader.exec_module(sleeper)
    patches.uninstall()
    patches.install()
    patches.uninstall()
    with pytest.raises(RuntimeError, match='woken'):
        sleeper.anything  # noqa: B018
