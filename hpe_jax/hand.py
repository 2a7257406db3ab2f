"""The 21 keypoints of a right hand: facts of the hand, in FreiHAND's order, and nothing that is tuned.

            8   12  16  20      tips
        4   7   11  15  19      DIP   (thumb: 4 tip, 3 IP, 2 MCP, 1 CMC)
        3   6   10  14  18      PIP
        2   5   9   13  17      MCP
        1       0               wrist

A mirrored picture of a right hand is a left hand and keeps this order, so it needs no permutation.
"""

FINGERS = {
    'thumb': (1, 2, 3, 4),
    'index': (5, 6, 7, 8),
    'middle': (9, 10, 11, 12),
    'ring': (13, 14, 15, 16),
    'little': (17, 18, 19, 20),
}

# The colours of the reference's pictures (matplotlib's g, c, b, m, r), a little brighter on photos.
COLOURS = {
    'thumb': '#2ca02c',
    'index': '#17becf',
    'middle': '#1f4fff',
    'ring': '#e236e2',
    'little': '#ee2222',
}

JOINTS = ('wrist', 'thumb_cmc', 'thumb_mcp', 'thumb_ip', 'thumb_tip') + tuple(
    f'{finger}_{joint}' for finger in ('index', 'middle', 'ring', 'little') for joint in ('mcp', 'pip', 'dip', 'tip')
)

NUM_KEYPOINTS = len(JOINTS)

# PARENTS[k] is the joint that bone k starts from; the wrist has none.
PARENTS = (-1,) + tuple(k - 1 if k % 4 != 1 else 0 for k in range(1, NUM_KEYPOINTS))

# Orders of other data sets: ORDERS[name][k] is where they have joint k.
_TIPS_FIRST = tuple(4 * (k // 4) + 3 - k % 4 for k in range(20))
ORDERS = {
    'freihand': tuple(range(NUM_KEYPOINTS)),  # also OneHand10K, Panoptic, COCO-WholeBody, MediaPipe
    'rhd': (0, *(1 + k for k in _TIPS_FIRST)),  # the wrist, then each finger from its tip
    'interhand': (20, *_TIPS_FIRST),  # each finger from its tip, the wrist last
}
