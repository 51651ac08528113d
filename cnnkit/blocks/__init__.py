"""Blocks of plain Keras layers: functions from a tensor to a tensor, which pruning sees through."""
