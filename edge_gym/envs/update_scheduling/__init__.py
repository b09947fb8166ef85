"""Whose model update is uploaded in this round? Wen et al. 2019 §5."""
