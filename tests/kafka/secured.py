"""Apache Kafka that demands passwords and certificates, beside the listener that it speaks to itself on."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deploy.process import free_port
from deploy.servers import Kafka

USER: Final = "pipeline"
PASSWORD: Final = "a word with spaces"
SCRAM: Final = "SCRAM-SHA-512"
_SCRAM_LOGIN: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN_LOGIN: Final = (
    f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
)


class Certificate:
    """A self-signed certificate for 127.0.0.1, which is its own authority."""

    def __init__(self, directory: Path, name: str) -> None:
        self.key = directory / f"{name}.key"
        self.certificate = directory / f"{name}.pem"
        self.both = directory / f"{name}-both.pem"
        asked = (
            f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
        )
        subprocess.run(
            ["openssl", *asked.split(), "-keyout", self.key, "-out", self.certificate],
            check=True,
            capture_output=True,
        )
        self.both.write_text(self.key.read_text() + self.certificate.read_text())


class SecuredKafka(Kafka):
    """One node with a listener for each way to be let in."""

    def __init__(self) -> None:
        super().__init__()
        self.ports = {name: free_port() for name in ("SASL_PLAINTEXT", "SASL_SSL", "SSL")}
        self.server = Certificate(self.directory, "server")
        self.client = Certificate(self.directory, "client")

    def security(self, protocol: str) -> dict[str, Any]:
        """Return the settings that this listener lets in."""
        found: dict[str, Any] = {
            "kafka_bootstrap": f"127.0.0.1:{self.ports[protocol]}",
            "kafka_security_protocol": protocol,
        }
        if protocol.startswith("SASL"):
            found |= {
                "kafka_sasl_mechanism": SCRAM if protocol == "SASL_SSL" else "PLAIN",
                "kafka_sasl_username": USER,
                "kafka_sasl_password": PASSWORD,
            }
        if protocol.endswith("SSL"):
            found |= {"kafka_ca_file": str(self.server.certificate)}
        if protocol == "SSL":
            found |= {
                "kafka_cert_file": str(self.client.certificate),
                "kafka_key_file": str(self.client.key),
            }
        return found

    def _format_options(self) -> Sequence[str]:
        return (*super()._format_options(), "--add-scram", f"{SCRAM}=[name={USER},password={PASSWORD}]")

    def _properties(self) -> str:
        listeners = "".join(f",{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        lines = []
        for line in super()._properties().splitlines():
            name = line.partition("=")[0]
            if name in ("listeners", "advertised.listeners"):
                line += listeners  # noqa: PLW2901 - the line as it is for this broker
            if name == "listener.security.protocol.map":
                line += "".join(f",{each}:{each}" for each in self.ports)  # noqa: PLW2901 - as above
            lines.append(line)
        return (
            "\n".join(lines)
            + f"""
sasl.enabled.mechanisms=PLAIN,{SCRAM}
listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={_PLAIN_LOGIN}
listener.name.sasl_ssl.sasl.enabled.mechanisms={SCRAM}
listener.name.sasl_ssl.{SCRAM.lower()}.sasl.jaas.config={_SCRAM_LOGIN}
listener.name.ssl.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={self.server.both}
ssl.truststore.type=PEM
ssl.truststore.location={self.client.certificate}
"""
        )
