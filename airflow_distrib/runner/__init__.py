"""What runs on the far side: shipped to every rank as one zip archive.

Imports the standard library and the cloudpickle that travels in the same archive,
nothing else, because images hold Python and the user's libraries but neither Airflow
nor this package. Everything here runs on Python 3.8 and later.

Processes, from the outside in:

``supervisor``
    One per pod or machine. Starts the processes below, prefixes their output with
    their rank, forwards signals, sees how they end and publishes their outcomes.
``agent`` (Elastic only)
    One per node. Runs torch's elastic agent, which starts and restarts the ranks.
``rank``
    Loads the function and its arguments, calls it, and writes down its outcome.
"""
