"""Clients whose handshake fails, and those that speak something else to the proxy: seen in the log, summed up by doctor."""
import json
import re
import socket
import ssl
import time

import sallyport
from real import wait


def begin(t, **more):
    s, up = t.proxy(credentials=[{"name": "api", "secrets": {"token": "canary-api"}}], upstream={}, **more)
    return s


def records(s, **want):
    return [r for r in s.records() if all(r.get(k) == v for k, v in want.items())]


def seen(s, reason, **want):
    found = wait(lambda: records(s, reason=reason, **want), 6, f"a record of {reason}")
    for r in found:
        assert r["decision"] == "deny" and r["error"] == reason.split(":")[0], r
    return found


def raw(s, host="api.test"):
    """The socket in a tunnel."""
    wire = s.connect()
    wire.send(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{s.auth()}\r\n".encode())
    assert wire.recv(10).startswith(b"HTTP/1.1 200")
    return wire


def fails(s, context=None, **more):
    try:
        s.tunnel(context=context or s.client_context(), **more).close()
    except (ssl.SSLError, ConnectionError) as e:
        return str(e)
    raise AssertionError("the handshake went through")


def test_untrusted_ca(t):
    """a client that does not trust the CA: one record with agent, host and cause, a loop of them folded, and doctor's advice"""
    s = begin(t)
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for _ in range(20):
        fails(s, context)
    first = seen(s, "client_tls: unknown_ca")
    assert first[0]["agent"] == "a" and first[0]["host"] == "api.test" and first[0]["port"] == 443, first
    fails(s, context, host="other.test")
    assert len(seen(s, "client_tls: unknown_ca", host="other.test")) == 1, "another host is another kind"
    time.sleep(10.5)
    fails(s, context)
    # One at once, and after each 10 s one that counts: two or three where the loop itself was slow.
    wait(lambda: sum(1 + int((re.search(r", (\d+) times more$", r["reason"]) or [0, 0])[1]) for r in records(s, host="api.test", error="client_tls")) == 21, 6,
         "the number of the folded ones")
    assert len(records(s, host="api.test", error="client_tls")) < 8, s.records()
    said = s.cli("doctor", check=False).stdout
    assert "a: 21 handshakes with api.test failed: unknown_ca" in said and "sallyport env a" in said, said
    assert "unknown_ca" in s.cli("log").stdout


def test_causes(t):
    """old versions, no protocol in common, another SNI, silence, no TLS: each by its name"""
    s = begin(t)
    old = s.client_context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    fails(s, old)
    seen(s, "client_tls: protocol_version", agent="a", host="api.test")
    new = s.client_context()
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    new.maximum_version = ssl.TLSVersion.TLSv1_3
    fails(s, new, host="new.test")
    seen(s, "client_tls: handshake_failure", agent="a", host="new.test")     # its suites are TLS 1.3's alone
    other = s.client_context()
    other.set_alpn_protocols(["h3"])
    fails(s, other)
    seen(s, "client_tls: no_application_protocol", agent="a", host="api.test")
    fails(s, sni="other.test")
    seen(s, "client_tls: unrecognized_name", agent="a", host="api.test")
    cipher = s.client_context()
    cipher.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    fails(s, cipher)
    seen(s, "client_tls: handshake_failure", agent="a", host="api.test")
    wire = raw(s)
    wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    wire.close()
    seen(s, "client_tls: closed", agent="a", host="api.test")
    wire = raw(s, "ssh.test")
    wire.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    assert wire.recv(5) == b""
    seen(s, "client_tls: not_tls", agent="a", host="ssh.test")
    # Whoever opens a tunnel and thinks better of it is no failure; nor is a handshake that goes well.
    raw(s, "idle.test").close()
    assert s.request().status == 200
    time.sleep(2 * sallyport.SLOW)
    assert not records(s, host="idle.test") and not records(s, error="client_tls", reason="client_tls: close_notify"), s.records()
    said = s.cli("doctor", check=False).stdout
    for word in ("--tunnel", "ssh.test", "no_application_protocol", "TLS 1.2"):
        assert word in said, (word, said)


def test_silence(t):
    """a tunnel in which nobody says a word for 10 s"""
    s = begin(t)
    wires = [raw(s, "silent.test"), raw(s, "half.test")]
    wires[1].send(b"\x16\x03\x01\x02\x00")
    for host in "silent.test", "half.test":
        wait(lambda: records(s, reason="client_tls: timeout", host=host), 14, f"the record of {host}")
    for w in wires:
        w.close()


def test_late_refusal(t):
    """a client that judges the certificate after the handshake"""
    s = begin(t)
    wire = s.tunnel()
    wire.close(clean=False)
    context = s.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert s.request(context=context).status == 200
    time.sleep(2 * sallyport.SLOW)
    assert not records(s, error="client_tls"), s.records()


HELLO = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + b"\x00" * 194


def test_other_protocols(t):
    """TLS, SOCKS without a password and HTTP/2 on the proxy port: an answer at once, which their clients show, and a record"""
    s = begin(t)
    began = time.monotonic()
    for sent, want, why in (
            (HELLO, b"\x15\x03\x01\x00\x02\x02\x28", "TLS"), (b"\x05\x01\x00", b"\x05\xff", "SOCKS5"), (b"\x05\x00", b"\x05\xff", "SOCKS5"),
            (b"\x04\x01\x01\xbb\x7f\x00\x00\x01\x00", b"\x00\x5b" + b"\x00" * 6, "SOCKS4"),
            (b"\x04\x01\x01\xbb\x00\x00\x00\x01u\x00api.test\x00", b"\x00\x5b" + b"\x00" * 6, "SOCKS4"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", None, "HTTP/2")):
        sock = socket.create_connection(("127.0.0.1", s.port))
        sock.settimeout(8)
        sock.sendall(sent)
        got = b""
        while part := sock.recv(4096):
            got += part
        sock.close()
        if want is None:        # SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED and a text
            frames = []
            while got:
                n = int.from_bytes(got[:3], "big")
                frames.append((got[3], got[9:9 + n]))
                assert len(got) >= 9 + n, got
                got = got[9 + n:]
            assert [f[0] for f in frames] == [4, 7] and frames[1][1][4:8] == b"\x00\x00\x00\x0d" and b"HTTP/1.1" in frames[1][1], frames
        else:
            assert got == want, (why, got)
        # SOCKS5 is spoken here, with user and password alone (doors_test)
        code = "agent_unknown" if why == "SOCKS5" else "not_http"
        wait(lambda: [r for r in records(s, error=code) if r["reason"].startswith(f"{code}: {why}")], 6, f"a record of {why}")
    assert time.monotonic() - began < 30 * sallyport.SLOW
    assert "http://" in s.cli("doctor", check=False).stdout
    # Through a real client: it says at once what it thinks.
    context = ssl.create_default_context()
    try:
        with socket.create_connection(("127.0.0.1", s.port)) as sock:
            sock.settimeout(8)
            context.wrap_socket(sock, server_hostname="proxy.test")
        raise AssertionError("TLS with the proxy port")
    except ssl.SSLError as e:
        assert "ALERT" in str(e).upper(), e
    # HTTP/2 without asking, in a tunnel, is the same mistake.
    wire = s.tunnel()
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert b"HTTP/1.1" in wire.recv(5)
    wire.close()
    assert s.request().status == 200


def test_broken_record(t):
    """after the handshake a broken record gets its alert, and the record its name"""
    s = begin(t)
    wire = raw(s)
    context = s.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="api.test")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            wire.send(outgoing.read())
            incoming.write(wire.recv(5))
    wire.send(outgoing.read())
    tls.write(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
    data = bytearray(outgoing.read())
    data[-1] ^= 1
    wire.send(bytes(data))
    got = wire.recv(5)
    assert got[:1] == b"\x15", got
    incoming.write(got)
    try:
        tls.read(10)
        raise AssertionError("no alert")
    except ssl.SSLError as e:
        assert "bad record mac" in str(e).lower().replace("_", " "), e
    seen(s, "client_tls: bad_record_mac", agent="a", host="api.test")
    assert json.dumps(s.records()).count("canary") == 0
