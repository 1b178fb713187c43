"""What something was measured on."""

import platform

import torch


def describe_machine(device: torch.device) -> dict[str, str]:
    """The processor by its name, and the versions that decide about times."""
    if device.type == 'cuda':
        processor = torch.cuda.get_device_name(device)
    else:
        with open('/proc/cpuinfo') as lines:
            names = [
                line.split(':')[1].strip() for line in lines if 'model name' in line
            ]
        threads = torch.get_num_threads()
        processor = names[0] if names else platform.machine()
        processor += f', {threads} thread{"s" * (threads > 1)}'
    return {
        'device': processor,
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'torch': torch.__version__,
    }
