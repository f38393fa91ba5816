"""The Dockerfile as a list of instructions, stage by stage. Only as much of its grammar as ours uses."""

import re
import shlex
from dataclasses import dataclass, field

from tests.harness.servers import ROOT


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """What follows each instruction of this kind."""
        return [rest for instruction, rest in self.instructions if instruction == word]

    def one(self, word: str) -> str:
        """What follows the only one of this kind."""
        (rest,) = self.all(word)
        return rest

    def env(self) -> dict[str, str]:
        """What ENV sets."""
        return dict(pair.split("=", 1) for rest in self.all("ENV") for pair in shlex.split(rest))


def read() -> list[Stage]:
    """The stages, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    stages: list[Stage] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        elif word:
            stages[-1].instructions.append((word, rest))
    return stages
