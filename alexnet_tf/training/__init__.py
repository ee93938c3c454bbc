"""Learning: update rule, schedules, step, loop, and what a run does besides."""
