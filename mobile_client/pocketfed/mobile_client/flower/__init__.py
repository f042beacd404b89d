"""A phone as a node of Flower's Fleet API: HTTP, protobuf and one EC key; nothing of Flower itself."""
