"""2-D hand pose estimation in JAX/Flax: one photo of a hand in, 21 keypoints out."""
