"""Constraints that Keras lacks."""

from cnnkit.constraints.clip import Clip as Clip
