"""What a hospital never runs: attacks on a federation, in one process, to measure what a rule is worth."""
