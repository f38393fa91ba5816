"""Figures, as ratios taken side by side in one run: `make bench`. Never a timed test; see RESULTS.md."""
