"""The table of prices: what the file may contain, what usage costs, and the errors."""

from pathlib import Path

import pytest

from server.config import BadSettings
from server.config.price_table import Price, PriceTable, load_prices

GOOD = """
["openai/gpt-4o"]
input = 2.5
output = 10
cached_input = 1.25

[demo]
input = 0
output = 1
"""


def price_file(tmp_path: Path, text: str | bytes) -> Path:
    """A file with this text."""
    path = tmp_path / "prices.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_valid_file(tmp_path: Path) -> None:
    prices = load_prices(price_file(tmp_path, GOOD)).prices
    assert prices == {"openai/gpt-4o": Price(2.5, 10, 1.25), "demo": Price(0, 1, 0)}
    assert load_prices(price_file(tmp_path, "")).prices == load_prices(None).prices == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[demo", "it is no TOML"),
        (b"\xff", "it is no TOML"),
        ("demo = 1", r'\["demo"\]: it has to be a table'),
        ("[demo]\ninput = 1", r'\["demo"\]: it needs both input and output; write input = 2.5 and output = 10'),
        ("[demo]\ninput = 1\noutput = -1", r'\["demo"\]: output has to be the price of a million tokens, not -1'),
        ("[demo]\ninput = 1\noutput = nan", "output has to be the price"),
        ("[demo]\ninput = true\noutput = 1", "input has to be the price"),
        ('[demo]\ninput = "1"\noutput = 1', "input has to be the price"),
        ("[demo]\ninput = 1\noutput = 1\nimage = 1", "it has no image"),
        ("[openai.gpt]\ninput = 1\noutput = 1", r'\["openai"\]: it has no gpt'),
    ],
)
def test_invalid_file_is_explained(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=rf"^TOKENTAPE_PRICES = '.*prices.toml': .*{said}"):
        load_prices(price_file(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read: No such file"):
        load_prices(tmp_path / "none.toml")


TABLE = PriceTable({"a": Price(1_000_000, 2_000_000, 500_000), "b": Price(0.1, 0.2, 0.1)})


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({}, None),
        ({"a": {}}, None),
        ({"a": {"input_tokens": 1}}, 1.0),
        ({"a": {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 2, "reasoning_tokens": 1}}, 6.0),
        ({"a": {"input_tokens": 1, "cached_input_tokens": 5}}, 2.5),
        ({"a": {"output_tokens": 1}, "b": {"output_tokens": 1_000_000}}, 2.2),
        ({"a": {"output_tokens": 1}, "c": {"output_tokens": 1}}, None),
        ({"b": {"input_tokens": 1_000_000, "output_tokens": 1_000_000}}, 0.3),
    ],
)
def test_cost_of_usage(usage: dict[str, dict[str, int]], cost: float | None) -> None:
    """Of all models together, or none if one has no price."""
    assert TABLE.cost(usage) == cost
