"""Networks, and their weights as one vector, as named blocks and on disk.

monai and timm are imported only when a network is built.
"""
