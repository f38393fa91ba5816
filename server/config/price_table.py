"""What models cost: the table of prices that `TOKENTAPE_PRICES` names, and the cost of what was used.

The file is TOML, with a table for each model, named as clients name it. Prices are for a million tokens, in any
one currency:

    ["openai/gpt-4o"]
    input = 2.5
    output = 10
    cached_input = 1.25  # of the input, what the provider had in its cache; as `input`, where it is left out

Must not know how tokens are counted.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from server.config.settings import BadSettings

TOKENS = 1_000_000
"""Prices are for so many tokens."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of a model cost."""

    input: float
    output: float
    cached_input: float

    def cost(self, usage: Mapping[str, int]) -> float:
        """The cost of the tokens that a provider has counted. `cached_input_tokens` are among `input_tokens`."""
        cached = usage.get("cached_input_tokens", 0)
        plain = max(0, usage.get("input_tokens", 0) - cached)
        total = plain * self.input + cached * self.cached_input + usage.get("output_tokens", 0) * self.output
        return total / TOKENS


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices by model. Without arguments: no model has one."""

    prices: Mapping[str, Price] = field(default_factory=lambda: MappingProxyType({}))

    def cost(self, usage: Mapping[str, Mapping[str, int]]) -> float | None:
        """The cost of what was used, by model; None where nothing was counted, or a model has no price."""
        if not any(usage.values()) or not usage.keys() <= self.prices.keys():
            return None
        # Rounded far below any price: sums of fractions would otherwise show as 0.30000000000000004.
        return round(sum(self.prices[model].cost(counts) for model, counts in usage.items()), 9)


def load_prices(path: Path | None) -> PriceTable:
    """The table in a file; an empty one without a file. Raises `BadSettings`, which names what is wrong."""
    if path is None:
        return PriceTable()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"TOKENTAPE_PRICES = {str(path)!r}: it cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise BadSettings(f"TOKENTAPE_PRICES = {str(path)!r}: it is no TOML: {error}") from None
    prices = {}
    for model, table in tables.items():
        try:
            prices[model] = _price(table)
        except ValueError as error:
            raise BadSettings(
                f'TOKENTAPE_PRICES = {str(path)!r}: ["{model}"]: {error}; write input = 2.5 and output = 10'
            ) from None
    return PriceTable(MappingProxyType(prices))


def _price(table: object) -> Price:
    if not isinstance(table, dict):
        raise ValueError("it has to be a table")
    unknown = table.keys() - {"input", "output", "cached_input"}
    if unknown:
        raise ValueError(f"it has no {min(unknown)}")
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TOKENS * 1_000:
            raise ValueError(f"{name} has to be the price of a million tokens, not {value!r}")
    if "input" not in table or "output" not in table:
        raise ValueError("it needs both input and output")
    cached = table["cached_input"] if "cached_input" in table else table["input"]
    return Price(table["input"], table["output"], cached)
