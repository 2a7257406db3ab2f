"""Fingers and what they touch: every bone is a capsule of flesh, and fingers close until they meet something.

Skin gives way: an overlap of capsules up to SKIN is no contact yet.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hpe_jax.data.synthetic_hands.gestures import FINGER_LIMITS, THUMB_LIMITS
from hpe_jax.data.synthetic_hands.mesh import (
    OUTWARDS,
    Held,
    Pose,
    bent_frames,
    finger_bases,
    finger_frames,
    pose_bones,
    thumb_frames,
)

SKIN = 0.003  # metres
# The mean hand's flesh, metres: radii of the bones, thumb first, from base to tip; of the palm around each metacarpal,
# whose middle lies PALM_DEPTH out of the plane of the joints; and the distance from wrist to middle MCP.
RADII = np.array([(12, 9.5, 8.5), (9, 8, 7), (9, 8, 7), (8.5, 7.8, 6.8), (7.8, 6.8, 6)], np.float32) / 1000
PALM_RADIUS = 0.0125
PALM_DEPTH = 0.003
MEAN_PALM = 0.085

# Bones of different fingers can meet; the proximal ones of neighbours always do, at the web.
PAIRS = np.array(
    [(a, b) for a in range(15) for b in range(a + 1, 15) if a // 3 != b // 3 and (a % 3, b % 3) != (0, 0)]
).T
THUMB_PAIRS = PAIRS[:, PAIRS[0] < 3]
PAD_DIRECTION = np.array([0.0, 0.6, 0.8], np.float32)  # out of a pad, in its bone's frame: also forwards
STEPS = 16  # of a closing finger
THUMB_RANGE = np.deg2rad(THUMB_LIMITS.T)
MEET_RANGE = np.deg2rad(np.concatenate([THUMB_LIMITS, FINGER_LIMITS[::2]]).T)


def hand_scale(joints: Float[Array, '24 3']) -> Float[Array, '']:
    """Size of a hand relative to the mean one."""
    return jnp.linalg.norm(joints[9]) / MEAN_PALM


def segment_distance(a: Float[Array, '*#n 2 3'], b: Float[Array, '*#n 2 3']) -> Float[Array, '...']:
    """Distance between two segments, each given by its ends; broadcasts."""
    u, v, w = a[..., 1, :] - a[..., 0, :], b[..., 1, :] - b[..., 0, :], a[..., 0, :] - b[..., 0, :]
    uu, uv, vv, uw, vw = (jnp.sum(p * q, -1) for p, q in ((u, u), (u, v), (v, v), (u, w), (v, w)))
    tiny = 1e-12
    s = jnp.clip((uv * vw - vv * uw) / jnp.maximum(uu * vv - uv * uv, tiny), 0, 1)
    t = jnp.clip((uv * s + vw) / jnp.maximum(vv, tiny), 0, 1)
    s = jnp.clip((uv * t - uw) / jnp.maximum(uu, tiny), 0, 1)
    return jnp.linalg.norm(w + s[..., None] * u - t[..., None] * v, axis=-1)


def bone_segments(keypoints: Float[Array, '21 3']) -> Float[Array, '15 2 3']:
    """The bones' ends, thumb first; the last one's so that its round end is the finger's."""
    chains = keypoints[1:].reshape(5, 4, 3)
    chains = chains.at[:, 3].add(0.15 * (chains[:, 2] - chains[:, 3]))
    return jnp.stack([chains[:, :-1], chains[:, 1:]], 2).reshape(15, 2, 3)


def held_segment(held: Held) -> tuple[Float[Array, '2 3'], Float[Array, '']]:
    """A held object as a capsule: its segment and radius; without an object the radius is far below zero."""
    along, across = held.radii
    half = jnp.where(held.kind == 1, along, jnp.maximum(along - across, 0)) * held.axis
    return jnp.stack([held.centre - half, held.centre + half]), jnp.where(held.kind < 0, -1.0, across)


def overlaps_around(
    keypoints: Float[Array, '21 3'], held: Held, scale: Float[Array, '']
) -> tuple[Float[Array, '5 3'], Float[Array, '5 3']]:
    """How deep each bone lies in the palm, and in the held object, beyond SKIN; negative is free, metres.

    The palm is soft: twice SKIN there.
    """
    bones, radii = bone_segments(keypoints), RADII.reshape(15) * scale
    mcps = keypoints[5::4]
    depth = jnp.array([[[0.0, 0.0, PALM_DEPTH]]]) * scale
    palm = jnp.stack([0.24 * mcps, 0.9 * mcps], 1) + depth
    gaps = segment_distance(bones[:, None], palm[None]).min(1)
    in_palm = (PALM_RADIUS * scale + radii - gaps).reshape(5, 3)
    # Bones that grow out of the palm, and the thumb's MCP-IP bone along its edge, always overlap it.
    in_palm = jnp.where(np.arange(3) >= np.where(np.arange(5) == 0, 2, 1)[:, None], in_palm, -1.0)
    segment, radius = held_segment(held)
    in_held = (radius + radii - segment_distance(bones, segment[None])).reshape(5, 3)
    return in_palm - 2 * SKIN * scale, in_held - SKIN * scale


def overlaps_between(
    keypoints: Float[Array, '21 3'], scale: Float[Array, ''], pairs: Int[np.ndarray, '2 p'] = PAIRS
) -> Float[Array, ' p']:
    """How deep bones of different fingers overlap beyond SKIN, metres."""
    bones, radii = bone_segments(keypoints), RADII.reshape(15)
    first, second = pairs
    return (radii[first] + radii[second] - SKIN) * scale - segment_distance(bones[first], bones[second])


def penetration(joints: Float[Array, '24 3'], pose: Pose) -> Float[Array, '']:
    """The deepest overlap beyond skin depth anywhere in the hand and with what it holds; at most 0 is free, metres."""
    keypoints, scale = pose_bones(joints, pose)[0], hand_scale(joints)
    palm, held = overlaps_around(keypoints, pose.held, scale)
    return jnp.maximum(jnp.maximum(palm.max(), held.max()), overlaps_between(keypoints, scale).max())


def last_free(blocked):
    """Along the first axis of S steps: the fraction of the way, 0 to 1, before the first blocked step."""
    steps = blocked.shape[0]
    return jnp.maximum(jnp.sum(jnp.cumprod(~blocked, 0), 0) - 1, 0) / (steps - 1)


def close_fingers(joints: Float[Array, '24 3'], pose: Pose, goal: Float[Array, '4 4']) -> Pose:
    """Bends each finger towards its goal until a bone meets the palm or the held object."""
    scale = hand_scale(joints)

    def at(fraction):
        return pose.fingers + fraction * (goal - pose.fingers)

    def blocked(fraction):
        keypoints = pose_bones(joints, pose._replace(fingers=at(fraction)))[0]
        palm, held = overlaps_around(keypoints, pose.held, scale)
        return (jnp.maximum(palm, held)[1:] > 0).any(1)

    fraction = last_free(jax.vmap(blocked)(jnp.linspace(0, 1, STEPS)))
    return pose._replace(fingers=at(fraction[:, None]))


def close_thumb(joints: Float[Array, '24 3'], pose: Pose, goal: Float[Array, '5']) -> Pose:
    """Moves the thumb towards its goal until it meets a finger, the palm or the held object."""
    scale = hand_scale(joints)

    def at(fraction):
        return pose.thumb + fraction * (goal - pose.thumb)

    def blocked(fraction):
        keypoints = pose_bones(joints, pose._replace(thumb=at(fraction)))[0]
        palm, held = overlaps_around(keypoints, pose.held, scale)
        around = jnp.maximum(palm, held)[0].max()
        return jnp.maximum(around, overlaps_between(keypoints, scale, THUMB_PAIRS).max()) > 0

    return pose._replace(thumb=at(last_free(jax.vmap(blocked)(jnp.linspace(0, 1, STEPS)))))


def touch_points(joints: Float[Array, '24 3'], pose: Pose) -> tuple[Float[Array, '10 3'], Float[Array, '10 3']]:
    """Points on the skin and the directions out of it: the five pads, thumb first, and the middle bones' backs."""
    chains = pose_bones(joints, pose)[0][1:].reshape(5, 4, 3)
    frames = finger_frames(pose)
    scale = hand_scale(joints)
    out_of_pads = frames[:, 2] @ PAD_DIRECTION
    pads = 0.2 * chains[:, 2] + 0.8 * chains[:, 3] + scale * RADII[:, 2:] * out_of_pads
    out_of_backs = -frames[:, 1, :, 2]
    backs = 0.5 * chains[:, 1] + 0.5 * chains[:, 2] + scale * RADII[:, 1:2] * out_of_backs
    return jnp.concatenate([pads, backs]), jnp.concatenate([out_of_pads, out_of_backs])


def meet(joints: Float[Array, '24 3'], pose: Pose, place: Int[Array, ''], gap: Float[Array, '']) -> Pose:
    """Moves the thumb so that its pad comes to `gap` metres from a touch point and faces it.

    A finger whose pad is the touch point comes to meet it by its MCP and PIP joints. Damped least squares in these
    angles, within their limits: a radian away from facing each other, or from the angles before, counts as much as a
    distance of 4 and 2 mm.
    """
    finger = jnp.maximum(place % 5 - 1, 0)
    chains = joints[1:21].reshape(5, 4, 3)
    lengths = jnp.linalg.norm(chains[:, 1:] - chains[:, :-1], axis=-1) * jnp.array([[1.0, 1.0, 0.8]])
    radii = RADII[:, 2] * hand_scale(joints)
    base, outwards = finger_bases()[finger], jnp.array(OUTWARDS)[finger]
    points, directions = touch_points(joints, pose)
    before = jnp.append(pose.thumb, pose.fingers[finger, ::2])

    def pad(frames, digit):
        out = frames[2] @ PAD_DIRECTION
        return chains[digit, 0] + lengths[digit] @ frames[..., 1] + radii[digit] * out, out

    def miss(angles):
        mine, my_direction = pad(thumb_frames(angles[:5]), 0)
        bent = pose.fingers[finger].at[::2].set(angles[5:])
        its, its_direction = pad(bent_frames(base, bent, outwards), finger + 1)
        its = jnp.where(place < 5, its, points[place])
        its_direction = jnp.where(place < 5, its_direction, directions[place])
        facing = my_direction + its_direction
        return jnp.concatenate([mine - its - gap * its_direction, 0.004 * facing, 0.002 * (angles - before)])

    def step(_, angles):
        slope, off = jax.jacfwd(miss)(angles), miss(angles)

        def solved(slope):
            return angles - jnp.linalg.solve(slope.T @ slope + 1e-5 * jnp.eye(7), slope.T @ off)

        # What would leave its limits goes to them, and the others make up for it.
        free = solved(slope)
        inside = jnp.clip(free, *MEET_RANGE)
        return jnp.where(free == inside, jnp.clip(solved(slope * (free == inside)[None]), *MEET_RANGE), inside)

    angles = jax.lax.fori_loop(0, 8, step, before)
    return pose._replace(thumb=angles[:5], fingers=pose.fingers.at[finger, ::2].set(angles[5:]))
