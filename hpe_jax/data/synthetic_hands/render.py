"""Images of hands with their labels: one pure function of a PRNG key, through jit, vmap and lax.map.

poses, camera -> mesh in the camera's frame -> z-buffer -> light -> pixels -> over a background -> sensor -> uint8

Under vmap an image takes 6 MB of memory at 128 pixels and 10 MB at 224; lax.map takes that once.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from hpe_jax import geometry
from hpe_jax.data.synthetic_hands import background, camera, cloth, mesh, poses, rasterise, scene, sensor, texture
from hpe_jax.errors import UserError

TILE = 16  # pixels of the z-buffer in a side of the squares that are painted together
TILES_AT_ONCE = 32

# Metres of own flesh that may lie before a keypoint: wrist, thumb, then each finger from its base to its tip; the last
# 2 mm are those of skin.relief.
FLESH = np.array([0.037, 0.030, 0.024, 0.020, 0.017] + [0.026, 0.019, 0.017, 0.015] * 4, np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
    """What may appear in an image; hashable, so that jit can take it as a static argument."""

    size: int = 224
    supersampling: int = 2
    backgrounds: tuple[str, ...] = background.KINDS
    max_tilt: float = 90.0  # degrees between the line of sight and the palm's normal, on either side
    held: bool = True  # whether grasps hold something
    occluders: float = 0.15  # fraction of images with something before the hand
    borders: float = 0.4  # fraction of images whose content ends inside the frame
    camera_noise: bool = True
    away: float = 0.0  # fraction of images without a hand to be found: see camera.sample_view
    people: float = 0.0  # fraction of images with a face, or a bare arm, leg or foot, behind the hand or in its place
    gesture: str = ''  # that of all hands; by default they are drawn by their weights

    def __post_init__(self):
        if self.gesture and self.gesture not in poses.NAMES:
            raise UserError(f'gesture {self.gesture!r}: unknown; choose from {", ".join(poses.NAMES)}')
        unknown = set(self.backgrounds) - set(background.KINDS)
        if unknown or not self.backgrounds:
            raise UserError(f'backgrounds: {sorted(unknown)} unknown; choose some of {", ".join(background.KINDS)}')
        if not 16 <= self.size <= 2048 or self.supersampling not in (1, 2, 4):
            raise UserError(
                f'size {self.size}, supersampling {self.supersampling}: '
                'the size must be 16 to 2048 pixels, and the supersampling 1, 2 or 4'
            )


FULL = Config()
PRESENCE = Config(away=0.15)  # for a network that is to say whether there is a hand
BORDERLESS = Config(away=0.15, borders=0.0)
UNCLUTTERED = Config(away=0.15, backgrounds=background.PLAIN, occluders=0.0)
# Open hands of any kind, of which networks took palms for backs most often.
OPEN = Config(away=0.15, gesture='open')
# What networks took for hands: in most images there is no other one in the middle.
BODIES = Config(away=0.7, people=0.9)
STUDIO = Config(backgrounds=('wall', 'green_screen', 'clouds'), max_tilt=60.0, held=False, occluders=0.0, borders=0.0)


class Sample(NamedTuple):
    """An image and its labels; keypoints in FreiHAND's order."""

    image: UInt8[Array, 'size size 3']
    xyz: Float[Array, '21 3']  # metres, camera's frame
    K: Float[Array, '3 3']  # pixels
    uv: Float[Array, '21 2']  # (x, y), pixels
    visible: Bool[Array, '21']  # inside the frame
    occluded: Bool[Array, '21']  # behind a thing, or behind more of the hand than the flesh around the keypoint
    mask: Bool[Array, 'size size']  # where hand and arm, sleeve included, fill at least half of a pixel


def render(key: Key[Array, ''], config: Config = FULL) -> Sample:
    """One image of a random hand. The same key gives the same image in any batch."""
    keys = jax.random.split(key, 11)
    loaded, _ = scene.hand_mesh()
    shape = poses.sample_shape(keys[0])
    gesture = poses.NAMES.index(config.gesture) if config.gesture else None
    pose = poses.sample_pose(keys[1], mesh.shape_joints(loaded, shape), gesture)
    posed = mesh.pose_hand(loaded, shape, pose)
    view = camera.sample_view(
        keys[2],
        posed.keypoints,
        posed.elbow,
        size=config.size,
        max_tilt=np.deg2rad(config.max_tilt),
        away=config.away,
    )
    xyz = camera.to_camera(view, posed.keypoints)
    uv = geometry.project(xyz, view.K)

    garment = cloth.random_garment(keys[3])
    limb = scene.dressed_hand(keys[4], camera.to_camera(view, posed.vertices), garment)
    things = scene.random_things(keys[5], pose.held, view, xyz[9], config.held, config.occluders)
    surface = jax.tree.map(lambda *parts: jnp.concatenate(parts), limb, things)
    diffuse, specular = scene.light_up(keys[6], surface, xyz, garment)

    side = config.size * config.supersampling
    inv_z = 1 / surface.points[:, 2]
    xy = (surface.points @ view.K.T)[:, :2] * inv_z[:, None] * config.supersampling
    buffer = rasterise.rasterise(xy, inv_z, scene.faces(), side, side)
    columns = (xy, inv_z, surface.arm, surface.thing, surface.uv, surface.reflectance, diffuse, specular)
    table = jnp.concatenate([c.reshape(len(xy), -1) for c in columns], -1)
    materials = cloth.random_materials(keys[7], scene.THINGS)
    colour, cover, limb_share = paint(buffer, scene.faces(), table, garment, materials, config.supersampling)

    behind = background.random_background(keys[8], config.size, config.backgrounds, config.people)
    image = sensor.develop(keys[9], colour + behind * (1 - cover[..., None]), config.camera_noise)
    image, content = sensor.borders(keys[10], image, uv / config.size, config.borders)
    return Sample(
        image=sensor.to_bytes(image),
        xyz=xyz,
        K=view.K,
        uv=uv,
        visible=geometry.inside_frame(uv / config.size),
        occluded=occluded(buffer, (len(loaded.triangles), len(scene.faces())), xyz, uv * config.supersampling),
        mask=(limb_share >= 0.5) & content,
    )


def paint(
    buffer: rasterise.ZBuffer,
    faces: Int[np.ndarray, 'f 3'],
    table: Float[Array, 'v 16'],
    garment: cloth.Garment,
    materials: cloth.Materials,
    supersampling: int,
) -> tuple[Float[Array, 'size size 3'], Float[Array, 'size size'], Float[Array, 'size size']]:
    """Colours the covered pixels of the z-buffer and averages them to image pixels.

    Only squares that something covers are painted, some at a time: a hand fills a tenth of its image.

    Args:
      faces: those of which the buffer holds the numbers.
      table: x, y (the buffer's pixels), 1 / z, place along the arm, number of the thing, texture coordinates,
        reflectance, diffuse and specular light of each vertex.

    Returns:
      linear RGB times cover, the fraction of each image pixel that is covered, and the share that the limb covers.
    """
    side = len(buffer.words)
    across = -(-side // TILE)
    pad = across * TILE - side
    face = jnp.pad(rasterise.face_at(buffer, len(faces)), (0, pad), constant_values=-1)
    tiles = face.reshape(across, TILE, across, TILE).swapaxes(1, 2).reshape(across**2, TILE**2)
    paint_one = rasterise.one_queue(functools.partial(paint_tiles, faces=faces, supersampling=supersampling))
    small = TILE // supersampling
    canvas = paint_one(tiles, table, garment, materials)
    canvas = canvas.reshape(across, across, small, small, 5).swapaxes(1, 2).reshape(across * small, across * small, 5)
    canvas = canvas[: side // supersampling, : side // supersampling]
    return canvas[..., :3], canvas[..., 3], canvas[..., 4]


def paint_tiles(
    tiles: Int[Array, 'b t p'],
    tables: Float[Array, 'b v 16'],
    garments: cloth.Garment,
    materials: cloth.Materials,
    faces: Int[np.ndarray, 'f 3'],
    supersampling: int,
) -> Float[Array, 'b t small small 5']:
    """`paint` of a batch's squares: the number of the face that each of their pixels shows, row by row, -1 for none.

    Returns:
      linear RGB, cover and the limb's share of each square's pixels of the images.
    """
    batch_size, num_tiles, _ = tiles.shape
    across, at_once, small = math.isqrt(num_tiles), TILES_AT_ONCE * batch_size, TILE // supersampling
    row, column = jnp.divmod(jnp.arange(TILE**2), TILE)
    num_materials, num_vertices = materials.first.shape[1], tables.shape[1]
    tiles, (table, *materials) = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (tiles, (tables, *materials)))
    ends, faces = jnp.cumsum((tiles >= 0).any(-1)), jnp.asarray(faces)

    def paint_some(step, canvas):
        number = rasterise.first_after(ends, step * at_once, at_once)  # batch_size * num_tiles when done
        image, tile = jnp.divmod(jnp.minimum(number, len(tiles) - 1), num_tiles)
        seen = tiles[image * num_tiles + tile]
        at = jnp.stack([tile[:, None] % across * TILE + column, tile[:, None] // across * TILE + row], -1) + 0.5
        colour, is_limb = jax.vmap(shade, (0, 0, 0, None, 0))(
            table[(image * num_vertices)[:, None, None] + faces[seen]],
            at,
            jax.tree.map(lambda x: x[image], garments),
            cloth.Materials(*materials),
            image * num_materials,
        )
        samples = jnp.concatenate([colour, jnp.ones_like(colour[..., :1]), is_limb[..., None]], -1)
        samples = jnp.where((seen >= 0)[..., None], samples, 0)
        pixels = samples.reshape(at_once, small, supersampling, small, supersampling, 5).mean((2, 4))
        return canvas.at[number].set(pixels, mode='drop')

    num_steps = (ends[-1] + at_once - 1) // at_once
    canvas = jax.lax.fori_loop(0, num_steps, paint_some, jnp.zeros((len(tiles), small, small, 5)))
    return canvas.reshape(batch_size, num_tiles, small, small, 5)


def shade(
    corners: Float[Array, 'n 3 16'],
    at: Float[Array, 'n 2'],
    garment: cloth.Garment,
    materials: cloth.Materials,
    first_material: Int[Array, ''],
) -> tuple[Float[Array, 'n 3'], Bool[Array, ' n']]:
    """Linear RGB of points of one image in their triangles, and whether they lie on the hand or its arm.

    materials: of several images; `first_material` is where this one's begin.
    """
    weights = rasterise.barycentric(corners[..., :2], corners[..., 2], at)
    point = jnp.einsum('nk,nkc->nc', weights, corners[..., 3:])
    arm, thing = point[:, 0], jnp.round(point[:, 1]).astype(jnp.int32)
    uv, reflectance, diffuse, specular = jnp.split(point[:, 2:], (2, 5, 8), -1)
    kind = cloth.material_at(arm, thing, garment)
    material = first_material + kind
    mix = texture.lookup(materials.tiles, material, uv * materials.zoom[material])[:, None]
    pattern = materials.first[material] * mix + materials.second[material] * (1 - mix)
    reflectance = jnp.where((kind == cloth.SKIN)[:, None], reflectance, 1.0) * pattern
    return reflectance * diffuse + specular, thing == 0


def occluded(
    buffer: rasterise.ZBuffer, faces: tuple[int, int], xyz: Float[Array, '21 3'], at: Float[Array, '21 2']
) -> Bool[Array, '21']:
    """Keypoints behind a thing, or farther behind the hand's surface than their own flesh.

    Args:
      faces: number of the limb's triangles, which come first, and of all.
      at: the keypoints in the z-buffer's pixels.
    """
    column, row = jnp.clip(at.astype(jnp.int32), 0, len(buffer.words) - 1).T
    surface = 1 / rasterise.inv_z_at(buffer, faces[1])[row, column]  # 0 from -inf where there is nothing
    is_thing = rasterise.face_at(buffer, faces[1])[row, column] >= faces[0]
    return (surface > 0) & (xyz[:, 2] - surface > jnp.where(is_thing, 0, FLESH))
