"""How large is every batch and time slot? Ren et al. 2021."""
