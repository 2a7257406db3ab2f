"""TFDS builder of hands that are labelled as COCO keypoint JSON; README.md has the forms that it reads.

tfds build hpe_jax/data/coco_hands --manual_dir=FOLDER
"""

import dataclasses
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8
from PIL import Image

from hpe_jax import geometry, runtime
from hpe_jax.data import features
from hpe_jax.data.coco_hands import annotations
from hpe_jax.errors import UserError
from hpe_jax.inference import images


@dataclasses.dataclass(eq=False, kw_only=True)
class CropsConfig(tfds.core.BuilderConfig):
    """How hands are read and cropped; all but `size` are the fields of config.data with their names."""

    size: int = features.PHOTO_SIZE  # side of the crops, pixels
    relative_hand_size: float = 0.47
    joints: str = 'freihand'
    handedness: str = 'right'
    context: float = 1.5

    @property
    def stored_size(self) -> int:
        """Side of the stored pictures, of which the crop is the middle."""
        return self.size + 2 * features.margin(self.size, self.context)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Crops around labelled hands, with what lies around them; left ones are mirrored to right ones."""

    VERSION = tfds.core.Version('1.1.0')
    RELEASE_NOTES = {'1.0.0': 'First version.', '1.1.0': 'What lies around the crop, for augmentation.'}
    BUILDER_CONFIGS = [CropsConfig(name='default', description='Crops of 224x224 pixels.')]
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'Put the COCO keypoint JSON and its images there.'
    # Fields of config.data that the crops depend on.
    OPTIONS = ('relative_hand_size', 'joints', 'handedness', 'context')
    fingerprint = staticmethod(annotations.fingerprint)

    @classmethod
    def find_config(cls, name: str, **options) -> CropsConfig | None:
        """'default', or '160px': crops of that size; None if it is no such name. Options: see OPTIONS."""
        name = f'{features.PHOTO_SIZE}px' if name == 'default' else name  # TFDS wants another name for other options
        size = re.fullmatch('([1-9][0-9]*)px', name)
        return CropsConfig(name=name, size=int(size[1]), **options) if size else None

    def __init__(self, *, file_format: str | None = None, **kwargs):
        super().__init__(file_format=file_format or 'array_record', **kwargs)  # see FreiHAND's builder

    def _info(self) -> tfds.core.DatasetInfo:
        def tensor(shape: tuple[int, ...], dtype: type, doc: str) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=dtype, doc=doc)

        more = {
            'name': tfds.features.Text(doc='Of the image, the annotation, and of two hands the handedness.'),
            'handedness': tfds.features.ClassLabel(names=annotations.HANDEDNESS, doc='A left hand is stored mirrored.'),
            'labelled': tensor((21,), np.bool_, 'Others (v = 0) lie in the middle of the box.'),
            'occluded': tensor((21,), np.bool_, 'v = 1.'),
            'box': tensor((4,), np.float32, 'x0, y0, x1, y1, pixels of the original.'),
            'crop': tensor((4,), np.float32, 'x0, y0, x1, y1, pixels of the original.'),
            'original_size': tensor((2,), np.int32, '(width, height) of the original, pixels.'),
        }
        shared = features.hand_features(self.builder_config.stored_size, depth=False)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(shared | more), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        hands = annotations.load(Path(dl_manager._manual_dir), config.joints, config.handedness)
        starts = np.cumsum([0, *map(len, hands.values())])
        return {
            split: self._generate_examples(members, int(start))
            for (split, members), start in zip(hands.items(), starts, strict=False)
        }

    def _generate_examples(self, hands: list[annotations.Hand], start: int) -> Iterator[tuple]:
        read = functools.lru_cache(maxsize=1)(images.read)  # hands of one image follow each other
        for i, hand in enumerate(runtime.progress(hands, len(hands), 'hand', 'Preparing', bar=False), start):
            try:
                example = crop_example(hand, read(hand.image), self.builder_config)
            except UserError as e:
                raise annotations.error(hand.source, hand.annotation, f'{e}') from e
            yield i, example | {'sample_id': i, 'version': 'gs'}


def crop_example(hand: annotations.Hand, image: UInt8[np.ndarray, 'h w 3'], config: CropsConfig) -> dict:
    """The features of one hand, cropped; those that are not `sample_id` and `version`.

    Raises:
      UserError: the image has another size than in the JSON, or shows nothing of the hand.
    """
    height, width = image.shape[:2]
    if hand.size not in (None, (width, height)):
        raise UserError(f'its image {hand.image} is {width}x{height}, upright; the JSON expects {hand.size}')
    if not (hand.box[:2] < [width, height]).all() or not (hand.box[2:] > 0).all():
        raise UserError(f'its bbox {hand.box.tolist()} (x0, y0, x1, y1) lies outside the {width}x{height} of its image')
    square = square_around(hand.box, config.relative_hand_size)
    in_crop = (hand.keypoints.astype(np.float64) - square[:2]) / (square[2] - square[0])
    in_crop[~hand.labelled] = 0.5
    if not geometry.inside_frame(in_crop)[hand.labelled].any():
        raise UserError('its keypoints lie far from its bbox; expected both in pixels of the image')
    stored = square_around(hand.box, config.relative_hand_size * config.size / config.stored_size)
    pixels, uv = geometry.crop(image, stored, config.stored_size), in_crop * config.size
    uv += features.margin(config.size, config.context)
    if hand.handedness == 'left':
        pixels, uv[:, 0] = pixels[:, ::-1], config.stored_size - uv[:, 0]
    return {
        'image': io.BytesIO(as_jpeg(pixels)),
        'uv': uv.astype(np.float32),
        'name': hand.name,
        'handedness': hand.handedness,
        'labelled': hand.labelled,
        'occluded': hand.occluded,
        'box': hand.box.astype(np.float32),
        'crop': square.astype(np.float32),
        'original_size': np.int32([width, height]),
    }


def square_around(box: Float[np.ndarray, '4'], relative_hand_size: float) -> Float[np.ndarray, '4']:
    """The square about a box's middle, of which the box's longer side takes that fraction."""
    middle, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max() / relative_hand_size
    return np.concatenate([middle - side / 2, middle + side / 2])


def as_jpeg(pixels: UInt8[np.ndarray, 'h w 3']) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'JPEG', quality=95, subsampling=0)
    return stream.getvalue()
