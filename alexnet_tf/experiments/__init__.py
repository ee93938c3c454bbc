"""Runs experiments with several seeds, collects their results, and tabulates them next to the paper's."""
