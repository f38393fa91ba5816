"""Grades texts: one live, by a slider that people move meanwhile, and many papers in a batch.

`live_grading` writes its feedback word by word. When the slider is moved, the sentence that is being graded is
graded anew, in the middle of its feedback. The third part of the app, the tutor, is a plain chat with a model: it
needs no code here.
"""

from functools import partial
from typing import Annotated

import trio
from pydantic import BaseModel, Field

from tokentape import FileRef, Run, workflow

from .marking_rules import Mark, mark, split
from .papers import UnreadablePaper, read_pages

Strictness = Annotated[int, Field(ge=1, le=10)]
"""1 lets nearly everything pass, 10 nothing."""


class Essay(BaseModel):
    """What to grade. `pace`: seconds between words of the feedback, for people who watch."""

    text: Annotated[str, Field(min_length=1, max_length=100_000)]
    pace: Annotated[float, Field(ge=0, le=5)] = 0.05


class Dials(BaseModel):
    """What people turn while it grades."""

    strictness: Strictness = 5


class Grades(BaseModel):
    """All marks, in the order of the text."""

    marks: list[Mark]
    average: float


@workflow("live_grading", input=Essay, result=Grades, steering=Dials)
async def live_grading(run: Run) -> Grades:
    """Each sentence is a step: a run taken up again keeps the marks it gave, and goes on behind them."""
    sentences = split(run.input.text)
    marks: list[Mark] = []
    for number, sentence in enumerate(sentences):
        await run.progress(number, len(sentences), "sentences", stage=sentence)
        marks.append(Mark.model_validate(await run.step("sentence", partial(grade, run, sentence))))
    await run.progress(len(sentences), len(sentences), "sentences")
    return Grades(marks=marks, average=round(sum(one.mark for one in marks) / len(marks), 1))


async def grade(run: Run, sentence: str) -> Mark:
    """Writes the feedback, and begins anew whenever the slider was moved meanwhile; the mark that counts."""
    given = None
    while True:
        again = given is not None
        given = mark(sentence, run.steering.strictness)
        if again:
            await run.token(f"… Now at strictness {given.strictness}: ")
        for word in f"{given.mark}/10. {' '.join(given.remarks)}".split(" "):
            await run.token(f"{word} ")
            # What this run knows is as of its last event. So the dial is read right behind one.
            if run.steering.strictness != given.strictness:
                break
            await trio.sleep(run.input.pace)
        else:
            return given


class Paper(BaseModel):
    """A PDF that was uploaded."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    file: FileRef


class Batch(BaseModel):
    """What to grade. `pace`: seconds that a page takes at least, for people who watch."""

    papers: Annotated[list[Paper], Field(min_length=1, max_length=30)]
    strictness: Strictness = 5
    pace: Annotated[float, Field(ge=0, le=10)] = 0.5


class PaperGrades(BaseModel):
    """One paper's: either `average` and `worst`, its worst sentence, or `trouble`, why there are none."""

    name: str
    pages: int = 0
    sentences: int = 0
    average: float | None = None
    worst: Mark | None = None
    trouble: str | None = None


class BatchGrades(BaseModel):
    """All papers, in the order in which they were handed in."""

    papers: list[PaperGrades]


@workflow("batch_grading", input=Batch, result=BatchGrades)
async def batch_grading(run: Run) -> BatchGrades:
    """Each page is a step: a run taken up again grades none twice. A paper that cannot be read stops no other."""
    batch: Batch = run.input
    papers = [await read(run, paper) for paper in batch.papers]
    total = sum(len(pages) for pages in papers if isinstance(pages, list))
    done = 0
    grades: list[PaperGrades] = []
    for paper, pages in zip(batch.papers, papers, strict=True):
        if isinstance(pages, str):
            grades.append(PaperGrades(name=paper.name, trouble=pages))
        else:
            marks: list[Mark] = []
            for text in pages:
                await run.progress(done, total, "pages", stage=paper.name)
                given = await run.step("page", partial(grade_page, text, batch.strictness, batch.pace))
                marks += [Mark.model_validate(one) for one in given]
                done += 1
            grades.append(summarise(paper.name, len(pages), marks))
        await run.token(describe(grades[-1]))
    await run.progress(done, total, "pages")
    return BatchGrades(papers=grades)


async def read(run: Run, paper: Paper) -> list[str] | str:
    """The pages of a paper, or why it cannot be read. No step: texts of whole papers are too much for the log."""
    try:
        return await read_pages(await run.file(paper.file))
    except UnreadablePaper as error:
        return str(error)


async def grade_page(text: str, strictness: int, pace: float) -> list[Mark]:
    """The marks of a page's sentences; none of an empty page."""
    await trio.sleep(pace)
    return [mark(sentence, strictness) for sentence in split(text)] if text else []


def summarise(name: str, pages: int, marks: list[Mark]) -> PaperGrades:
    """What is told of a paper."""
    average = round(sum(one.mark for one in marks) / len(marks), 1)
    worst = min(marks, key=lambda one: one.mark)
    return PaperGrades(name=name, pages=pages, sentences=len(marks), average=average, worst=worst)


def describe(grades: PaperGrades) -> str:
    """A line for those who watch."""
    told = f"{grades.average} of 10" if grades.trouble is None else f"not graded. {grades.trouble}"
    return f"{grades.name}: {told}\n"
