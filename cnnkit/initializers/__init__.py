"""Initialisers that Keras lacks."""
