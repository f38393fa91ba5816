"""A fake provider that follows a script of text batches, pauses and failures, and counts its open answers.

It implements the protocols of `server.providers.interface`, and sees what a provider would see: when an
answer is opened, and that it is closed.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import trio

from server.providers import Answer, BadParameters, Chunk, Finish, Message, Prompt, Provider, ProviderRegistry

Step = Sequence[Chunk] | float | BaseException
"""A batch of chunks, seconds of silence (`inf`: for ever), or what is raised."""
FOREVER = float("inf")
FINISH = Finish("stop", {"input_tokens": 1, "output_tokens": 2})
PROMPT = Prompt("fake", (Message("user", "hi"),), {})


class FakeUpstream:
    """A `Provider`. Every answer is the whole script; `opening` and `closing` are seconds that take, `repaired`
    is how many characters each had replaced.

    `opened` counts the answers, `open` those that are not closed yet, `asked` the prompts.
    """

    def __init__(
        self,
        *script: Step,
        finish: Finish | None = FINISH,
        opening: float = 0,
        closing: float = 0,
        repaired: int = 0,
    ) -> None:
        self._script = script
        self._finish = finish
        self._opening = opening
        self._closing = closing
        self._repaired = repaired
        self.asked: list[Prompt] = []
        self.opened = 0
        self.open_now = 0

    def check(self, prompt: Prompt) -> None:
        if "bad" in prompt.parameters:
            raise BadParameters("parameters.bad", "is bad")

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        self.asked.append(prompt)
        self.opened += 1
        self.open_now += 1
        try:
            await trio.sleep(self._opening)
            yield _FakeAnswer(iter(self._script), self._finish, self._repaired)
        finally:
            with trio.CancelScope(shield=True):  # as a socket's close is: done before the context is left
                await trio.sleep(self._closing)
            self.open_now -= 1


class _FakeAnswer:
    def __init__(self, script: Iterator[Step], finish: Finish | None, repaired: int) -> None:
        self._script = script
        self._at_end = finish
        self.finish: Finish | None = None
        self.repaired = repaired

    async def receive(self) -> Sequence[Chunk]:
        await trio.lowlevel.checkpoint()
        for step in self._script:
            if isinstance(step, BaseException):
                raise step
            if not isinstance(step, int | float):
                return step
            await trio.sleep(step)
        self.finish = self._at_end
        return ()


class FakeUpstreams(ProviderRegistry):
    """The real providers, and `fakes` by their names."""

    def __init__(self, **fakes: Provider) -> None:
        super().__init__()
        self._fakes = fakes

    def resolve(self, model: str) -> tuple[Provider, str]:
        """The fake of that name, else what the real ones say."""
        if model in self._fakes:
            return self._fakes[model], model
        return super().resolve(model)
