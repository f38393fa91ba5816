"""The infrastructure of the tests: databases, server processes, clients. Nothing here asserts about the
product.
"""
