import json

import pytest

from hpe_jax import files
from hpe_jax.errors import UserError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    files.write_text(tmp_path / 'a.txt', 'old')
    with pytest.raises(RuntimeError), files.replacing(tmp_path / 'a.txt') as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_text() == 'old'


def test_folders_are_made_and_the_unwritable_is_said(tmp_path):
    files.write_json(tmp_path / 'b/c.json', {'x': 1})
    assert (tmp_path / 'b/c.json').read_text() == '{\n  "x": 1\n}\n'
    files.write_json(tmp_path / 'nan.json', {'x': [float('nan'), (2.5,)]})
    assert json.loads((tmp_path / 'nan.json').read_text(), parse_constant=pytest.fail) == {'x': [None, [2.5]]}
    with pytest.raises(UserError, match='cannot write .*c.json/d.json'):
        files.write_json(tmp_path / 'b/c.json/d.json', {})
    files.check_writable(tmp_path / 'new')
    assert not list((tmp_path / 'new').iterdir())
