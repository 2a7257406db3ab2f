"""MediaPipe's hand landmark model on crops, each rotated and scaled as that model wants it. Apache-2.0, Google.

    pip install ai-edge-litert && pip install --no-deps mediapipe==0.10.21    (for the model's file alone)

MediaPipe finds that crop by a palm detector, or in a video from the landmarks before. Here the model sees the crop
in four directions, and the surest answer's landmarks give the square of MediaPipe's own rule, REFINE times.
"""

import importlib.util
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from hpe_jax import geometry
from hpe_jax.errors import UserError

SIZE = 224  # of the model's input, pixels
REFINE = 2
PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)  # the landmarks that its rule puts a square around
SCALE, RAISE = 2.0, 0.1  # of that square, and how far towards the fingers it moves, in heights of their box
FILE = 'modules/hand_landmark/hand_landmark_full.tflite'


class MediaPipe:
    """The model; `predict` as that of a trained_model.TrainedModel, but for heatmaps.

    Raises:
      UserError: the wheel or the TFLite runtime is not installed.
    """

    def __init__(self):
        package = importlib.util.find_spec('mediapipe')
        path = Path(package.origin).parent / FILE if package and package.origin else Path(FILE)
        if not path.is_file() or importlib.util.find_spec('ai_edge_litert') is None:
            raise UserError(
                '--models=mediapipe: its landmark model was not found; '
                'pip install ai-edge-litert && pip install --no-deps mediapipe==0.10.21'
            )
        self._path = str(path)

    @cached_property
    def _interpreter(self):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(self._path)
        interpreter.allocate_tensors()
        return interpreter

    def predict(self, images: list[UInt8[np.ndarray, 'h w 3']]) -> Float[np.ndarray, 'n 21 2']:
        """The keypoints of one hand in each image, normalised."""
        return np.array([self._keypoints(image) / image.shape[1::-1] for image in images], np.float32)

    def _keypoints(self, image: UInt8[np.ndarray, 'h w 3']) -> Float[np.ndarray, '21 2']:
        """In pixels of the image."""
        size = np.array(image.shape[1::-1], np.float64)
        tried = [
            self._landmarks(image, upright(size / 2, size.max(), degrees)) for degrees in (0.0, 90.0, 180.0, 270.0)
        ]
        keypoints, _ = max(tried, key=lambda answer: answer[1])
        for _ in range(REFINE):
            keypoints, _ = self._landmarks(image, upright(*square_of(keypoints)))
        return keypoints

    def _landmarks(self, image: UInt8[np.ndarray, 'h w 3'], matrix: Float[np.ndarray, '2 3']) -> tuple:
        """The keypoints, in pixels of the image, and how sure the model is of a hand, as it sees the image there."""
        model = self._interpreter
        (given,), outputs = model.get_input_details(), model.get_output_details()
        model.set_tensor(given['index'], np.asarray(_warp(image, np.float32(matrix)))[None] / np.float32(255))
        model.invoke()
        landmarks, score = (model.get_tensor(outputs[i]['index']) for i in (0, 1))
        found = landmarks.reshape(21, 3)[:, :2].astype(np.float64)
        return geometry.transform(found, geometry.inverse(matrix)), float(score.item())


_warp = jax.jit(lambda image, matrix: geometry.warp(image, matrix, (SIZE, SIZE)))


def upright(centre: Float[np.ndarray, '2'], side: float, degrees: float) -> Float[np.ndarray, '2 3']:
    """From pixels of an image to those of the model's input: the square about `centre`, turned counter-clockwise."""
    return geometry.similarity(centre, np.full(2, SIZE / 2), SIZE / side, degrees)


def square_of(keypoints: Float[np.ndarray, '21 2']) -> tuple[Float[np.ndarray, '2'], float, float]:
    """MediaPipe's square around a hand: centre and side, pixels, and the turn that has fingers point up, degrees."""
    wrist, knuckles = keypoints[0], (keypoints[5] / 2 + keypoints[13] / 2 + keypoints[9]) / 2
    degrees = 90 - float(np.degrees(np.arctan2(wrist[1] - knuckles[1], knuckles[0] - wrist[0])))
    turn = geometry.similarity(np.zeros(2), np.zeros(2), 1.0, degrees)
    palm = geometry.transform(keypoints[list(PALM)], turn)
    low, high = palm.min(0), palm.max(0)
    centre = (low + high) / 2 - [0, RAISE * (high - low)[1]]
    return geometry.transform(centre, geometry.inverse(turn)), SCALE * float((high - low).max()), degrees
