"""The nutrition table of a label's text: what is in 100 g, what is in a portion, and what looks wrong. Pure.

The text has a line for each nutrient, as it was read from a picture or tidied by a model. Both err: a `g` is read
as a 9, or a point is lost. So the numbers are held against each other, and what does not fit is said.
"""

import re
from typing import NamedTuple

from pydantic import BaseModel

EXCHANGE_GRAMS = 10
"""Grams of carbohydrate in one exchange (KE), as people count them in Germany; elsewhere 12 or 15."""
ENERGY_TOLERANCE = 0.15
"""How far the energy may be from that of the nutrients: labels round, and leave things out."""


class Nutrient(NamedTuple):
    """How a nutrient is called on labels, and how much of it 100 g of food can have."""

    name: str
    unit: str
    pattern: str
    most: float


NUTRIENTS = (
    Nutrient("Energy", "kcal", r"\bkcal\b", 902),
    Nutrient("Fat", "g", r"^(total )?(fat|fett|lipides|mati[eè]res grasses)\b", 100),
    Nutrient("of which saturates", "g", r"\b(saturate|ges[aä]ttigt|satur[eé]s)", 100),
    Nutrient("Carbohydrate", "g", r"^(total )?(carbohydrate|kohlenhydrat|glucide)", 100),
    Nutrient("of which sugars", "g", r"sugar|zucker|sucres", 100),
    Nutrient("Fibre", "g", r"fibre|fiber|ballaststoff", 100),
    Nutrient("Protein", "g", r"protein|eiwei|prot[eé]ine", 100),
    Nutrient("Salt", "g", r"^(salt|salz|sel)\b", 100),
)
NUMBER = r"(\d+(?:[.,]\d+)?)"


class Row(BaseModel):
    """One nutrient; in grams, the energy in kcal."""

    name: str
    unit: str
    per_100: float
    portion: float


class Table(BaseModel):
    """A label's. `exchanges`: of the portion's carbohydrate. `doubts`: what to check on the pack itself."""

    portion_grams: float
    rows: list[Row]
    exchanges: float | None
    doubts: list[str]


def tidy(text: str) -> str:
    """The nutrients of a text, each on a line of its own; what a model is asked for."""
    found = find_nutrients(text)
    return (
        "\n".join(f"{one.name}: {found[one.name]:g} {one.unit}" for one in NUTRIENTS if one.name in found)
        or "None."
    )


def make_table(text: str, portion_grams: float) -> Table:
    """The table of a portion. Raises `ValueError` where the text has no nutrient with a number."""
    found = find_nutrients(text)
    if not found:
        raise ValueError("No nutrient was found. Take a picture of the table that begins with “Energy”.")
    eaten = portion_grams / 100
    rows = [
        Row(
            name=one.name,
            unit=one.unit,
            per_100=found[one.name],
            portion=_round(found[one.name] * eaten),
        )
        for one in NUTRIENTS
        if one.name in found
    ]
    carbohydrate = found.get("Carbohydrate")
    exchanges = None if carbohydrate is None else _round(carbohydrate * eaten / EXCHANGE_GRAMS)
    return Table(portion_grams=portion_grams, rows=rows, exchanges=exchanges, doubts=list(_doubts(found)))


def find_nutrients(text: str) -> dict[str, float]:
    """What 100 g have of each nutrient that is in the text."""
    return {one.name: value for one in NUTRIENTS if (value := _find(one, text)) is not None}


def _find(nutrient: Nutrient, text: str) -> float | None:
    """The first number of the nutrient's line, which is that of 100 g; of the energy, the one before `kcal`."""
    for line in text.splitlines():
        if re.search(nutrient.pattern, line.lstrip(" |_.•-"), re.IGNORECASE):
            number = re.search(
                rf"{NUMBER}\s*(?i:(kcal))" if nutrient.unit == "kcal" else rf"{NUMBER}\s*(g\b)?", line
            )
            if number is not None:
                return _value(number[1], has_unit=number[2] is not None)
    return None


def _value(digits: str, *, has_unit: bool) -> float:
    """The number. `18.29`, without a unit, was `18.2 g`."""
    if not has_unit and re.fullmatch(r"\d+[.,]\d+9", digits):
        digits = digits[:-1]
    return float(digits.replace(",", "."))


def _doubts(found: dict[str, float]) -> list[str]:
    """Where the numbers do not fit each other."""
    doubts = [
        f"{one.name}: {found[one.name]:g} {one.unit} are more than 100 g can have."
        for one in NUTRIENTS
        if found.get(one.name, 0) > one.most
    ]
    for part, whole in (("of which sugars", "Carbohydrate"), ("of which saturates", "Fat")):
        if part in found and whole in found and found[part] > found[whole]:
            doubts.append(f"{whole}: {found[whole]:g} g, {part} {found[part]:g} g: a part is more than the whole.")
    if {"Energy", "Fat", "Carbohydrate", "Protein"} <= found.keys():
        # The factors of Regulation (EU) 1169/2011, annex XIV.
        kcal = 9 * found["Fat"] + 4 * (found["Carbohydrate"] + found["Protein"]) + 2 * found.get("Fibre", 0)
        if abs(kcal - found["Energy"]) > ENERGY_TOLERANCE * found["Energy"] + 10:
            doubts.append(
                f"Energy: {found['Energy']:g} kcal, but the nutrients have {kcal:.0f}: a number is misread."
            )
    doubts += [f"{name} was not found." for name in ("Energy", "Carbohydrate") if name not in found]
    return doubts


def _round(value: float) -> float:
    return round(value, 2 if value < 1 else 1)
