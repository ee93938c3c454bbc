"""From a trained network to files that others load: SavedModel and what is deployed with it."""
