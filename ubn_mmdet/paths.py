"""Where comparisons, configs and tools are: in an installed package or in a checkout.

Each raises FileNotFoundError if neither the package nor a checkout around it has them.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """The folder of the configs."""
    return _find('configs')


def comparisons_dir() -> Path:
    """The folder of the comparisons."""
    return _find('comparisons')


def tools_dir() -> Path:
    """The folder of the command lines."""
    return _find('tools')


def _find(name: str) -> Path:
    # A wheel carries them below .mim, as MMDetection does. An editable install has them
    # in the checkout only.
    candidates = PACKAGE / '.mim' / name, PACKAGE.parent / name
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    places = ' nor '.join(map(str, candidates))
    raise FileNotFoundError(f'{name}/ is neither {places}: install ubn_mmdet again')
