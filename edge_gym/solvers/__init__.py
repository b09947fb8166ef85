"""Exact and published methods for allocation problems: arrays in, arrays out."""
