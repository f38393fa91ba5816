"""What an app imports: `from tokentape import workflow, tool, Run`, and the other names that it needs.

An app is a module that declares workflows and tools. A server loads it by name:

    # my_app.py
    from tokentape import Run, tool, workflow

    @tool(approval="always")
    def refund(order: str, cents: int) -> str:
        "Pays an order back."
        return f"{cents} cents of {order} are paid back."

    @workflow("answer_customer", input=str)
    async def answer_customer(run: Run) -> None:
        await run.generate("openai/gpt-5", run.input, tools=[refund])

    $ tokentape serve --workflows my_app

The names in `__all__` are what apps may rely on. Everything behind them may change with the next version.
"""

from tokentape_packages import explain_import_error

try:
    from server.conversations.prompt import TranscriptMessage
    from server.generations.agent_loop import Generated
    from server.generations.run_context import Decision, Run
    from server.message_parts import FilePart, ImagePart, TextPart
    from server.providers import UpstreamError
    from server.workflows import FileRef, ToolError, tool, workflow
except ImportError as error:  # the app's folder may hold a module that is called `server` or `eventstore`
    raise explain_import_error(error) from error

__all__ = [
    "Decision",
    "FilePart",
    "FileRef",
    "Generated",
    "ImagePart",
    "Run",
    "TextPart",
    "ToolError",
    "TranscriptMessage",
    "UpstreamError",
    "tool",
    "workflow",
]
