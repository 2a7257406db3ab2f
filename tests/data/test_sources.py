"""The choice of a source."""

import sys

import pytest

from configs import tiny
from hpe_jax import evaluate, train
from hpe_jax.data import sources
from hpe_jax.errors import UserError


def test_tf_data_without_tensorflow_is_refused_before_any_work(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    config, message = tiny.get_config(), "config.data.source='tfdata' needs TensorFlow, .*: pip install '.\\[data\\]'"
    with pytest.raises(UserError, match=message):
        train.check(config, tmp_path / 'run')
    with pytest.raises(UserError, match=message):
        evaluate.evaluate_run(tiny_run)
    assert not list(tmp_path.iterdir())
    config.data.source = 'resident'
    sources.check_installed(config)
