"""Generative adversarial networks with L1BN or BatchNorm: DCGAN and WGAN-GP."""
