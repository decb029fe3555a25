"""MLOps for predictive maintenance of pumps: sensor rows in, a champion model out."""

__version__ = "0.1.0"
