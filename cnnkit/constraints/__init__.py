"""Constraints that Keras lacks."""
