"""The scene in the camera's frame: one triangle mesh of the hand, its arm and the things around it, painted and lit."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hpe_jax import hand
from hpe_jax.data.synthetic_hands import camera, cloth, mesh, objects, shading, skin
from hpe_jax.data.synthetic_hands.texture import between, named_uniforms

THINGS = 3  # what is held, its head or lid, and something before the hand
VALENCE = 8  # triangles that make a vertex's normal; the few vertices that have more do without the rest
PARENTS = np.array(hand.PARENTS[1:])


class Surface(NamedTuple):
    """A triangle mesh in the camera's frame, metres."""

    points: Float[Array, 'v 3']
    normals: Float[Array, 'v 3']
    reflectance: Float[Array, 'v 3']  # over which the material's pattern is laid
    gloss: Float[Array, ' v']
    uv: Float[Array, 'v 2']  # texture coordinates, metres
    arm: Float[Array, ' v']  # metres from the wrist towards the elbow
    thing: Int[Array, ' v']  # 0 for the hand, 1 and up for things


@functools.cache
def hand_mesh() -> tuple[mesh.HandMesh, np.ndarray]:
    """The mesh, and for each vertex the triangles around it, padded with one past the last."""
    with jax.ensure_compile_time_eval():
        loaded = mesh.load_mesh()
    corners = np.asarray(loaded.triangles).reshape(-1)
    order = np.argsort(corners, kind='stable')
    slot = np.arange(len(order)) - np.searchsorted(corners[order], corners[order])
    around = np.full((len(loaded.rest), VALENCE), len(corners) // 3, np.int32)
    kept = slot < VALENCE
    around[corners[order][kept], slot[kept]] = order[kept] // 3
    return loaded, around


@functools.cache
def noises() -> skin.Noises:
    """Of the hand at rest."""
    rest = np.asarray(hand_mesh()[0].rest)
    return skin.Noises(
        broad=skin.waves(rest, 0.06, 16, seed=1),
        fine=skin.waves(rest, 0.02, 16, seed=2),
        grain=skin.waves(rest, 0.01, 32, seed=3),
    )


@functools.cache
def marks() -> skin.Marks:
    """Of the hand at rest."""
    loaded, _ = hand_mesh()
    return skin.marks(*map(np.asarray, (loaded.rest, loaded.joints, loaded.palm)))


@functools.cache
def faces() -> np.ndarray:
    """Triangles of every scene, (f, 3), counter-clockwise from outside: the hand's, then the things'."""
    loaded, _ = hand_mesh()
    first = len(loaded.rest) + objects.NUM_VERTICES * np.arange(THINGS)
    return np.concatenate([np.asarray(loaded.triangles), *(objects.FACES + start for start in first)])


def vertex_normals(
    points: Float[Array, 'v 3'], triangles: Int[Array, 'f 3'], around: Int[np.ndarray, 'v k']
) -> Float[Array, 'v 3']:
    """Unit normals, outwards: the mean over the triangles around a vertex, weighted by area."""
    p0, p1, p2 = (points[triangles[:, k]] for k in range(3))
    of_faces = jnp.pad(jnp.cross(p1 - p0, p2 - p0), ((0, 1), (0, 0)))
    normals = of_faces[around].sum(1)
    return normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-18)


def dressed_hand(key: Key[Array, ''], points: Float[Array, 'v 3'], garment: cloth.Garment) -> Surface:
    """The posed hand in the camera's frame, painted and dressed."""
    k_relief, k_cloth, k_paint = jax.random.split(key, 3)
    loaded, around = hand_mesh()
    normals = vertex_normals(points, loaded.triangles, around)
    points = points + skin.relief(k_relief, noises())[:, None] * normals
    points = cloth.cover(k_cloth, points, normals, loaded.arm, noises().broad, garment)
    normals = vertex_normals(points, loaded.triangles, around)
    reflectance, gloss = skin.paint(k_paint, loaded, noises(), marks())
    thing = jnp.zeros(len(points), jnp.int32)
    covered = cloth.material_at(loaded.arm, thing, garment) != cloth.SKIN
    # Unrolled rest coordinates: the palm and the back lie flat, the arm's length runs on.
    uv = loaded.rest[:, :2] + 0.5 * loaded.rest[:, 2:]
    gloss = jnp.where(covered, 0.1, gloss)
    return Surface(points, normals, reflectance, gloss, uv, loaded.arm, thing)


def random_things(
    key: Key[Array, ''], held: mesh.Held, view: camera.View, near: Float[Array, '3'], with_held: bool, occluders: float
) -> Surface:
    """The held object, as the pose suggests it, with a head at one end of long ones; and one before the hand.

    Args:
      near: a point of the hand, camera's frame, about which something may stand before it.
      with_held, occluders: see render.Config.
    """
    keys = jax.random.split(key, 3)
    u = named_uniforms(
        keys[0],
        'angle ends head_width head_height head_length headed head_section head_ends occluded '
        'body_gloss head_gloss occluder_gloss',
    )
    deviates = jax.random.normal(keys[2], (2,))
    shown, is_capsule = with_held & (held.kind >= 0), held.kind == 1
    axis, centre = view.R @ held.axis, view.R @ held.centre + view.t
    axes = objects.axes_along(axis, 2 * jnp.pi * u.angle)
    across, along = held.radii[1], held.radii[0] + held.radii[1] * is_capsule
    exponents = jnp.where(is_capsule, jnp.stack([1.0, between(u.ends, 0.1, 0.9)]), 1.0)
    # Only the ends bulge or taper: the middle is where the fingers are.
    profile = 0.3 * is_capsule * jnp.array([1.0, 0, 0, 1]) * deviates[jnp.array([0, 0, 1, 1])]
    body = centre, axes, shown * jnp.stack([across, across, along]), exponents, profile

    size = across * jnp.exp(between(jnp.stack([u.head_width, u.head_height, u.head_length]), -0.3, 1.3))
    headed = shown & is_capsule & (u.headed < 0.4)
    exponents_of_head = between(jnp.stack([u.head_section, u.head_ends]), 0.1, 1)
    head = centre + axis * (along + 0.7 * size[2]), axes, headed * size, exponents_of_head, jnp.zeros(4)
    before = objects.random_occluder(keys[1], near, u.occluded < occluders)
    parts = jax.tree.map(lambda *x: jnp.stack(x), body, head, before)
    points, normals, uv = (x.reshape(-1, x.shape[-1]) for x in jax.vmap(objects.superquadric)(*parts))

    def each(x):
        return jnp.repeat(x, objects.NUM_VERTICES)

    return Surface(
        points,
        normals,
        jnp.ones_like(points),
        each(jnp.stack([u.body_gloss, u.head_gloss, u.occluder_gloss])),
        uv,
        each(jnp.zeros(THINGS)),
        each(jnp.arange(THINGS) + 1),
    )


def light_up(
    key: Key[Array, ''], surface: Surface, keypoints: Float[Array, '21 3'], garment: cloth.Garment
) -> tuple[Float[Array, 'v 3'], Float[Array, 'v 3']]:
    """Diffuse and specular light of a random lighting on every vertex; keypoints in the camera's frame."""
    keys = jax.random.split(key)
    light = shading.random_light(keys[0])
    balls, radii = shading.hand_balls(keypoints, PARENTS)
    sky = shading.blocked_sky(surface.points, surface.normals, balls, radii)
    lamp = shading.key_light_seen(keys[1], surface.points, surface.normals, faces(), keypoints.mean(0), light)
    is_skin = cloth.material_at(surface.arm, surface.thing, garment) == cloth.SKIN
    return shading.light_vertices(surface.points, surface.normals, surface.gloss, is_skin, light, lamp, sky)
