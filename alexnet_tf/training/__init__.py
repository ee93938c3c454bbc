"""Training: update rule, learning rate schedules, parameter groups, step, loop, and actions such as checkpoints."""
