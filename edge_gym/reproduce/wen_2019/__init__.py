"""Wen et al. 2019, "An Overview of Data-Importance Aware Radio Resource Management for Edge
Machine Learning"."""
