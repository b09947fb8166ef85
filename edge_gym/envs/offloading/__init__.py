"""What is offloaded while a model is trained? Li et al. 2021."""
