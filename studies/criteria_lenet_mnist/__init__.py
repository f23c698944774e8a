"""One training run, several criteria: what SNR and Bayesian model reduction make of the same noise."""
