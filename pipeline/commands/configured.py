"""What settings, and the files that they name, stand for: datastreams, limits, what is kept of addresses."""

from __future__ import annotations

from pathlib import Path

from pipeline.ingest.clientip import ClientIp
from pipeline.ingest.limits import Limits
from pipeline.settings import SettingError, Settings
from pipeline.stages.datastreams import OPEN_DIRECTORY, DatastreamsError, Directory, parse_datastreams


def load_directory(settings: Settings) -> Directory:
    """Return the datastreams of this deployment, or raise `SettingError` naming the file's fault."""
    if not settings.datastreams_file:
        return OPEN_DIRECTORY
    try:
        text = Path(settings.datastreams_file).read_text()
        return parse_datastreams(text, settings.pseudonym_key.encode())
    except (OSError, UnicodeDecodeError, DatastreamsError) as error:
        raise SettingError(f"PIPELINE_DATASTREAMS_FILE: {settings.datastreams_file}: {error}") from None


def limits_of(settings: Settings, directory: Directory) -> Limits:
    """Return the ingest's limits."""
    return Limits(
        {datastream.id: datastream for datastream in directory.datastreams},
        settings.ingest_refused_bytes_per_hour,
        settings.ingest_faults_per_minute,
    )


def client_ip_of(settings: Settings) -> ClientIp:
    """Return what is kept of client addresses, or raise `SettingError`."""
    try:
        return ClientIp(settings.ingest_client_ip)
    except ValueError:
        raise SettingError(
            f"PIPELINE_INGEST_CLIENT_IP must be {', '.join(ClientIp)}, not {settings.ingest_client_ip!r}"
        ) from None
