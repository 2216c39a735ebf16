"""The sections of the comparison, and what they share."""
