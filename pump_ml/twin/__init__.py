"""The digital twin: physics of a centrifugal pump set, from its operating point to what its instruments show.

Pure functions and frozen dataclasses; no file, no clock, no global random state. `fleet` puts the parts together.
"""
