"""A network in a page of its own, which learns there."""
