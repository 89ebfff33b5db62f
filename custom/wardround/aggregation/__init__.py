"""How is one update made of all? By the mean, or by rules against hostile sites."""
