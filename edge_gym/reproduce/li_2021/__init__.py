"""Li et al. 2021, "Optimizing Resource Allocation for Joint AI Model Training and Task Inference
in Edge Intelligence Systems".

Li et al. 2021, Fig. 2: what one iteration with tasks costs, by method, model size and path loss.

The letter averages 10 draws of the channels; here there are more, and every method solves the same
ones at every point. GBE tries all combinations of parts as the optimum does, since ADMM under its
halves of the band does not end in every draw.
"""
