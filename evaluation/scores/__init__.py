"""Scores of restored images: metrics, image sets, the protocol, the paper's tables, guidance."""
