"""How many bytes of an update leave a site: half precision, quantisation, sparsification, low
rank; each one is a stage.
"""
