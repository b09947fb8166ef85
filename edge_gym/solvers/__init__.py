"""Exact and published methods for the documents' allocation problems: arrays in, arrays out."""
