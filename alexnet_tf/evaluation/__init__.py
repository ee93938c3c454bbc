"""Errors and figures of a trained network."""
