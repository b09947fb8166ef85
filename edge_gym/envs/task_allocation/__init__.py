"""How are samples and local updates split over learners? Mohammad et al. 2020."""
