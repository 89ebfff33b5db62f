"""What a hospital never runs: partitions, sweeps, baselines, attacks, a federation in one process."""
