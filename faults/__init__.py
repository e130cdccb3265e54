"""The fault matrix: whatever dies, nothing is lost and nothing counts twice.

`python -m faults` (`make faults`) starts Apache Kafka as three brokers, an ingest and two workers as
supervised processes, and a fleet of devices that follow their SDK's rules. Case by case something is killed,
stopped or frozen while uploads go on (`cases`); then a checker with a consumer of its own (`outputs`) looks
whether each session that was acknowledged came out exactly once, and the ledger must say the same. What was
measured is written to `docs/verdicts.md` (`report`).

All choices (who is hit, when, what is sent again) come from one seed, which is printed.
"""
