"""Which channels stay: decided before anything is touched, as a value that can be read, stored and edited."""
