"""What ids look like in an address: `<conv:…>`, `<gen:…>`, `<call:…>` in routes.

What is no id, whatever bytes it has, matches no route: a 404 of the router, before any handler, key or statement
could see it.
"""

from quart_trio import QuartTrio
from werkzeug.routing import BaseConverter

from server import ids


class ConversationId(BaseConverter):
    """`conv_…`"""

    regex = ids.shape("conv").strip("^$")


class GenerationId(BaseConverter):
    """`gen_…`"""

    regex = ids.shape("gen").strip("^$")


class CallId(BaseConverter):
    """`call_…`"""

    regex = ids.shape("call").strip("^$")


def install(app: QuartTrio) -> None:
    """Makes them known; before any route that names one."""
    app.url_map.converters |= {"conv": ConversationId, "gen": GenerationId, "call": CallId}
