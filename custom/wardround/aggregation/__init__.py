"""How one update is made out of those of the sites: the mean, and rules against hostile sites."""
