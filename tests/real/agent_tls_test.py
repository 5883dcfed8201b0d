"""`agent-tls openssl`: agents' TLS by the system's OpenSSL. Real clients, what BearSSL's end does too, and clients that misbehave."""
import ctypes
import re
import socket
import ssl
import struct
import subprocess

import door_test
import handshakes_test
import sallyport
from handshakes_test import fails, raw, records, seen
from h2_test import curl
from real import wait
from tls13_test import libraries, private, spent

TOKEN = "canary-agent-tls"


def arrange(t, count=1, reply=None):
    s, up = t.proxy(workers=count, credentials=[{"name": "api", "secrets": {"token": TOKEN}}], upstream={"reply": reply or {"body": "from upstream"}}, serve=False)
    s.cli("set", "agent-tls", "openssl")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    return s, up


def context(s, version=None, alpn=None):
    c = ssl.create_default_context(cafile=s.ca)
    if version:
        c.minimum_version = c.maximum_version = version
    if alpn:
        c.set_alpn_protocols(alpn)
    return c


VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def test_clients(t):
    """curl and Python, TLS 1.3 and 1.2, HTTP/1.1 and HTTP/2; bodies of many records both ways; the setting is in force at once; what doctor and version say"""
    s, up = arrange(t)
    for flag, want in ("--tlsv1.3", "TLSv1.3"), ("--tls-max 1.2", "TLSv1.2"):
        for http, number in ("--http1.1", "1.1"), ("--http2", "2"):
            r = curl(s, *flag.split(), http, "-v", "-w", "[%{http_version}]", "https://api.test/x", "https://api.test/y")
            assert r.stdout == f"from upstream[{number}]" * 2 and f"SSL connection using {want}" in r.stderr, (flag, http, r.stdout, r.stderr)
    assert [q.get("authorization") for q in up.requests] == [f"Bearer {TOKEN}"] * 8 and {r["decision"] for r in s.records()} == {"allow"}
    body = bytes(range(256)) * 4096 * 3
    up.reply = {"steps": [f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n", body.decode("latin-1")]}
    for name, version in VERSIONS.items():
        w = s.tunnel(context=context(s, version))
        assert w.tls.version() == name and s.request("PUT", "/big", body=body, wire=w).body == body and up.requests[-1].body == body, name
        w.close()
    assert re.search(r"agents' TLS +OpenSSL 3\.", s.cli("doctor", check=False).stdout)
    assert "as upstream-tls and agent-tls say" in s.cli("version").stdout
    s.cli("set", "agent-tls", "bearssl")
    up.reply = {"body": "of BearSSL"}
    w = s.tunnel(context=context(s))
    assert w.tls.version() == "TLSv1.2" and s.request(wire=w).body == b"of BearSSL"
    w.close()
    assert re.search(r"agents' TLS +BearSSL", s.cli("doctor", check=False).stdout) and s.cli("set", "agent-tls", "auto", check=False).returncode == 2


def s_client(s, *args, host="api.test", say=""):
    return subprocess.run(["openssl", "s_client", "-proxy", f"127.0.0.1:{s.port}", "-proxy_user", "x", "-proxy_pass", f"pass:{s.tokens['a']}", "-connect", f"{host}:443",
                           "-servername", host, "-CAfile", str(s.ca), "-verify_return_error", "-x509_strict", *map(str, args)],
                          input=say, capture_output=True, text=True, timeout=20 * sallyport.SLOW).stdout


def test_handshake(t):
    """what openssl s_client says of it: the leaf is as BearSSL's and verified strictly, X25519, AEAD alone, no compression, no early data, no certificate of the client's asked for"""
    s, up = arrange(t)
    for flag, cipher in ("-tls1_3", "TLS_"), ("-tls1_2", "ECDHE-ECDSA-"):
        said = s_client(s, flag)
        assert "Verify return code: 0 (ok)" in said and "Verification: OK" in said, said
        assert re.search(rf"Cipher is {cipher}\S+(GCM|POLY1305)", said) and "Server Temp Key: X25519" in said, said
        assert "No client certificate CA names sent" in said and "Compression: NONE" in said and "Peer signature type: ECDSA" in said, said
        assert flag == "-tls1_3" or ("Secure Renegotiation IS supported" in said and "Extended master secret: yes" in said), said

    def leaf():
        w = s.tunnel()
        der = w.tls.getpeercert(True)
        w.close()
        out = subprocess.run(["openssl", "x509", "-inform", "der", "-noout", "-text"], input=der, capture_output=True, check=True).stdout.decode()
        return der, re.sub(r"Serial Number:\s+\S+|Not (Before|After)\s*: .*|Signature Value:[\s0-9a-f:]+", "", out)
    first = leaf()
    assert leaf()[0] == first[0], "it is minted once"
    s.cli("set", "agent-tls", "bearssl")
    assert leaf()[1] == first[1]
    w = s.tunnel("93.184.216.34", context=context(s))
    w.close()


def resumes(s, c, session, host="api.test"):
    """-> is that session resumed by a new connection?, the connection's own"""
    w = s.tunnel(host, context=c, session=session)
    s.request(host=host, wire=w)             # behind the handshake the tickets of TLS 1.3 have come
    reused, new = w.tls.session_reused, w.tls.session
    w.close()
    return reused, new


def test_resumption(t):
    """tickets: resumed in every worker, not for another host's tunnel, not behind a restart; without them, TLS 1.2 by a session's id"""
    s, up = arrange(t, 2)
    for version in VERSIONS.values():
        c = context(s, version)
        _, session = resumes(s, c, None)
        assert session.has_ticket
        assert [resumes(s, c, session)[0] for _ in range(12)] == [True] * 12, "both workers know the tickets' key"
        c.check_hostname = False
        assert not resumes(s, c, session, "other.test")[0], "the session is another host's"
    s.stop()
    s.workers = 1                                    # ids are a worker's own
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    assert not resumes(s, c, session)[0]
    c = context(s, VERSIONS["TLSv1.2"])
    c.options |= ssl.OP_NO_TICKET
    _, session = resumes(s, c, None)
    assert session.id and not session.has_ticket
    assert [resumes(s, c, session)[0] for _ in range(3)] == [True] * 3
    c.check_hostname = False
    assert not resumes(s, c, session, "other.test")[0], "the session is another host's"
    assert resumes(s, c, session)[0]
    assert {r["status"] for r in s.records() if r["host"] == "api.test"} == {200}


def test_causes(t):
    """each handshake that fails has its name in the log, as with BearSSL"""
    s, up = arrange(t)
    for version in VERSIONS.values():
        untrusting = ssl.create_default_context()
        untrusting.minimum_version = untrusting.maximum_version = version
        host = f"v{version.value}.test"
        fails(s, untrusting, host=host)
        seen(s, "client_tls: unknown_ca", agent="a", host=host)
        fails(s, context(s, version, ["h3"]), host=host)
        seen(s, "client_tls: no_application_protocol", agent="a", host=host)
        fails(s, context(s, version), host=host, sni="other.test")
        seen(s, "client_tls: unrecognized_name", agent="a", host=host)
    old = s.client_context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    fails(s, old)
    seen(s, "client_tls: protocol_version", agent="a", host="api.test")
    for suites in "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256":
        weak = s.client_context()
        weak.set_ciphers(suites)
        fails(s, weak, host="weak.test")
    seen(s, "client_tls: handshake_failure", agent="a", host="weak.test")
    anyhow = context(s)
    anyhow.check_hostname = False                    # Python's, of the final dot
    w = s.tunnel(sni="API.TEST.", context=anyhow)
    assert s.request(wire=w).status == 200
    w.close()
    assert "error:0" not in s.log() and "SSL routines" not in s.log(), s.log()


class Client:
    """A client on libssl itself, which does what Python's ssl has no call for."""

    def __init__(self, s, version, small=False):
        self.lib = ctypes.CDLL("libssl.so.3")
        for name in "TLS_client_method", "SSL_CTX_new", "SSL_new":
            getattr(self.lib, name).restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.lib.SSL_CTX_new(ctypes.c_void_p(self.lib.TLS_client_method())))
        self.lib.SSL_CTX_ctrl(self.context, 124, ctypes.c_long(version.value), None)    # SSL_CTRL_SET_MAX_PROTO_VERSION
        if small:
            self.lib.SSL_CTX_set_tlsext_max_fragment_length(self.context, ctypes.c_uint8(1))        # 512 bytes
        wire = raw(s)
        self.sock = wire.sock
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(15 * sallyport.SLOW), 0))      # of libssl's reads, too
        self.tls = ctypes.c_void_p(self.lib.SSL_new(self.context))
        self.lib.SSL_set_fd(self.tls, self.sock.fileno())
        assert self.lib.SSL_connect(self.tls) == 1

    def say(self, data):
        return self.lib.SSL_write(self.tls, data, len(data)) > 0

    def hear(self):
        room = ctypes.create_string_buffer(65536)
        n = self.lib.SSL_read(self.tls, room, len(room))
        return room.raw[:n] if n > 0 else b""

    def update(self, asks):
        """A KeyUpdate, which may ask for one of the proxy's."""
        return self.lib.SSL_key_update(self.tls, asks) == self.lib.SSL_do_handshake(self.tls) == 1

    def close(self):
        self.lib.SSL_free(self.tls)
        self.sock.close()


GET = b"GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"


def test_floods(t):
    """KeyUpdates are taken, a flood of them ends the connection and costs little; renegotiation is refused; nobody else is held up"""
    s, up = arrange(t)
    assert s.request().status == 200
    pid = s.worker_pids()[0]
    c = Client(s, ssl.TLSVersion.TLSv1_3)
    assert c.say(GET[:20]) and all(c.update(i % 2) for i in range(10)) and c.say(GET[20:])
    got = c.hear()
    while b"from upstream" not in got:       # in one record, or in two
        part = c.hear()
        assert part, got
        got += part
    c.close()
    before, memory = spent(pid), private(pid)
    for asks in 0, 1:
        c = Client(s, ssl.TLSVersion.TLSv1_3)
        n = 0
        while n < 50000 and c.update(asks):
            n += 1
        assert n < 50000, "the connection was not ended"
        c.close()
    assert s.request().status == 200
    c = Client(s, ssl.TLSVersion.TLSv1_2)
    assert c.lib.SSL_renegotiate(c.tls) == 1
    c.lib.SSL_do_handshake(c.tls)
    assert c.lib.SSL_do_handshake(c.tls) != 1 or b"from upstream" not in c.hear()
    c.close()
    took, grown = spent(pid) - before, private(pid) - memory
    assert s.request().status == 200 and pid == s.worker_pids()[0]
    assert "asan" in str(s.binary) or (took < 1.5 and grown < 1024), (took, grown)


def test_small_records(t):
    """a client that asks for records of 512 bytes (RFC 6066 4) gets bodies of many such, over TLS 1.3 and 1.2"""
    body = bytes(range(256)) * 1024
    s, up = arrange(t, reply={"steps": [f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n", body.decode("latin-1")]})
    assert s.request().body == body
    pid = s.worker_pids()[0]
    for version in VERSIONS.values():
        c, got, most = Client(s, version, True), b"", 0
        c.say(GET)
        while not got.endswith(b"\r\n\r\n" + body):
            part = c.hear()
            assert part, got[:300]
            got, most = got + part, max(most, len(part))
        assert most <= 512, most
        c.close()
    assert pid == s.worker_pids()[0]


def test_half_message(t):
    """a client that begins a message of the handshake behind its request, and does not end it: its connection ends, and nobody else's"""
    s, up = arrange(t)
    assert s.request().status == 200
    pid = s.worker_pids()[0]
    c = Client(s, ssl.TLSVersion.TLSv1_2)
    ours, theirs = socket.socketpair()
    c.lib.SSL_set_wfd(c.tls, theirs.fileno())
    c.lib.SSL_ctrl(c.tls, 52, ctypes.c_long(512), None)       # SSL_CTRL_SET_MAX_SEND_FRAGMENT
    assert c.lib.SSL_set_cipher_list(c.tls, b"ALL:COMPLEMENTOFALL:@SECLEVEL=0") == 1
    assert c.lib.SSL_ctrl(c.tls, 55, ctypes.c_long(0), b"a" * 255) == 1                   # SSL_CTRL_SET_TLSEXT_HOSTNAME
    c.sock.setblocking(False)
    assert c.say(GET) and c.lib.SSL_renegotiate(c.tls) == 1 and c.lib.SSL_do_handshake(c.tls) == -1
    sent = ours.recv(65536)
    first = 5 + int.from_bytes(sent[3:5], "big")
    assert sent[0] == 23 and sent[first] == 22 and len(sent) > first + 517, (sent[:5], len(sent))        # the request; a ClientHello of two records
    c.sock.setblocking(True)
    c.sock.sendall(sent[:first + 5 + int.from_bytes(sent[first + 3:first + 5], "big")])
    assert c.hear() == b""
    c.close()
    assert s.request().status == 200 and pid == s.worker_pids()[0]


def test_garbage(t):
    """what is no handshake, or half of one, or one of a byte a second, or a huge one: ended by its own deadline or at once, and nobody else notices"""
    s, up = arrange(t)
    assert s.request().status == 200
    pid = s.worker_pids()[0]
    memory = private(pid)
    for sent in (b"\x16\x03\x01\x00\x05garbage" + bytes(300), b"\x16\x03\x01\xff\xff" + b"a" * 70000, b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
                 b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00", b"\x16\x03\x01\x00\x00" * 3000):
        wire = raw(s, "garbage.test")
        wire.send(sent)
        while wire.recv(8 * sallyport.SLOW):
            pass
        wire.close()
    slow = [raw(s, f"slow{i}.test") for i in range(30)]
    for wire in slow:
        wire.send(b"\x16\x03\x01\x40\x00\x01\x01\xff\x00" + bytes(1000))         # a ClientHello that says 128 KiB
    assert s.request().status == 200
    grown = private(pid) - memory
    assert "asan" in str(s.binary) or grown < 30 * 300, grown
    wait(lambda: records(s, reason="client_tls: timeout", host="slow0.test"), 14, "the record of a handshake that stalls")
    for wire in slow:
        assert wire.recv(8 * sallyport.SLOW) == b"" or wire.recv(1) == b""
        wire.close()
    assert s.request().status == 200 and pid == s.worker_pids()[0]
    # A handshake in pieces of one byte is one.
    wire, c = raw(s), context(s)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = c.wrap_bio(incoming, outgoing, server_hostname="api.test")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                wire.send(bytes([byte]))
            incoming.write(wire.recv(8 * sallyport.SLOW))
    assert tls.version() == "TLSv1.3"
    wire.close()


def test_half_closed(t):
    """a client that sends close_notify behind its request still gets the answer; one that cuts the connection does not stay"""
    s, up = arrange(t, reply={"steps": ["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", {"wait": 0.3}, "def"]})
    c = Client(s, ssl.TLSVersion.TLSv1_3)
    c.say(GET)
    c.lib.SSL_shutdown(c.tls)
    got = b""
    while part := c.hear():
        got += part
    assert got.endswith(b"abcdef"), got
    c.close()
    assert s.request().body == b"abcdef"


def test_door(t):
    """the door's callers, and its own certificates, RSA and EC: TLS 1.3 and 1.2, resumed"""
    for kind in "ec", "rsa":
        s0 = t.bare()
        chain, key, root = door_test.make_chain(s0.dir, kind)
        s, port = door_test.door(t, "--gateway-cert", chain, "--gateway-key", key)

        def client(c, session=None):
            with socket.create_connection(("127.0.0.1", port)) as sock, c.wrap_socket(sock, server_hostname="127.0.0.1", session=session) as tls:
                tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert tls.recv(100).startswith(b"HTTP/1.1 4")
                return tls.version(), tls.session_reused, tls.session
        contexts = {name: ssl.create_default_context(cafile=root) for name in VERSIONS}
        for name, c in contexts.items():
            c.check_hostname = False
            c.minimum_version = c.maximum_version = VERSIONS[name]
        assert client(contexts["TLSv1.2"])[0] == "TLSv1.2"      # BearSSL's
        s.cli("set", "agent-tls", "openssl")
        wait(lambda: "TLSv1.3" in str(attempt(client, contexts["TLSv1.3"])), what="the setting")
        for name, c in contexts.items():
            version, _, session = client(c)
            assert version == name and client(c, session)[1], name
        assert flight(port, True) == flight(port, False)        # RFC 8446 4.1.4: its second ClientHello brings the chain no second time


def flight(port, share):
    """The sizes of EncryptedExtensions and Certificate, for a client whose first ClientHello has a key share of X25519, or none."""
    def extension(kind, value):
        return struct.pack(">HH", kind, len(value)) + value

    def hello(share):
        extensions = extension(43, b"\2\3\4") + extension(10, b"\0\2\0\x1d") + extension(13, b"\0\4\4\3\x08\4") + \
            extension(51, struct.pack(">H", len(share)) + share)
        body = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack(">H", len(extensions)) + extensions
        message = b"\1\0" + struct.pack(">H", len(body)) + body
        return b"\x16\3\1" + struct.pack(">H", len(message)) + message

    def record():
        kind, _, n = struct.unpack(">BHH", wire.read(5))
        message = wire.read(n)
        return record() if kind == 20 else (kind, message)      # ChangeCipherSpec says nothing
    with socket.create_connection(("127.0.0.1", port), 20 * sallyport.SLOW) as sock, sock.makefile("rb") as wire:
        key, retry = b"\0\x1d\0\x20" + b"\x09" + bytes(31), bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
        sock.sendall(hello(key if share else b""))
        kind, message = record()
        assert (kind, message[6:38] == retry) == (22, not share), message
        if not share:
            sock.sendall(hello(key))
            assert record()[0] == 22
        sizes = record(), record()
        assert [kind for kind, _ in sizes] == [23, 23], sizes
        return [len(message) for _, message in sizes]


def attempt(client, c):
    try:
        return client(c)
    except (ssl.SSLError, OSError) as e:
        return e
