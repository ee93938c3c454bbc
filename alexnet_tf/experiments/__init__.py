"""The experiments as a whole: flagfiles and seeds, their runs one after another, and the table of all."""
