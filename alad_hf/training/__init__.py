"""Training by the stock Trainer."""
