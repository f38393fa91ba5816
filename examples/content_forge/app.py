"""The article studio: a job is a topic, its result one article.

Owns what a job may ask for, and how an article is made: headings, then one section after the other. Each section
is an answer of the model, so a run that another server takes up goes on behind the last one that was finished.
Must not know who asks: jobs are started and looked at over plain REST.
"""

import os
import re
import unicodedata
from typing import Annotated, Any
from zlib import crc32

from pydantic import BaseModel, Field, StringConstraints

from tokentape import Run, ToolError, workflow

RATE = float(os.environ.get("CONTENT_FORGE_RATE", "40"))
"""Tokens a second of the `demo` model: 40 is faster than people read."""

RULES = "You write for the journal of a small museum of clocks: plain words, short sentences, no lists."


class Job(BaseModel):
    """What to write about. `words`: of each section. `model`: `demo`, `openai/<name>` or `anthropic/<name>`."""

    topic: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    sections: Annotated[int, Field(ge=1, le=8)] = 3
    words: Annotated[int, Field(ge=10, le=400)] = 60
    model: str = "demo"


class Section(BaseModel):
    """Plain text; its paragraphs have an empty line between them."""

    heading: str
    text: str


class Article(BaseModel):
    """The result. `slug` is the topic as it may stand in an address."""

    title: str
    slug: str
    sections: list[Section]
    words: int


@workflow("content_forge", input=Job, result=Article)
async def content_forge(run: Run) -> Article:
    """Writes an article, section by section."""
    job: Job = run.input
    headings = await choose_headings(run, job)
    sections: list[Section] = []
    for heading in headings:
        await run.progress(len(sections), len(headings), "sections", stage=heading)
        question = f"Write about {job.words} words on “{heading}”, for an article on “{job.topic}”."
        answer = await run.generate(
            job.model,
            [{"role": "system", "content": RULES}, {"role": "user", "content": question}],
            parameters=played(job, heading) if job.model == "demo" else {},
        )
        if answer.finish_reason != "stop":  # half a section is no section
            raise ToolError(f"The model broke off in “{heading}”: {answer.finish_reason}.")
        sections.append(Section(heading=heading, text=answer.text.strip()))
        await run.token("\n\n")  # who reads along sees where a section ends
    await run.progress(len(sections), len(headings), "sections")
    words = sum(len(section.text.split()) for section in sections)
    return Article(
        title=job.topic[:1].upper() + job.topic[1:], slug=slug(job.topic), sections=sections, words=words
    )


async def choose_headings(run: Run, job: Job) -> list[str]:
    """As many headings as the job wants. The `demo` model has no ideas of its own: for it they stand here."""
    if job.model == "demo":
        usual = ["Where it began", "How it works", "Who keeps it going", "What went wrong", "A day with it"]
        usual += ["What it costs", "What people say", "What comes next"]
        return usual[: job.sections]
    question = f"Give {job.sections} headings for an article on “{job.topic}”, each on a line, and nothing else."
    answer = await run.generate(job.model, [{"role": "user", "content": question}])
    found = [line.strip(" \t-*#0123456789.") for line in answer.text.splitlines()]
    headings = [line[:200] for line in found if line][: job.sections]
    if not headings:
        raise ToolError("The model gave no headings.")
    return headings


def slug(topic: str) -> str:
    """The topic in small ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", topic).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80] or "article"


def played(job: Job, heading: str) -> dict[str, Any]:
    """What the `demo` model is told: the same topic and heading give the same text."""
    return {"tokens": job.words, "rate": RATE, "seed": crc32(f"{job.topic}\n{heading}".encode())}
