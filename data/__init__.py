"""Images in, training samples out: JPEG coding, luma, packed pixels, the two training sets."""
