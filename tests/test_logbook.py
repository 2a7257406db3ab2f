import json
import platform
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from hpe_jax import logbook
from hpe_jax.errors import WriteError

pytestmark = pytest.mark.slow  # tensorboardX imports torch, for seconds, where that is installed

HISTORY = [{'epoch': 1, 'train_loss': 0.5, 'validation_loss': None}]


@pytest.mark.parametrize('after', ['record', 'image'])
def test_a_full_disk_is_reported_once(tmp_path, monkeypatch, after):
    monkeypatch.setattr(time, 'time', lambda: 7.0)
    monkeypatch.setattr(socket, 'gethostname', lambda: 'host')
    log = logbook.Logbook(tmp_path, [])
    log.close()
    events = tmp_path / 'tensorboard/events.out.tfevents.7.host'
    assert events.stat().st_size > 0
    message = 'cannot write .*tensorboard: No space left on device$'
    with Path('/dev/full').open('wb') as log._events._writer, pytest.raises(WriteError, match=message):
        log.record(HISTORY) if after == 'record' else log.image('a', np.zeros((64, 64, 3), np.uint8), 1)
    assert (tmp_path / 'metrics.jsonl').read_text() == (json.dumps(HISTORY[0]) + '\n' if after == 'record' else '')


def test_a_file_in_the_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / 'tensorboard').touch()
    with pytest.raises(WriteError, match='cannot write .*tensorboard: File exists'):
        logbook.Logbook(tmp_path, [])


def test_the_processor_is_named_with_its_widest_vectors(tmp_path):
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text('processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f\n')
    assert logbook.processor(cpuinfo).endswith(', AMD EPYC, AVX-512')
    cpuinfo.write_text('processor\t: 0\n')
    assert logbook.processor(cpuinfo) == logbook.processor(tmp_path / 'absent') == platform.machine()
