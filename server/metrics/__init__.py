"""What a process can be asked in figures: counted as plain numbers where it happens, shown at `/metrics`.

Nothing is computed before somebody asks, and a scrape asks nobody: it works while the database is away. No
content, no id and no raw path is a label. It knows no HTTP, no run and no log lines.
"""

from server.metrics.metrics import Meter, Metrics
from server.metrics.page import Page
from server.metrics.present import Present

__all__ = ["Meter", "Metrics", "Page", "Present"]
