"""What a hospital never runs: attacks on a federation, to measure what a rule is worth."""
