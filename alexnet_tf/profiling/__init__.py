"""What each device does in a step, and where the time goes."""
