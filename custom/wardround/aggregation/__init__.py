"""How is one update made of those of the sites? By the mean, and by rules against
hostile sites.
"""
