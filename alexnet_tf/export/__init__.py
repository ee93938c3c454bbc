"""Writes trained networks in the formats that other programs load, and the files to deploy them."""
