"""What the tests stand on: databases, server processes, clients. Nothing here asserts about the product."""
