"""The door for apps: `from tokentape import workflow, tool, Run`, and what else an app has to name.

What stands here is what apps may rely on; everything behind it may change. Owns nothing.
"""

from server.generation.prompt import Turn
from server.generation.run import Decision, Run
from server.generation.turns import Generated
from server.upstream import UpstreamError
from server.workflows import ToolError, tool, workflow

__all__ = ["Decision", "Generated", "Run", "ToolError", "Turn", "UpstreamError", "tool", "workflow"]
