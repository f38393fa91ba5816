"""The API's own description: `/openapi.json` for programs, `/docs` and `/` for people.

Owns what is said of every operation, and takes every shape and bound from the code that uses it. It serves
nothing else, and no other room needs it.
"""

from server.web.openapi.docs_page import document, routes

__all__ = ["document", "routes"]
