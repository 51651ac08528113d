"""Measurements behind the tables of this folder."""

import cnnkit  # noqa: F401  # Before Keras: it says how TensorFlow is to compute.
