import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpe_jax import files
from hpe_jax.errors import UserError, WriteError

ROOT = Path(__file__).parents[1]


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


def test_one_process_at_a_time_writes_into_a_folder(tmp_path):
    script = f"""
from hpe_jax import errors, files
try:
    with files.locked({str(tmp_path)!r}):
        print('locked')
except errors.UserError as e:
    print(e)
"""
    other = [sys.executable, '-c', script]
    with files.locked(tmp_path):
        said = subprocess.run(other, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        assert f'{tmp_path} is in use by process {os.getpid()} on {socket.gethostname()}; wait for its end' in said
    assert subprocess.run(other, capture_output=True, text=True, check=True, cwd=ROOT).stdout == 'locked\n'


def test_a_lock_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(WriteError, match='cannot write .*/.lock: No such file'), files.locked(tmp_path / 'absent'):
        pytest.fail('locked')


def test_a_lock_that_cannot_be_removed_hides_no_other_error(tmp_path, monkeypatch):
    def unlink(path, missing_ok=False):
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(Path, 'unlink', unlink)
    with pytest.raises(UserError, match='why'), files.locked(tmp_path):
        raise UserError('why')
    monkeypatch.undo()
    with files.locked(tmp_path):
        assert (tmp_path / '.lock').exists()
    assert not (tmp_path / '.lock').exists()


def test_what_gets_its_name_is_on_the_disk(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(files, 'sync', lambda path: events.append(path.name))
    rename = os.replace
    monkeypatch.setattr(os, 'replace', lambda a, b: (events.append('renamed'), rename(a, b)))
    files.write_text(tmp_path / 'a.txt', 'new')
    temporary, *later = events
    assert str(os.getpid()) in temporary and later == ['renamed', tmp_path.name]


def test_a_lock_that_was_left_is_taken_over_and_reported(tmp_path, capsys):
    (tmp_path / '.lock').write_text('process 7 on elsewhere')
    with files.locked(tmp_path):
        assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} on ')
    assert 'taking over from process 7 on elsewhere' in capsys.readouterr().out
    with files.locked(tmp_path):
        pass
    assert capsys.readouterr().out == '' and not (tmp_path / '.lock').exists()


def test_the_names_of_new_folders_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, 'sync', synced.append)
    files.write_text(tmp_path / 'a/b/c.txt', 'x')
    assert {tmp_path, tmp_path / 'a', tmp_path / 'a/b'} <= set(synced)
