"""Memory that glibc keeps: only in the commands and worker processes, never by an import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fcam_zoo import _malloc
from fcam_zoo.cli import RUN_NETWORKS, main

glibc = pytest.mark.skipif(not _malloc._uses_glibc(), reason='glibc')

# Page faults of a block of 64 MB that is allocated and freed 5 times, in the main thread or in another one.
COUNT = """
import resource, threading
import numpy as np

def repeat():
    for _ in range(5):
        np.ones(64 * 2**20, np.uint8)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=repeat)
    thread.start(); thread.join()
    repeat()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


def page_faults(code: str, **variables: str) -> int:
    """Run code in a new process, without settings of malloc, and count the page faults of large blocks after it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_') and k != 'GLIBC_TUNABLES'}
    # NumPy asks for huge pages, whose number depends on the machine.
    environment |= {'NUMPY_MADVISE_HUGEPAGE': '0', 'OMP_NUM_THREADS': '1', **variables}
    command = [sys.executable, '-c', f'{COUNT}\n{code}\nprint(faults())']
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


KEEP = 'from fcam_zoo._malloc import keep_freed_memory; keep_freed_memory()'
# It fails for lack of images, after the settings.
PREDICT = "from fcam_zoo.cli import main; main(['predict', 'missing.jpg', '-o', 'missing'])"
LIST = "from fcam_zoo.cli import main; main(['list'])"
"""Ten blocks of 64 MB have 160,000 pages of 4 KiB; one block has 16,000."""


@glibc
@pytest.mark.parametrize('code', ['import fcam_zoo, fcam_zoo.cli, fcam_zoo.labelling, fcam_zoo.benchmark', LIST])
def test_imports_and_other_commands_change_nothing(code):
    assert page_faults(code) > 5 * page_faults(KEEP)


@glibc
def test_a_command_with_a_network_keeps_memory(tmp_path):
    assert page_faults(PREDICT) < page_faults('') / 5


@glibc
@pytest.mark.parametrize(
    'variables', [{'MALLOC_TRIM_THRESHOLD_': '131072'}, {'GLIBC_TUNABLES': 'glibc.malloc.trim_threshold=131072'}]
)
def test_settings_of_the_user_are_respected(variables):
    assert page_faults(KEEP, **variables) > 5 * page_faults(KEEP)


def test_settings_of_the_user_stop_the_call(monkeypatch):
    for name in [name for name in os.environ if name.startswith('MALLOC_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.pthread.rseq=1')
    assert not _malloc._user_has_settings()
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.pthread.rseq=1:glibc.malloc.arena_max=2')
    assert _malloc._user_has_settings()


@pytest.mark.parametrize('error', [ValueError('unrecognized configuration name'), OSError(22, 'Invalid argument')])
def test_other_c_libraries_are_left_alone(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(os, 'confstr', fail)
    assert _malloc.keep_freed_memory() is False
    monkeypatch.delattr(os, 'confstr')  # Windows.
    assert _malloc.keep_freed_memory() is False


class Mallopt:
    """Stands for the C library: keeps the calls, and accepts blocks of up to `largest` bytes."""

    def __init__(self, largest: int) -> None:
        self.largest, self.calls = largest, {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls[parameter] = value
        return int(parameter != _malloc._MMAP_THRESHOLD or value <= self.largest)


@pytest.mark.parametrize(('largest', 'maps_no_block'), [(2**25, True), (2**31, False)])
def test_old_versions_map_no_block_at_all(monkeypatch, largest, maps_no_block):
    library = Mallopt(largest)
    monkeypatch.setattr(_malloc, '_uses_glibc', lambda: True)
    monkeypatch.setattr(_malloc, '_user_has_settings', lambda: False)
    monkeypatch.setattr(_malloc.ctypes, 'CDLL', lambda name: library)
    assert _malloc.keep_freed_memory() is True
    assert (library.calls.get(_malloc._MMAP_MAX) == 0) is maps_no_block
    assert library.calls[_malloc._TRIM_THRESHOLD] == -1


def test_a_python_without_dynamic_loading(monkeypatch):
    monkeypatch.setattr(_malloc, '_uses_glibc', lambda: True)
    monkeypatch.setattr(_malloc, '_user_has_settings', lambda: False)
    monkeypatch.setattr(_malloc.ctypes, 'CDLL', lambda name: object())
    assert _malloc.keep_freed_memory() is False


@pytest.mark.parametrize('command', sorted(RUN_NETWORKS))
def test_commands_that_run_networks(monkeypatch, command):
    called = []
    monkeypatch.setattr('fcam_zoo.cli.keep_freed_memory', lambda: called.append(command))
    with pytest.raises(SystemExit):
        main([command, '--help'])
    assert called == []  # Help runs no network.
    main([command, *ARGUMENTS[command]])
    assert called == [command]


# Each fails at once.
ARGUMENTS = {
    'benchmark': ['missing'],
    'demo': ['missing.jpg'],
    'figures': ['curves', 'missing', '-o', 'missing'],
    'predict': ['missing.jpg', '-o', 'missing', '--min-area', '2'],
    'train': ['missing', '-o', 'missing'],
}


# Prints what OpenMP has read when torch is loaded.
SHOW = "from fcam_zoo.cli import main; main(['benchmark', 'missing']); import torch"


@pytest.mark.skipif(sys.platform != 'linux', reason='OpenMP of GCC')
@pytest.mark.parametrize(('chosen', 'policy'), [({}, 'PASSIVE'), ({'OMP_WAIT_POLICY': 'ACTIVE'}, 'ACTIVE')])
def test_threads_of_benchmark_sleep_while_they_wait(tmp_path, chosen, policy):
    own = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    environment = {**own, 'OMP_DISPLAY_ENV': 'TRUE', **chosen}
    done = subprocess.run([sys.executable, '-c', SHOW], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
