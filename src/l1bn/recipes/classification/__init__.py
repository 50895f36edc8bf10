"""Training a classifier, in float and in integers, and L1BN beside BatchNorm."""
