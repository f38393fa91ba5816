"""Summarises a PDF page by page, and answers questions about it.

Two workflows. `doc_summ` is a job of a minute, which people poll: "12 of 47 pages". `doc_ask` answers a message of
a conversation from the document's pages, and is read as a stream.

A model is asked once for each page. Its answer is in the log before the next page begins, so a server that takes
the job over asks for no page again that was answered. People who poll read the log, and ask no model.

The built-in `demo` cannot read. It is told what to say: the sentences that `sentence_ranking.py` picks. So this
runs without a key, and with the name of another model nothing else changes.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, Field

from tokentape import FileRef, Generated, Run, ToolError, TranscriptMessage, workflow

from .handbook import write_handbook
from .pdf_pages import Page, UnreadablePdf, read_pages
from .sentence_ranking import best_sentences, find_answers, weigh_words

DEMO = "demo"
FOUND_PAGES = 4
"""Pages of the document that a question is answered from."""
SUMMARISE_PAGE = "Summarise this page of a document in one sentence. Say nothing that is not on it."
SUMMARISE_WHOLE = "These are the summaries of a document's pages. Summarise the document in five sentences."
ANSWER = "Answer from these pages of a document, and name the page of each fact. If they do not say it, say so."


class Document(BaseModel):
    """What both workflows are given.

    `document`: a PDF that was sent to `/v1/files`; without it, the handbook that this example makes. `model`:
    `demo`, `openai/<name>` or `anthropic/<name>`. `rate`: words a second of the demo, for people who watch; 0: as
    fast as it goes.
    """

    document: FileRef | None = None
    model: str = DEMO
    rate: Annotated[float, Field(ge=0, le=1_000)] = 30


class Question(Document):
    """`question`: the position of the message that asks, in the conversation. Others may ask meanwhile."""

    question: Annotated[int, Field(ge=1)]


class PageSummary(BaseModel):
    """One page's; `page` counts from 1."""

    page: int
    summary: str


class Summary(BaseModel):
    """Of the pages that have text, and of the whole."""

    pages: list[PageSummary]
    whole: str


@workflow("doc_summ", input=Document, result=Summary)
async def doc_summ(run: Run) -> Summary:
    """Page after page, then the whole."""
    pages = await read(run)
    weights = weigh_words([page.text for page in pages])
    summaries: list[PageSummary] = []
    for done, page in enumerate(pages):
        await run.progress(done, len(pages), "pages", stage="summarising the pages")
        await run.token(f"Page {page.number}: ")
        picked = " ".join(best_sentences(page.text, weights, 1))
        said = await ask(run, SUMMARISE_PAGE, [{"role": "user", "content": page.text}], picked)
        await run.token("\n")
        summaries.append(PageSummary(page=page.number, summary=said.text.strip()))
    await run.progress(len(pages), len(pages), "pages", stage="summarising the whole")
    together = [one.summary for one in summaries]
    picked = " ".join(best_sentences(" ".join(together), weigh_words(together), 5))
    whole = await ask(run, SUMMARISE_WHOLE, [{"role": "user", "content": "\n".join(together)}], picked)
    return Summary(pages=summaries, whole=whole.text.strip())


@workflow("doc_ask", input=Question)
async def doc_ask(run: Run) -> None:
    """The answer to one message of the conversation. What was said before it is told to the model, too."""
    asked: Question = run.input
    said = [turn for turn in await run.context() if turn.position <= asked.question]
    if not said or said[-1].position != asked.question:
        raise ToolError(f"There is no message at position {asked.question} of this conversation.")
    pages = await read(run)
    found = find_answers(said[-1].text, [page.text for page in pages], FOUND_PAGES)
    shown = "\n\n".join(f"Page {pages[place].number}:\n{pages[place].text}" for place, _ in found)
    picked = [f"{sentence} (page {pages[place].number})" for place, sentence in found]
    await ask(run, f"{ANSWER}\n\n{shown}", said, picked[0] if picked else "No page has a word of this question.")


async def ask(
    run: Run, task: str, messages: Sequence[dict[str, str] | TranscriptMessage], picked: str
) -> Generated:
    """What the model says; the demo says what was picked. No later attempt asks it again."""
    asked: Document = run.input
    parameters = {"say": picked, "rate": asked.rate} if asked.model == DEMO else {}
    prompt = [{"role": "system", "content": task}, *messages]
    return await run.generate(asked.model, prompt, parameters=parameters)


async def read(run: Run) -> list[Page]:
    """The document's pages. Each attempt and each question reads them anew: that asks no model."""
    job: Document = run.input
    pdf = handbook() if job.document is None else await run.file(job.document)
    try:
        return await read_pages(pdf)
    except UnreadablePdf as error:
        raise ToolError(str(error)) from error


@lru_cache(maxsize=1)
def handbook() -> bytes:
    """The example's own document."""
    return write_handbook()
