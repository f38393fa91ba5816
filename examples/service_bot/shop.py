"""The world of the agent's tools: one JSON file. Your app has its database here.

Owns the orders and what was done to them. A change is whole or not at all: the file is replaced. Tools of several
threads and of several servers change it one after the other.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

FILE = Path(os.environ.get("SERVICE_BOT_SHOP", "shop.json"))
_one_thread_at_a_time = threading.Lock()  # tools that are plain functions run in threads


class Order(BaseModel):
    """Money in cents."""

    item: str
    paid: int
    refunded: int = 0
    unasked: int = 0  # of it, and of what is about to be refunded: that about which nobody was asked
    messages: list[str] = []
    closed: bool = False


class Shop(BaseModel):
    """All orders, by number."""

    orders: dict[str, Order]

    def order(self, number: str) -> Order:
        """Raises `ValueError`, which the model is told."""
        if number not in self.orders:
            raise ValueError(f"there is no order {number}; there are {', '.join(self.orders)}")
        return self.orders[number]


OPENING = Shop(
    orders={"1017": Order(item="Coffee machine", paid=54000), "1018": Order(item="Tea, 500 g", paid=1800)}
)


@contextmanager
def open_shop() -> Iterator[Shop]:
    """The shop as it is; what is changed in it is kept when the block ends well."""
    with _one_thread_at_a_time, FILE.with_suffix(".lock").open("w") as one_process_at_a_time:
        fcntl.flock(one_process_at_a_time, fcntl.LOCK_EX)
        shop = Shop.model_validate_json(FILE.read_text()) if FILE.exists() else OPENING.model_copy(deep=True)
        yield shop
        new = FILE.with_suffix(".new")
        new.write_text(shop.model_dump_json(indent=2))
        new.replace(FILE)
