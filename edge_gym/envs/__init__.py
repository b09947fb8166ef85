"""One file per decision problem; ``core`` runs them all."""
