"""What something was measured on."""

import platform

import torch

from ..ops.dispatch import implementation_for


def describe_machine(device: torch.device) -> dict[str, str]:
    """What the times were taken on."""
    if device.type == 'cuda':
        processor = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        processor = f'{_processor_name()}, {threads} thread{"s" * (threads > 1)}'
    return {
        'device': processor,
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'torch': torch.__version__,
    }


def describe_passes(device: torch.device) -> str:
    """Which passes over the input run there for float32, for kernels of 1 and of 3."""
    x = torch.ones(1, 1, 2, 2, device=device)
    return ', '.join(dict.fromkeys(implementation_for(x, k) for k in (1, 3)))


def _processor_name() -> str:
    with open('/proc/cpuinfo') as lines:
        names = (line.split(':')[1].strip() for line in lines if 'model name' in line)
        return next(names, platform.machine())
