"""A certificate for 127.0.0.1 that is its own authority."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make(folder: Path) -> Path:
    """A PEM file with key and certificate."""
    file = folder / "server.pem"
    file.write_bytes(_made())
    return file


@functools.cache
def _made() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + cert.public_bytes(serialization.Encoding.PEM)


def give_authority(home: Path) -> None:
    """Put an authority where mitmproxy keeps its own, unless it has one: its first start would make an RSA key."""
    folder = home / ".mitmproxy"
    file = folder / "mitmproxy-ca.pem"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        file.write_bytes(_made())


def trust(pem: Path) -> tuple[str, str]:
    """Arguments with which a proxy trusts an upstream that has the certificate `pem`."""
    return "--set", f"ssl_verify_upstream_trusted_ca={pem}"


def server_context(pem: Path, *alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class _Blind(ssl.SSLContext):
    """Offers what it was made with: httpcore would put HTTP/1.1 first."""

    def set_alpn_protocols(self, alpn_protocols: object) -> None:
        pass

    def offer(self, *alpn: str) -> None:
        super().set_alpn_protocols(list(alpn))


def blind_client_context(*alpn: str) -> ssl.SSLContext:
    """For the client's side of the proxy: mitmproxy's own authority is not what these tests are about."""
    context = _Blind(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.offer(*alpn)
    return context
