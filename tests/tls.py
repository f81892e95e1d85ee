"""HTTPS before a plain server, as all real object storage has it: a certificate of our own, and a slow way up."""

import asyncio
import datetime
import ipaddress
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.faults import serving

PIECE = 64 << 10


def certificate(file: Path) -> None:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + signed.public_bytes(Encoding.PEM))


@contextmanager
def https_server(upstream: int, folder: Path, bps: int) -> Iterator[dict[str, str]]:
    """What to set in the environment to reach the server at that port by HTTPS, `bps` bytes a second on the way up."""
    file = folder / "certificate.pem"
    certificate(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    async def copy(source: StreamReader, sink: StreamWriter, seconds: float) -> None:
        with suppress(OSError):
            while data := await source.read(PIECE):
                await asyncio.sleep(len(data) * seconds)
                sink.write(data)
                await sink.drain()
        sink.close()

    async def converse(reader: StreamReader, writer: StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(copy(reader, back, 1 / bps), copy(there, writer, 0))

    with serving(asyncio.start_server(converse, "127.0.0.1", 0, ssl=context, limit=PIECE)) as port:
        yield {"AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}", "AWS_CA_BUNDLE": str(file)}
