"""Sorour et al. 2020, "Returning the Favor: What Wireless Networking Can Offer to AI and Edge
Learning"."""
