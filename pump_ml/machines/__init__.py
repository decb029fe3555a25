"""One model a machine and kind: a health forecast (gru) and a pre-failure alarm (xgb) of motor pumps in the field.

policy        how all of it is done, from YAML
preparation   raw rows to stretches without holes
health        the health score
sequences     windows as views
forecast      GRU, from 60 readings to the score some readings later
trips, alarm  what a trip is, and XGBoost that warns of one
"""
