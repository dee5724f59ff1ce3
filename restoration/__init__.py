"""Stage 2: the networks that restore a JPEG image, guided by the frozen quality encoder."""
