"""Commands that measure, each run from the repository's root by ``python -m``."""
