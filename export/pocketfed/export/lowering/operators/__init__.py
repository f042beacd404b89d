"""ATen operators written as matrix products and moves of memory, each a plain function of tensors."""
