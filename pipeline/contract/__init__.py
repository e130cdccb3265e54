"""The contract: what is in a record, how it is framed, which topics there are and who gets which partition.

The `.avsc` files and `topics.toml` in `schemas/` are the source. `records.py` is generated from them
(`python -m pipeline.contract.generate`); `codec` frames records as Confluent's serializers do, so
that any registry-aware consumer reads them; `ports` is what the stages and services need of a log.
"""
