"""TFDS builder of the synthetic hands: FreiHAND's features, the mask, and which keypoints are hidden.

    tfds build hpe_jax/data/synthetic_hands --config=studio

The images are rendered as files first, under the download folder, so that a killed build goes on where it stopped.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from hpe_jax import geometry
from hpe_jax.data import features
from hpe_jax.data.freihand import folder
from hpe_jax.data.synthetic_hands import generate


@dataclasses.dataclass(eq=False, kw_only=True)
class HandsConfig(tfds.core.BuilderConfig):
    """How many hands, of which preset of the renderer."""

    number: int
    preset: str
    size: int  # side of the images, pixels


def hands_config(name: str, preset: str, number: int, size: int = features.PHOTO_SIZE) -> HandsConfig:
    description = f'{number:,} hands of the preset {preset!r}, {size} pixels wide.'
    return HandsConfig(name=name, number=number, preset=preset, size=size, description=description)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Hands that the project renders itself; free of any research licence. Split like FreiHAND."""

    VERSION = tfds.core.Version('1.3.0')
    RELEASE_NOTES = {
        '1.0.0': 'First version.',
        '1.1.0': "'studio' has 2,000 hands, not 1,600; `occluded`.",
        '1.2.0': 'Lines of the palm, knuckles and tendons, more contrast; images of other sizes.',
        '1.3.0': 'Uneven, blotched and lined skin on both sides of the hand; fingers bent back; no key is used twice.',
    }
    BUILDER_CONFIGS = [hands_config('studio', 'studio', 2000), hands_config('full', 'full', 32560)]

    @classmethod
    def find_config(cls, name: str) -> HandsConfig | None:
        """'studio' or 'full', or a preset with a number and perhaps a size, such as 'full_5000' or 'full_5000_128px';
        None if it is no such name."""
        parts = re.fullmatch(f'({"|".join(generate.PRESETS)})_([1-9][0-9]*)(?:_([1-9][0-9]*)px)?', name)
        if not parts:
            return cls.builder_configs.get(name)
        return hands_config(name, parts[1], int(parts[2]), int(parts[3] or features.PHOTO_SIZE))

    def __init__(self, *, file_format: str | None = None, **kwargs):
        super().__init__(file_format=file_format or 'array_record', **kwargs)  # see FreiHAND's builder

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        more = {
            'mask': tfds.features.Image(shape=(size, size, 1), encoding_format='jpeg', doc='255 on hand and arm.'),
            'occluded': tfds.features.Tensor(shape=(21,), dtype=np.bool_, doc='Hidden by a thing or by the hand.'),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features.hand_features(size) | more), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        images = Path(dl_manager.download_dir) / 'synthetic_hands' / f'{config.name}-{self.VERSION}'
        generate.write(images, config.number, config.preset, size=config.size)
        part = folder.find(images, 'training')
        occluded = json.loads((images / 'training_occluded.json').read_text())
        return {
            name: self._generate_examples(part, occluded, ids)
            for name, ids in features.split_bounds(config.number).items()
            if ids
        }

    def _generate_examples(self, part: folder.Part, occluded: list[list[bool]], ids: range) -> Iterator[tuple]:
        uv = geometry.project(part.xyz, part.K)
        for i in ids:
            photo = part.photos[i]
            yield (
                i,
                {
                    'image': str(photo),
                    'mask': str(photo.parents[1] / 'mask' / photo.name),
                    'occluded': occluded[i],
                    'xyz': part.xyz[i].astype(np.float32),
                    'K': part.K[i].astype(np.float32),
                    'uv': uv[i].astype(np.float32),
                    'sample_id': i,
                    'version': 'gs',
                },
            )
