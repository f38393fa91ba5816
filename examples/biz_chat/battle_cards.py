"""The team's battle cards: what is known to help with an objection. Data, and nothing else."""

from typing import Final

from pydantic import BaseModel


class BattleCard(BaseModel):
    """What helps with one kind of objection."""

    objection: str
    facts: list[str]
    ask: str


CARDS: Final = {
    "price": BattleCard(
        objection="It is too expensive.",
        facts=[
            "Customers save four hours a week on average, most of them in the first month.",
            "The price per seat falls by a fifth from twenty seats on.",
            "A discount without something in return is asked for again at each renewal.",
        ],
        ask="What does the problem cost you in a month as it is?",
    ),
    "competitor": BattleCard(
        objection="Somebody else offers the same.",
        facts=[
            "Only ours works while the network is away, and the log proves it.",
            "Three customers came back within a year because of the missing export.",
        ],
        ask="What did you like best about theirs?",
    ),
    "silence": BattleCard(
        objection="They do not call back.",
        facts=[
            "Whoever gets a third reminder without news answers in one case of fifty.",
            "A message with a date and a way out is answered in one case of three.",
        ],
        ask="Shall I close this for now, and come back in spring?",
    ),
}
"""By the name that the model asks for."""
