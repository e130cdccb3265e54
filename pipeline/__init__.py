"""The downloaded-content media pipeline: device uploads in, Avro records with every metric out.

The way of the data is `pipeline/topology.py`; each folder is one part of it.
"""
