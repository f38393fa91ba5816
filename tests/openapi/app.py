"""An app for the server of these tests: a workflow that can be steered and asks, and a tool."""

from pydantic import BaseModel, Field

from tokentape import Run, tool, workflow


class Sheets(BaseModel):
    """What is graded."""

    pages: int = Field(ge=1, le=50)


class Slider(BaseModel):
    """How."""

    strictness: float = Field(0.5, ge=0, le=1)


@tool(approval="never")
def look(page: int) -> str:
    """Shows a page."""
    return f"page {page}"


@workflow("grading", input=Sheets, steering=Slider)
async def grading(run: Run) -> dict[str, object]:
    """Speaks, shows how far it is, and asks before it publishes."""
    pages = run.input.pages
    calls = [{"name": "look", "arguments": {"page": 1}}]
    await run.generate("demo", "Grade.", tools=[look], parameters={"tokens": 3, "rate": 0, "calls": calls})
    await run.progress(pages, pages, "pages", stage="reading")
    await run.step("sum up", lambda: pages)
    decision = await run.approve("publish", {"pages": pages})
    return {"published": decision.approved, "strictness": run.steering.strictness}
