"""An extracted FreiHAND folder: where its files are, and whether they belong together.

training/rgb/00000000.jpg ...    n_unique photos, or 4 x n_unique: version v of photo i is file i + n_unique * v
training_xyz.json                [n_unique, 21, 3] metres, camera frame
training_K.json                  [n_unique, 3, 3] pixels
evaluation/rgb, evaluation_xyz.json, evaluation_K.json    likewise; optional
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from hpe_jax import geometry
from hpe_jax.data.features import PHOTO_SIZE, VERSIONS
from hpe_jax.errors import UserError
from hpe_jax.inference import images

WHERE = 'extract FreiHAND_pub_v2.zip and give the folder that holds training_xyz.json'


@dataclasses.dataclass(frozen=True)
class Part:
    """The photos and labels of one half, 'training' or 'evaluation'; xyz (n, 21, 3) metres, K (n, 3, 3) pixels."""

    photos: list[Path]
    xyz: np.ndarray
    K: np.ndarray

    @property
    def num_versions(self) -> int:
        return len(self.photos) // len(self.xyz)


def find(root: str | Path, name: str) -> Part:
    """Reads and checks one half, 'training' or 'evaluation', of an extracted folder, nested up to two folders deep.

    Raises:
      UserError: the folder is missing or partial, or its photos and labels do not belong together, or no camera sees
        its hands so.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f'{root}: no such FreiHAND folder; {WHERE}')
    wanted = [f'{name}/rgb', f'{name}_xyz.json', f'{name}_K.json']
    base = _base(root, wanted)
    rgb, xyz_path, K_path = paths = [base / suffix for suffix in wanted]
    missing = [suffix for suffix, path in zip(wanted, paths, strict=True) if not path.exists()]
    if missing:
        raise UserError(f'{base}: not a whole FreiHAND folder, it lacks {", ".join(missing)}; {WHERE}')
    part = Part(_photos(rgb), _labels(xyz_path, (21, 3)), _labels(K_path, (3, 3)))
    if len(part.K) != len(part.xyz):
        raise UserError(f'{K_path} labels {len(part.K)} photos but {xyz_path.name} labels {len(part.xyz)}')
    if len(part.photos) not in (len(part.xyz), len(VERSIONS) * len(part.xyz)):
        raise UserError(
            f'{rgb} holds {len(part.photos)} photos but {xyz_path.name} has labels for {len(part.xyz)}; '
            'FreiHAND has one or four photos per label, so some files are missing or from another set'
        )
    _check_hands(part, xyz_path, K_path)
    return part


def has_evaluation(root: str | Path) -> bool:
    """Whether the labels of the evaluation half, a separate archive, were extracted too."""
    name = 'evaluation_xyz.json'
    return (_base(Path(root).expanduser(), [name]) / name).exists()


def fingerprint(root: str | Path) -> str:
    """A short hash of the folder's labels and its photos' names, sizes and times of change.

    Another content gives another hash, unless a photo keeps both size and time of change; no photo is read.
    """
    parts = [find(root, 'training')] + ([find(root, 'evaluation')] if has_evaluation(root) else [])
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.xyz.tobytes() + part.K.tobytes())
        stats = [photo.stat() for photo in part.photos]
        files = [(p.name, s.st_size, s.st_mtime_ns) for p, s in zip(part.photos, stats, strict=True)]
        digest.update(str(files).encode())
    return digest.hexdigest()[:12]


def read_photo(path: Path) -> UInt8[np.ndarray, 'h w 3']:
    """Decodes one photo.

    Raises:
      UserError: it is not a whole JPEG of PHOTO_SIZE x PHOTO_SIZE in RGB; names its path.
    """
    try:
        with images.open_jpeg(path) as photo:
            size, mode = photo.size, photo.mode
            pixels = np.asarray(photo) if size == (PHOTO_SIZE, PHOTO_SIZE) else None
    except (OSError, SyntaxError) as e:
        raise UserError(f'{path}: unreadable or truncated JPEG; extract the archive again') from e
    if size != (PHOTO_SIZE, PHOTO_SIZE):
        raise UserError(f'{path}: {size[0]}x{size[1]} pixels, but FreiHAND photos are {PHOTO_SIZE}x{PHOTO_SIZE}')
    if mode != 'RGB':
        raise UserError(f'{path}: its colours are {mode}, but FreiHAND photos are RGB; extract the archive again')
    return pixels


def _base(root: Path, wanted: list[str]) -> Path:
    """The folder that holds the most of these files: root, or one up to two folders deeper; the first of several.

    All files are taken from this one folder, so that parts of two sets are never put together.
    """
    folders = [root, *sorted(root.glob('*/')), *sorted(root.glob('*/*/'))]
    return max(folders, key=lambda folder: sum((folder / suffix).exists() for suffix in wanted))


def _photos(rgb: Path) -> list[Path]:
    photos = sorted(rgb.glob('[!.]*.jpg'))  # macOS leaves ._NAME beside each file, a killed rendering a temporary one
    if not photos:
        raise UserError(f'{rgb} holds no photos (*.jpg); {WHERE}')
    for i, photo in enumerate(photos):
        if photo.name != f'{i:08d}.jpg':
            raise UserError(f'{rgb}: photo {i:08d}.jpg is missing (found {photo.name} in its place)')
    return photos


def _labels(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        labels = np.asarray(json.loads(path.read_text()))
        if labels.dtype.kind not in 'if':  # text, null, or whole numbers of more than 64 bits
            raise TypeError(labels.dtype)
    except OSError as e:
        raise UserError(f'{path}: cannot be read: {e.strerror}') from e
    except (ValueError, TypeError, RecursionError) as e:  # broken or deep JSON, ragged lists, text
        raise UserError(f'{path}: not a list of {shape[0]}x{shape[1]} number arrays, one a photo') from e
    if labels.ndim != 3 or labels.shape[1:] != shape or not len(labels):
        raise UserError(f'{path}: shape {labels.shape}, but FreiHAND has (n, {shape[0]}, {shape[1]})')
    if not np.isfinite(labels).all():
        raise UserError(f'{path}: label {int((~np.isfinite(labels)).any((1, 2)).argmax())} is not finite')
    return np.float64(labels)


def _check_hands(part: Part, xyz_path: Path, K_path: Path) -> None:
    """Raises UserError unless every hand has pixels, in float32 too, and most hands lie in their photos."""
    with np.errstate(all='ignore'):
        xyz, K = part.xyz.astype(np.float32), part.K.astype(np.float32)
        uv = geometry.project(part.xyz, part.K).astype(np.float32)
    camera = np.isfinite(K).all((1, 2)) & (K[:, [0, 1], [0, 1]] > 0).all(1)
    camera &= np.isclose(K[:, 2], (0, 0, 1), atol=1e-5).all(1)
    if not camera.all():
        raise UserError(
            f'{K_path}: matrix {int(camera.argmin())} is that of no camera; expected finite numbers, positive focal '
            'lengths in pixels, and a last row of 0, 0, 1'
        )
    near = (xyz[..., 2] > 0).all(1)
    if not near.all():
        raise UserError(f'{xyz_path}: hand {int(near.argmin())} lies behind the camera or in it')
    finite = (np.isfinite(xyz).all(-1) & np.isfinite(uv).all(-1)).all(1)
    if not finite.all():
        raise UserError(f'{xyz_path}: hand {int(finite.argmin())} has no finite pixels by its matrix in {K_path.name}')
    wide = (uv.max(1) - uv.min(1)).max(1) >= 1
    if not wide.all():
        raise UserError(
            f'{xyz_path}: hand {int(wide.argmin())} is smaller than a pixel by its matrix in {K_path.name}; expected '
            f'metres, and focal lengths in pixels of {PHOTO_SIZE}x{PHOTO_SIZE}'
        )
    inside = geometry.inside_frame(uv / np.float32(PHOTO_SIZE)).any(1)
    if 2 * inside.sum() < len(inside):
        raise UserError(
            f'{xyz_path}: {(~inside).sum()} of {len(inside)} hands, the first is hand {int(inside.argmin())}, lie '
            f'outside of their photos by {K_path.name}; the two files do not belong together'
        )
