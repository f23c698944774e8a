"""What the studies of Stochastic Batch Normalization share: networks that are asked, rows, tables and pictures."""
