"""What a quality encoder tells apart: neighbours, probes, t-SNE, Grad-CAM."""
