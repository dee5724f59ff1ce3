"""Stage 1: the compression quality encoder, its contrastive training, and reading a quality off its representation."""
