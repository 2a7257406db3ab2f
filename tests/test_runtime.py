import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpe_jax import runtime

SCRIPT = """
import resource, sys, threading
from unittest import mock
from hpe_jax import runtime

if sys.argv[1] == 'kept':
    with mock.patch('importlib.metadata.entry_points', return_value=[]), mock.patch('importlib.util.find_spec'):
        runtime.util.find_spec.return_value = None
        assert runtime.keep_freed()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * (1 << 25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

for _ in range(3):
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
"""


def faults(how: str) -> list[int]:
    """Page faults of three times 32 MiB, each freed before the next, in threads as JAX computes in."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, how], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return list(map(int, done.stdout.split()))


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc only')
def test_kept_memory_is_not_fetched_from_the_kernel_again():
    first, *later = faults('kept')
    assert first > 1000 and max(later) < 100
    assert min(faults('as it comes')) > 1000


def test_hosts_of_accelerators_are_left_alone(monkeypatch):
    monkeypatch.setattr(runtime.metadata, 'entry_points', lambda group: ['xla_cuda13'])
    monkeypatch.setattr(runtime.ctypes, 'CDLL', lambda name: pytest.fail('touched the C library'))
    assert not runtime.keep_freed()


def test_the_first_signal_is_noted_and_the_second_one_as_usual():
    usual = signal.getsignal(signal.SIGINT)
    with runtime.StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with runtime.StopSignals(noted=False) as signals, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signals.received is None and signal.getsignal(signal.SIGINT) is usual


def test_progress_is_a_line_every_ten_seconds_where_no_terminal_watches(monkeypatch, capsys):
    now = iter(range(0, 100, 4))
    monkeypatch.setattr(runtime.time, 'monotonic', lambda: next(now))
    assert list(runtime.progress('abcdef', 6, 'photo', 'Checking')) == list('abcdef')
    lines = ['Checking: 3 of 6, 12 s left, 0.2 photos a second', 'Checking: 6 of 6, 0 s left, 0.2 photos a second']
    assert capsys.readouterr().out.splitlines() == lines


def test_what_was_done_earlier_counts_but_not_for_the_rate(monkeypatch, capsys):
    now = iter(range(0, 100, 4))
    monkeypatch.setattr(runtime.time, 'monotonic', lambda: next(now))
    with runtime.Progress(10, 'hand', 'Rendering', initial=4) as shown:
        for _ in range(3):
            shown.update()
    assert capsys.readouterr().out == 'Rendering: 7 of 10, 12 s left, 0.2 hands a second\n'
