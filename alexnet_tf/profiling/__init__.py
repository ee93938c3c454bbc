"""What each device does in a training step, and where the time goes."""
