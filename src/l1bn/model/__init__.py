"""What holds for any model: what cannot be changed, copies that are tried, and reports."""
