"""Errors, ensembles and nearest neighbors of trained networks."""
