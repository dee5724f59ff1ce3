"""Figures of restored images and of scores; those of the encoder are in `evaluation.encoder.plots`."""
