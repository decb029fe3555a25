"""The twin's first version, which the source `simulated` still makes dataset v2 with.

It goes as soon as the families meet the targets of the problem `diagnosis` on the v2 of `pump_ml.twin.datasets`.
"""
