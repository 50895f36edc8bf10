"""Training recipes: data, models, classification, and the comparison of L1BN with BN.

Needs the extra ``recipes``.
"""
