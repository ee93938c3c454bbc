"""The programs, one file each: flags, and a main that calls one function of `runs`, `experiments` or `benchmarks`."""
