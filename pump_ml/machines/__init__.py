"""One model a machine and kind: a health forecast (gru) and a pre-failure alarm (xgb) of motor pumps in the field.

policy          how all of it is done, from YAML
preparation     raw rows to stretches without holes
health          the health score
sequences       windows as views
forecast        GRU, from 60 readings to the score some readings later
trips           when a machine works, what a trip is, how alarms and trips go together
usual, alarm    how far a machine is from its usual self, and XGBoost that warns of a trip
answering       a model that is asked, from the files that need no pickle
publishing      a trained model becomes files, a registered version, a row and maybe the champion, or none of them
records         the rows of the table `models`
reconciling     what died half way is finished; files, rows and versions are held against each other
pyfunc          the code inside a registered model
"""
