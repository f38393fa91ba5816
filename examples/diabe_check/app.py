"""A food scanner: the picture of a label becomes a nutrition table, in three stages that a phone polls.

1. Tesseract reads the picture. 2. A model puts the words that it read in order. 3. The numbers are checked and
counted for a portion. What a stage found is in the log when the next begins: a server that takes the run over goes
on from there, and no poll does any of it again.

The built-in `demo` cannot read. It is told what to say: the nutrients that `nutrition.py` finds. For a label in
clear print, in English, German or French, that will do; so this runs without a key.
"""

from functools import lru_cache, partial
from typing import Annotated

from pydantic import BaseModel, Field

from tokentape import FileRef, Run, ToolError, workflow

from .label import draw_label
from .nutrition import NUTRIENTS, Table, make_table, tidy
from .text_recognition import UnreadablePicture, read_text

DEMO = "demo"
DEMO_RATE = 20
"""Words a second."""
STAGES = ("reading the picture", "understanding the label", "counting the portion")
TIDY = (
    "This text was read from the picture of a nutrition label, with mistakes. Write each of these nutrients on a "
    f"line of its own, with the value for 100 g or 100 ml: {', '.join(one.name for one in NUTRIENTS)}. "
    "As: `Fat: 18.2 g`. Write no nutrient that is not in the text, and nothing else."
)


class Scan(BaseModel):
    """What to read.

    `picture`: one that was sent to `/v1/files`; without it, the label that this example draws. `portion_grams`:
    how much is eaten. `model`: `demo`, `openai/<name>` or `anthropic/<name>`.
    """

    picture: FileRef | None = None
    portion_grams: Annotated[float, Field(gt=0, le=2_000)] = 50
    model: str = DEMO


@workflow("diabe_check", input=Scan, result=Table)
async def diabe_check(run: Run) -> Table:
    """The stages, one after the other; each is told before it begins."""
    scan: Scan = run.input
    await begin(run, 0)
    text: str = await run.step("read", partial(read, run, scan))
    await begin(run, 1)
    messages = [{"role": "system", "content": TIDY}, {"role": "user", "content": text}]
    parameters = {"say": tidy(text), "rate": DEMO_RATE} if scan.model == DEMO else {}
    tidied = await run.generate(scan.model, messages, parameters=parameters)
    await begin(run, 2)
    try:
        table = make_table(tidied.text, scan.portion_grams)
    except ValueError as error:
        raise ToolError(str(error)) from error
    await run.progress(len(STAGES), len(STAGES), "stages", stage="done")
    return table


async def begin(run: Run, stage: int) -> None:
    """Tells which stage begins."""
    await run.progress(stage, len(STAGES), "stages", stage=STAGES[stage])


async def read(run: Run, scan: Scan) -> str:
    """The text on the picture."""
    picture = sample() if scan.picture is None else await run.file(scan.picture)
    try:
        return await read_text(picture)
    except UnreadablePicture as error:
        raise ToolError(str(error)) from error


@lru_cache(maxsize=1)
def sample() -> bytes:
    """The example's own picture."""
    return draw_label()
