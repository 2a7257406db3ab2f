"""What hands do: anatomical limits of the joints, and the gestures that poses are drawn around. Numbers only.

Limits: active ranges of healthy adults, rounded: American Academy of Orthopaedic Surgeons, "Joint Motion:
Method of Measuring and Recording" (1965), and Hume, Gellman, McKellop, Brumfield, "Functional range of motion of the
joints of the hand", J. Hand Surg. 15A:240 (1990). The DIP joint follows the PIP joint by two thirds: Rijpkema,
Girard, "Computer animation of knowledge-based human grasping", SIGGRAPH 1991.
"""

from typing import NamedTuple

import numpy as np

# Degrees, (low, high), in the order of Pose's fields.
FINGER_LIMITS = np.array([(-25, 95), (-15, 25), (-8, 110), (-10, 85)], np.float32)
THUMB_LIMITS = np.array([(-15, 75), (0, 70), (-20, 60), (-10, 60), (-20, 80)], np.float32)
WRIST_LIMITS = np.array([(-70, 75), (-20, 35)], np.float32)
ARM_LIMITS = np.array([(-70, 70), (0, 135)], np.float32)
DIP_PER_PIP = 2 / 3

PAD, BACK = 0, 5  # of contact.touch_points: a finger's pad, the back of its middle bone
NOTHING, BALL, BAR, PEN, BEAD = range(5)


class Gesture(NamedTuple):
    """Mean angles in degrees; `noise` is the standard deviation around them."""

    weight: float  # share among all, not normalised
    fingers: tuple  # index to little: MCP flexion, spread, PIP flexion
    thumb: tuple
    noise: float = 6
    dip: float = DIP_PER_PIP  # DIP flexion per PIP flexion
    meets: int = -1  # what the thumb's pad meets: PAD or BACK + 1 for index .. + 4 for little; -1 nothing
    holds: int = NOTHING
    radius: tuple = (0, 0)  # range of the held object's, metres


OUT = (2, 2, 4)
IN = (86, -4, 106)
FIST = ((84, -3, 105), (87, -1, 107), (87, -4, 106), (85, -5, 105))
TUCKED = (9, 60, 34, 27, 45)  # the thumb over bent fingers
ASIDE = (24, 12, 0, 5, 5)  # along the index finger
AWAY = (62, 20, -5, -3, -8)
WRAP = ((85, -1, 105),) * 4  # how far a grasp closes if nothing stops it

GESTURES = {
    'relaxed': Gesture(12, ((24, 2, 30), (32, 0, 38), (37, 0, 42), (38, 2, 42)), (42, 30, 5, 10, 20), 9),
    'fist': Gesture(5, FIST, (28, 62, 30, 14, 58), 5, 0.75, BACK + 1),
    'fist_thumb_beside': Gesture(2, FIST, (26, 22, 5, 10, 15), 5, 0.75),
    'pointing': Gesture(6, (OUT, IN, IN, IN), TUCKED, 6, 0.75, BACK + 2),
    'two': Gesture(3, ((2, 9, 4), (2, -7, 4), IN, IN), (1, 60, 30, 30, 46), 6, 0.75, BACK + 3),
    'two_closed': Gesture(1, ((2, -5, 4), (2, 0, 4), IN, IN), (1, 60, 30, 30, 46), 6, 0.75, BACK + 3),
    'three': Gesture(2, ((2, 8, 4), OUT, (4, 6, 6), IN), (-10, 54, 27, 35, 43), 6, 0.75, BACK + 4),
    'three_with_thumb': Gesture(2, ((2, 9, 4), (2, -5, 4), IN, IN), AWAY, 6, 0.75),
    'four': Gesture(2, ((2, 6, 4), OUT, (2, 5, 4), (2, 9, 4)), (4, 35, 30, 40, 45)),
    'gun': Gesture(2, (OUT, IN, IN, IN), AWAY, 6, 0.75),
    'horns': Gesture(2, (OUT, IN, IN, (2, 8, 4)), TUCKED, 6, 0.75, BACK + 2),
    'little': Gesture(1, (IN, IN, IN, (4, 8, 4)), TUCKED, 6, 0.75, BACK + 2),
    'shaka': Gesture(2, (IN, IN, IN, (2, 12, 4)), AWAY, 6, 0.75),
    'thumb_up': Gesture(6, FIST, (66, 14, -8, -4, -12), 5, 0.75),
    'pinch': Gesture(5, ((50, 2, 60), (42, 0, 46), (42, 0, 46), (42, 0, 42)), (22, 62, 31, 12, 21), 6, 0.4, PAD + 1),
    'pinch_middle': Gesture(2, ((30, 2, 30), (54, 0, 64), (40, 0, 45), (35, 2, 40)), (8, 63, 25, 18, 25), 6, 0.4,
                            PAD + 2),
    'ok': Gesture(4, ((47, 4, 61), (22, 0, 18), (12, 5, 12), (6, 12, 8)), (23, 62, 31, 12, 22), 6, 0.4, PAD + 1),
    'beak': Gesture(2, ((71, -4, 30), (75, -1, 35), (75, -5, 32), (70, -8, 30)), (1, 64, 17, 13, 18), 5, 0.6, PAD + 2),
    'splayed': Gesture(7, ((-4, 16, 4), (-4, 0, 4), (-4, 12, 4), (-4, 22, 4)), (60, 26, -3, -2, -4), 10),
    'flat': Gesture(6, ((1, -5, 3), (1, -1, 3), (1, -4, 3), (1, -7, 3)), ASIDE, 7),
    'claw': Gesture(5, ((5, 6, 75), (5, 0, 78), (5, 5, 78), (5, 10, 72)), (52, 30, 10, 15, 45), 9, 0.8),
    'hook': Gesture(2, ((15, -3, 95), (15, 0, 98), (15, -4, 98), (15, -5, 92)), ASIDE, 7),
    'table_top': Gesture(2, ((80, -3, 5), (82, 0, 5), (82, -4, 5), (80, -6, 5)), ASIDE, 6),
    'ball': Gesture(9, ((85, 8, 100), (85, 0, 100), (85, 8, 100), (85, 16, 100)), (28, 62, 40, 35, 45), 5,
                    holds=BALL, radius=(0.022, 0.046)),
    'bar': Gesture(10, WRAP, (25, 60, 45, 40, 50), 5, holds=BAR, radius=(0.014, 0.036)),
    'tool': Gesture(6, WRAP, (22, 50, 45, 40, 50), 5, holds=BAR, radius=(0.006, 0.014)),
    'pen': Gesture(6, ((54, -1, 52), (58, -2, 58), (62, -4, 66), (64, -6, 68)), (19, 63, 29, 11, 19), 5, 0.4, PAD + 1,
                   holds=PEN, radius=(0.003, 0.006)),
    'bead': Gesture(5, ((45, 2, 56), (40, 0, 46), (42, 0, 48), (44, 2, 46)), (23, 60, 30, 12, 20), 6, 0.4, PAD + 1,
                    holds=BEAD, radius=(0.005, 0.016)),
    'free': Gesture(12, ((35, 2, 40), (35, 0, 40), (35, 2, 40), (35, 5, 40)), (38, 34, 12, 12, 18), 28),
    'open': Gesture(0, ((-2, 8, 8), (-2, 0, 8), (-2, 6, 8), (-2, 12, 8)), (36, 34, 6, 4, 6), 16),  # of a preset only
}  # fmt: skip


def table() -> dict[str, np.ndarray]:
    """The gestures' fields stacked, for indexing by gesture number; angles in degrees."""
    columns = zip(*GESTURES.values(), strict=True)
    arrays = {field: np.array(column) for field, column in zip(Gesture._fields, columns, strict=True)}
    return {
        field: a.astype(np.float32 if a.dtype.kind == 'f' or a.ndim > 1 else np.int32) for field, a in arrays.items()
    }
