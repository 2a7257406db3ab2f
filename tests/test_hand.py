from hpe_jax import hand


def test_every_joint_but_the_wrist_is_on_one_finger():
    assert sorted(j for joints in hand.FINGERS.values() for j in joints) == list(range(1, 21))
    assert hand.NUM_KEYPOINTS == 21 and len(set(hand.JOINTS)) == 21
    assert hand.COLOURS.keys() == hand.FINGERS.keys()


def test_parents_run_down_each_finger_to_the_wrist():
    for finger, joints in hand.FINGERS.items():
        assert [hand.PARENTS[j] for j in joints] == [0, *joints[:-1]]
        assert all(hand.JOINTS[j].startswith(finger) for j in joints)
        assert hand.JOINTS[joints[-1]] == f'{finger}_tip'
