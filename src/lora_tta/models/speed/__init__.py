"""Kernels, graphs and streaming of weights."""
