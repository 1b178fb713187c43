"""Builds the package with comparisons, configs and tools; metadata is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Puts what is below where MMDetection has its own: ``<package>/.mim``."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if self.editable_mode:  # ubn_mmdet.paths finds them in the checkout
            return
        mim = Path(self.build_lib, 'ubn_mmdet', '.mim')
        for name in ('comparisons', 'configs', 'tools'):
            target = mim / name
            # An earlier build may have left files that are gone by now.
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy('model-index.yml', mim)


setup(cmdclass={'build_py': BuildWithConfigs})
