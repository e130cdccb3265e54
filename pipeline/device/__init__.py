"""Simulated devices: what the SDKs send and how they behave when an answer is late or bad.

The retry rules are those of `spec/client-sdk-behaviour.md` 7; a device here is a real HTTP client.
"""
