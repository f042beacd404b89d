"""`pocketfed bench`: what a learning step costs on this machine, next to PyTorch and to other toolkits."""
