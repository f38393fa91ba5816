"""The package `tokentape` that apps import: its names, and that they are the server's own."""

import tokentape
from server.workflows import Tool, Workflow


def test_public_names() -> None:
    words = "Decision FilePart FileRef Generated ImagePart Run TextPart ToolError TranscriptMessage UpstreamError"
    assert sorted(tokentape.__all__) == sorted([*words.split(), "tool", "workflow"])
    assert all(hasattr(tokentape, name) for name in tokentape.__all__)


def test_tool_gets_the_run_and_workflow_is_a_workflow() -> None:
    @tokentape.tool
    async def look(what: str, run: tokentape.Run) -> str:
        """Looks."""
        return what

    @tokentape.workflow("look")
    async def looking(run: tokentape.Run) -> None: ...

    assert isinstance(look, Tool)
    assert list(look.schema["properties"]) == ["what"]
    assert isinstance(looking, Workflow)
