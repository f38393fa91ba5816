"""Processes beside the one that measures, so that none of them costs another its time.

Each is told what to do on its standard input, answers with JSON lines, and ends when its input does: none can
outlive a benchmark, however that ends.
"""
