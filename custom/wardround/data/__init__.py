"""Floor 2: what a site's disk holds and how it becomes arrays. nibabel is imported only here, when a file is read."""
