"""`tokentape`: what an app imports is what the server knows, and all of it."""

import tokentape
from server.workflows import Tool, Workflow


def test_what_apps_are_given() -> None:
    assert sorted(tokentape.__all__) == sorted(
        ["Decision", "Generated", "Run", "ToolError", "TranscriptMessage", "UpstreamError", "tool", "workflow"]
    )
    assert all(hasattr(tokentape, name) for name in tokentape.__all__)


def test_a_tool_is_given_the_run_and_a_workflow_is_one() -> None:
    @tokentape.tool
    async def look(what: str, run: tokentape.Run) -> str:
        """Looks."""
        return what

    @tokentape.workflow("look")
    async def looking(run: tokentape.Run) -> None: ...

    assert isinstance(look, Tool)
    assert list(look.schema["properties"]) == ["what"]
    assert isinstance(looking, Workflow)
