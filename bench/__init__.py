"""Evaluation: measures with the names and tie rules of ir-measures, evaluate, statistics, benchmarks."""
