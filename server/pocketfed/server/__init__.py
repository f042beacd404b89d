"""The server: Flower rounds over folds, a guard before every fold, checkpoints."""
