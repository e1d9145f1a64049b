"""Speed and memory of StratDiff beside its peers."""
