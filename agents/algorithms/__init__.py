"""Algorithms: what training, checkpoints, searches, imitation and recipes know of each."""
