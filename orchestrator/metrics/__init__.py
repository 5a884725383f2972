"""Measurements of a network: sizes, MACs, latency. (Accuracy is measured where it is trained.)"""
