"""What a site's disk holds and how it becomes arrays. Only here, in synthetic and in research is a NIfTI file read."""
