"""Right hands that the project renders itself: mesh, poses, camera, renderer, and the TFDS builder."""
