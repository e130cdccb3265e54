"""Tests, by the room that they are about; `stories` and `fakes` are shared by all."""
