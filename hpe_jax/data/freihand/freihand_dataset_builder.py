"""TFDS builder of FreiHAND (Zimmermann et al., ICCV 2019).

tfds build hpe_jax/data/freihand --manual_dir=FOLDER    from an extracted folder
tfds build hpe_jax/data/freihand                        downloads the archives first (4.4 GB)
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from hpe_jax import geometry, runtime
from hpe_jax.data import features
from hpe_jax.data.freihand import folder
from hpe_jax.errors import UserError

URL = 'https://lmb.informatik.uni-freiburg.de/data/freihand/'


class Builder(tfds.core.GeneratorBasedBuilder):
    """Photos with 21 keypoints; all versions of one unique photo lie in the same split.

    A split that no photo falls into (when there are very few) does not exist.
    """

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'First version.'}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name='raw', description='The green-screen photos (32,560).'),
        tfds.core.BuilderConfig(name='full', description='All four versions of every photo (130,240).'),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f'Extract {URL}FreiHAND_pub_v2.zip (and FreiHAND_pub_v2_eval.zip) there.'
    fingerprint = staticmethod(folder.fingerprint)

    @classmethod
    def find_config(cls, name: str) -> tfds.core.BuilderConfig | None:
        """The config of that name; None without one."""
        return cls.builder_configs.get(name)

    def __init__(self, *, file_format: str | None = None, **kwargs):
        # ArrayRecord has random access and needs no TensorFlow. (TFDS 4.9.10 loses examples when it writes Parquet: its
        # `_batched` skips ever more of the iterator after the first 100.)
        super().__init__(file_format=file_format or 'array_record', **kwargs)
        self.channel_sums = {}  # features.channel_sums of each split that was prepared, over all its photos
        self.keeper = None  # a resident.Keeper: what keeps the decoded photos, too, while they are prepared

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features.hand_features()),
            homepage='https://lmb.informatik.uni-freiburg.de/projects/freihand/',
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root, evaluation_root = self._roots(dl_manager)
        training = folder.find(root, 'training')
        versions = features.VERSIONS if self.builder_config.name == 'full' else features.VERSIONS[:1]
        if training.num_versions < len(versions):
            raise UserError(f"{root} holds the green-screen photos only: use 'freihand/raw', or extract all 130,240")
        bounds = features.split_bounds(len(training.xyz))
        splits = {name: self._generate_examples(name, training, ids, versions) for name, ids in bounds.items() if ids}
        if folder.has_evaluation(evaluation_root):
            part = folder.find(evaluation_root, 'evaluation')
            splits['evaluation'] = self._generate_examples('evaluation', part, range(len(part.xyz)), ('gs',))
        return splits

    def _roots(self, dl_manager: tfds.download.DownloadManager) -> tuple[Path, Path]:
        """Where the two halves lie: in the user's folder, or in the downloaded archives, each extracted on its own."""
        manual = Path(dl_manager._manual_dir)
        if manual != Path(dl_manager.download_dir / 'manual') or manual.exists():
            return manual, manual
        archives = ('FreiHAND_pub_v2.zip', 'FreiHAND_pub_v2_eval.zip')
        training, evaluation = dl_manager.download_and_extract([URL + archive for archive in archives])
        return Path(training), Path(evaluation)

    def _generate_examples(self, split: str, part: folder.Part, ids: range, versions: tuple[str, ...]) -> Iterator:
        uv, total = geometry.project(part.xyz, part.K), 0
        chosen = [(v, i) for v in range(len(versions)) for i in ids]
        photos = [part.photos[i + v * len(part.xyz)] for v, i in chosen]
        keeper = self.keeper if self.keeper and split in self.keeper.splits else None
        decoded = runtime.parallel(partial(_decoded, crop=keeper and keeper.crop), photos)
        decoded = runtime.progress(decoded, len(photos), 'photo', f'Preparing {split}', bar=False)
        with keeper.file(self, split, len(photos)) if keeper else contextlib.nullcontext() as keep:
            for (v, i), photo, (sums, crop) in zip(chosen, photos, decoded, strict=True):
                total += sums
                if keep:
                    keep(crop)
                yield (
                    i + v * len(part.xyz),
                    {
                        'image': str(photo),
                        'xyz': part.xyz[i].astype(np.float32),
                        'K': part.K[i].astype(np.float32),
                        'uv': uv[i].astype(np.float32),
                        'sample_id': i,
                        'version': versions[v],
                    },
                )
        self.channel_sums[split] = total


def _decoded(path: Path, crop: Callable | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The features.channel_sums of a photo, and the crop of it that is kept, if any is."""
    photo = folder.read_photo(path)
    return features.channel_sums(photo), crop and crop(photo)
