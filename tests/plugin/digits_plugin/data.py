"""scikit-learn's digits: 8x8 images of handwritten digits."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits


def load():
    """Return the pairs of arrays for training and test."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    return (images[:1200], digits.target[:1200]), (images[1200:], digits.target[1200:])
