"""How one update is made out of those of the sites: the mean, and rules that bound what a few hostile sites can do."""
