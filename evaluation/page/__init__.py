"""The report: one HTML page with all that it shows inside, so that it opens offline."""
