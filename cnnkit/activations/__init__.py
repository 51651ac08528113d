"""Activations that Keras lacks."""
