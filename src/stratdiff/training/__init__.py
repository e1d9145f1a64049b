"""Training: state, phases, evaluation, checkpoints, the run that ties them together."""
