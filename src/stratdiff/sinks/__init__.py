"""Where a run's metrics go: one file each."""
