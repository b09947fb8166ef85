"""Whose sample is uploaded next? Wen et al. 2019 §4."""
