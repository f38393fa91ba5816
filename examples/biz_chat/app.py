"""A sales coach: one tool, for a model that people talk to. The chat itself needs no code on the server.

A representative asks; the coach looks up the battle card and answers. Another one who is on the same call tells it
meanwhile what the customer has just said: a message with `deliver: "now"` is put into the running answer, which
goes on with it. That works for models and agents, so the coach is one, and no workflow.
"""

from typing import Literal

from tokentape import tool

from .battle_cards import CARDS, BattleCard


@tool(approval="never", idempotent=True)
def battle_card(objection: Literal["price", "competitor", "silence"]) -> BattleCard:
    """What helps with an objection: facts, and a question to ask. Look it up before you give advice."""
    return CARDS[objection]
