"""Retransmit or accept what a device sent? Wen et al. 2019 §3.2."""
