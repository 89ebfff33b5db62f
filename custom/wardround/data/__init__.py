"""What a site's disk holds, and how it becomes arrays. NIfTI files are read only here,
in synthetic/ and in research/.
"""
