"""How fast the loader and the networks run."""
