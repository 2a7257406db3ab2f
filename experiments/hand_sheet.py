"""What the synthetic hands look like, and their statistics.

    python -m experiments.hand_sheet --preset=full --output=experiments/records/synthetic_full

Writes OUTPUT.jpg, 48 hands, every second one with its skeleton in finger colours, and OUTPUT.json, statistics of NUMBER
hands: size in the frame, distance from its middle, occlusion, joint angles, and the spread of the skin's tone as the
individual typology angle (ITA, degrees) of the picture's mean colour over hand and arm, lighting included.
"""

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

from hpe_jax import files, geometry, hand
from hpe_jax.data.synthetic_hands import generate

PRESET = flags.DEFINE_enum('preset', 'full', list(generate.PRESETS), 'Which kind of pictures.')
OUTPUT = flags.DEFINE_string('output', None, 'Path without suffix.', required=True)
NUMBER = flags.DEFINE_integer('number', 480, 'Hands to count.')
SHEET, COLUMNS = 48, 8


def sheet(samples) -> Image.Image:
    """The first 48 hands in rows of 8."""
    size = samples.image.shape[1]
    picture = Image.new('RGB', (COLUMNS * size, SHEET // COLUMNS * size))
    for i in range(SHEET):
        tile = Image.fromarray(samples.image[i])
        for finger, joints in hand.FINGERS.items() if i % 2 else ():
            line = [tuple(samples.uv[i, j]) for j in (0, *joints)]
            ImageDraw.Draw(tile).line(line, fill=hand.COLOURS[finger], width=2)
        picture.paste(tile, (i % COLUMNS * size, i // COLUMNS * size))
    return picture


def bend(xyz: np.ndarray) -> dict[str, np.ndarray]:
    """Angle between neighbouring bones at each joint of the four fingers, degrees: (n, 4) per kind of joint."""
    bones = np.diff(xyz[:, np.array([(0, *joints) for joints in list(hand.FINGERS.values())[1:]])], axis=2)
    bones /= np.linalg.norm(bones, axis=-1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip((bones[:, :, 1:] * bones[:, :, :-1]).sum(-1), -1, 1)))
    return dict(zip(('mcp', 'pip', 'dip'), np.moveaxis(angles, -1, 0), strict=True))


def typology(colour: np.ndarray) -> np.ndarray:
    """ITA of (n, 3) sRGB colours in [0, 1]: atan((L* - 50) / b*), CIELAB under D65 (Chardon et al., 1991)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = linear @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.degrees(np.arctan2(116 * f[:, 1] - 66, 200 * (f[:, 1] - f[:, 2])))


def statistics(samples) -> dict[str, dict[str, float]]:
    size = samples.image.shape[1]
    keypoints = samples.uv / size
    centre = (keypoints.max(1) + keypoints.min(1)) / 2
    colour = [image[mask].mean(0) / 255 for image, mask in zip(samples.image, samples.mask, strict=True) if mask.any()]
    values = {
        'box_pct_of_frame': 100 * geometry.box_side(keypoints, np.ones(keypoints.shape[:2], bool)),
        'centre_offset_pct': 100 * np.linalg.norm(centre - 0.5, axis=-1),
        'keypoints_occluded_pct': 100 * samples.occluded.mean(1),
        'keypoints_in_frame_pct': 100 * samples.visible.mean(1),
        'skin_ita_degrees': typology(np.array(colour)),
        **{f'{name}_degrees': angles.ravel() for name, angles in bend(samples.xyz).items()},
    }
    percentiles = (5, 50, 95)
    return {
        name: {'mean': float(np.mean(v)), **{f'p{p}': float(np.percentile(v, p)) for p in percentiles}}
        for name, v in values.items()
    }


def main(_) -> None:
    render = generate.renderer(PRESET.value, seed=0)
    parts = [render(np.arange(i, i + SHEET)) for i in range(0, NUMBER.value, SHEET)]
    samples = type(parts[0])(*(np.concatenate([np.asarray(x) for x in column]) for column in zip(*parts, strict=True)))
    with files.replacing(f'{OUTPUT.value}.jpg') as temporary:
        sheet(samples).save(temporary, quality=85)
    found = statistics(samples)
    files.write_json(f'{OUTPUT.value}.json', {'preset': PRESET.value, 'hands': len(samples.image), **found})
    for name, value in found.items():
        print(f'{name:24s}' + ''.join(f'{key} {number:8.1f}   ' for key, number in value.items()))


if __name__ == '__main__':
    app.run(main)
