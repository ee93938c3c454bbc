"""The networks, and the layers that they consist of."""
