"""What a hospital never runs: partitions, sweeps, baselines, attacks, one process."""
