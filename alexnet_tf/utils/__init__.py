"""Atomic files, one-line messages and a description of the machine, for every part of the package."""
