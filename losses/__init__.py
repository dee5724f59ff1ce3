"""The losses of the two stages."""
