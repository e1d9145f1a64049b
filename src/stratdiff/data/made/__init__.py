"""Data sets made here from policies that ship with the package, by D4RL's recipes."""
