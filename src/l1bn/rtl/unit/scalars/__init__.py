"""What the unit computes once per channel, as states of a program."""
