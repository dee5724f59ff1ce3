"""Measuring: metrics, the benchmarks' protocols, tables beside the paper's rows."""
