"""Folders of certificates, and the URL schemes that use them."""

import pytest
import trustme

from lensemble_client import Client, InvalidInputError
from lensemble_contract.tls import Tls


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def write(folder, authority, *names):
    own = authority.issue_cert("127.0.0.1")
    files = {
        "ca.crt": authority.cert_pem,
        "tls.crt": own.cert_chain_pems[0],
        "tls.key": own.private_key_pem,
    }
    for name in names:
        files[name].write_to_path(folder / name)
    return folder


def test_folder_is_read(tmp_path, authority):
    tls = Tls.from_folder(write(tmp_path, authority, "ca.crt", "tls.crt", "tls.key"))
    assert (tls.authority, tls.certificate) == (tmp_path / "ca.crt", tmp_path / "tls.crt")
    assert tls.client_context().get_ca_certs()
    assert tls.check_for_server(mutual=True) is tls
    assert set(tls.grpc_options()) == {
        "ssl",
        "root_certificates",
        "certificate_chain",
        "private_key",
    }


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "no ca.crt, tls.crt or tls.key in"),
        (("ca.crt", "tls.crt"), "one of tls.crt and tls.key is missing"),
    ],
)
def test_incomplete_folder_is_refused(tmp_path, authority, names, reason):
    with pytest.raises(InvalidInputError, match=reason):
        Tls.from_folder(write(tmp_path, authority, *names))


def test_server_needs_a_certificate_and_for_mutual_tls_an_authority(tmp_path, authority):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidInputError, match=r"needs tls.crt and tls.key"):
        Tls.from_folder(write(tmp_path / "a", authority, "ca.crt")).check_for_server(mutual=False)
    own = Tls.from_folder(write(tmp_path / "b", authority, "tls.crt", "tls.key"))
    assert own.check_for_server(mutual=False)
    with pytest.raises(InvalidInputError, match=r"mutual TLS needs ca.crt"):
        own.check_for_server(mutual=True)


def test_key_of_another_certificate_is_refused(tmp_path, authority):
    write(tmp_path, authority, "tls.crt", "tls.key")
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(tmp_path / "tls.key")
    with pytest.raises(InvalidInputError, match="KEY_VALUES_MISMATCH"):
        Tls.from_folder(tmp_path).check_for_server(mutual=False)


def test_scheme_and_certificates_go_together(tmp_path, authority):
    folder = write(tmp_path, authority, "ca.crt")
    with pytest.raises(InvalidInputError, match=r"grpc:// does not use .* expected grpcs://"):
        Client("grpc://127.0.0.1:9", tls=folder)
    Client("https://127.0.0.1:9", tls=folder).close()
    Client("grpcs://127.0.0.1:9").close()  # trusts the authorities of the system
