"""Algorithms, the training loop, checkpoints and the command line."""
