"""What is measured against what: ratios of two sides in one process (`tools/benchmark.py`)."""
