"""Photographs, from where they are to batches on the device."""
