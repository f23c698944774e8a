"""A plan carried out: with zeros at full size, physically, again from its record, and in the middle of training."""
