"""The report: one HTML page with all that it shows inside, so it opens without a network."""
