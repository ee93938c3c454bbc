"""Benchmarks: ratios of the speed of two implementations on one machine (``alexnet-tf benchmark``)."""
