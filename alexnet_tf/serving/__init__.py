"""From a trained network to answers: exports for TensorFlow Serving, and their clients."""
