"""What each command of `pipeline.cli` does: the only place where parts are put together into a process."""
