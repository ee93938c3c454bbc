"""From a configuration to a run: training, evaluation, report, export, neighbors."""
