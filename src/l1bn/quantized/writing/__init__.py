"""What a trained integer network becomes: arrays for inference, or a float network again."""
