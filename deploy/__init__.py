"""What a deployment needs: the real servers for tests and for people, container files, the runbook."""
