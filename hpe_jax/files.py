"""Files that are whole or absent, even after a power cut: written beside their final name, synced, then moved there."""

import contextlib
import json
import math
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

from hpe_jax.errors import UserError, WriteError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder (same suffix) that becomes `path` if the block succeeds.

    Raises:
      WriteError: the folder or the file cannot be written.
    """
    path = Path(path)
    name = os.fsencode(path.name)  # of up to 255 bytes, which must not grow
    temporary = path.with_name(f'.{zlib.crc32(name):08x}.{os.getpid()}{path.suffix if len(path.suffix) < 99 else ""}')
    try:
        make_folder(path.parent)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as e:
        raise WriteError(f'cannot write {path}: {e.strerror or e}') from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """With its parents, whose names are synced, too."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync(path.parent)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Has one process at a time write into a folder; the system frees the lock when the process ends, however it ends.

    Raises:
      UserError: another process has the lock; the message names it.
      WriteError: the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    path = Path(folder) / '.lock'
    with contextlib.ExitStack() as stack:
        try:
            while True:
                file = stack.enter_context(path.open('a+b', buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break  # else another process ended, and deleted it, in between
            file.seek(0)
            if left := file.read().decode(errors='replace'):
                print(f'{folder}: taking over from {left}, which has ended without deleting its lock.', flush=True)
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}'.encode())
        except BlockingIOError as e:
            file.seek(0)
            holder = file.read().decode(errors='replace')
            raise UserError(f'{folder} is in use by {holder}; wait for its end, or choose another folder') from e
        except OSError as e:
            raise WriteError(f'cannot write {path}: {e.strerror or e}') from e
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the disk may have become read-only, which is what the block reports
                path.unlink()


def sync(path: Path) -> None:
    """Has the disk keep a file's content, or a folder's list of names, before anything later; where it can."""
    if os.name == 'nt' and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` of a folder and of all in it."""
    for path in sorted(folder.rglob('*'), reverse=True):
        sync(path)
    sync(folder)


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='surrogateescape')  # file names that are not UTF-8 are kept


def write_json(path: str | Path, value) -> None:
    """Standard JSON, which has no NaN: it becomes null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + '\n')


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def check_writable(folder: str | Path) -> None:
    """Makes the folder.

    Raises:
      WriteError: it cannot be made or written to.
    """
    with replacing(Path(folder) / 'probe') as temporary:
        temporary.touch()
    (Path(folder) / 'probe').unlink(missing_ok=True)  # another process may do the same
