"""The benchmarks themselves: they run, they end what they start, and their checker notices what goes wrong."""
