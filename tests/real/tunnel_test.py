"""--tunnel: TLS that names the host of its CONNECT, whatever pieces its ClientHello comes in; --tunnel=raw: anything."""
import socket
import ssl
import struct
import threading
import time
import sallyport
from real import wait

HOST = "www.test"


def context():
    ctx = ssl.create_default_context(cafile=sallyport.certs() / "root.pem")
    ctx.check_hostname = False
    return ctx


def hello(name):
    """The bytes of a ClientHello that names `name` (None: nobody), and the object that goes on with them."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context().wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read(), tls, incoming, outgoing


def records(data, sizes):
    """The same handshake message in records of these sizes, the last as long as it takes."""
    assert data[0] == 22 and struct.unpack(">H", data[3:5])[0] == len(data) - 5
    body, out = data[5:], b""
    for n in sizes:
        out, body = out + data[:3] + struct.pack(">H", len(body[:n])) + body[:n], body[n:]
    return out + (data[:3] + struct.pack(">H", len(body)) + body if body else b"")


def connect(s, host=HOST, port=443):
    sock = socket.create_connection(("127.0.0.1", s.port), 20)
    sock.settimeout(20 * sallyport.SLOW)
    sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{s.auth()}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = sock.recv(1)                                  # what a server sends first may stand in the same segment
        assert part, head
        head += part
    assert head.startswith(b"HTTP/1.1 200"), head
    return sock


def speak(s, data, tls, incoming, outgoing, pieces=1):
    """Goes on from the hello to one request: the answer's first line, or the alert that came."""
    sock = connect(s)
    step = -(-len(data) // pieces)
    for at in range(0, len(data), step):
        sock.sendall(data[at:at + step])
        time.sleep(0.02 if pieces > 1 else 0)
    seen, asked = b"", False
    try:
        while True:
            try:
                if not asked:
                    tls.do_handshake()
                    tls.write(b"GET /t HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n")
                    asked = True
                return tls.read(100).split(b"\r\n")[0]
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as e:
                return e.reason
            sock.sendall(outgoing.read())
            part = sock.recv(65536)
            if not part:
                return seen[-2:] or "closed"
            seen += part
            incoming.write(part)
    finally:
        sock.close()


def world(t, tunnel=True, host=HOST, **more):
    s, up = t.proxy(serve=False)
    s.domain({"host": host, "tunnel": tunnel, **more})
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"{HOST}:443:127.0.0.1:{up.port}",
            "--connect-to", f"10.9.8.7:443:127.0.0.1:{up.port}", "--allow-address", "127.0.0.0/8")
    return s, up


def test_names(t):
    """a tunnel takes TLS that names its host, in however many records and segments; another name, none, or something else than
    TLS gets an alert, reaches nobody and is recorded"""
    s, up = world(t)
    for pieces, sizes in ((1, ()), (40, ()), (1, (1, 1, 2, 3)), (1, (38, 1, 60)), (30, (4, 100))):
        data, *rest = hello(HOST)
        assert speak(s, records(data, sizes), *rest, pieces=pieces) == b"HTTP/1.1 200 OK", (pieces, sizes)
    data, *rest = hello(HOST.upper())
    assert speak(s, data, *rest) == b"HTTP/1.1 200 OK"
    reached = up.connections
    seen = len(up.requests)
    for name, sizes in (("evil.test", ()), ("evil.test", (1, 5, 50)), ("www.test.evil.test", ()), ("ww.test", ()), (None, ())):
        data, *rest = hello(name)
        said = speak(s, records(data, sizes), *rest)
        assert "UNRECOGNIZED_NAME" in str(said), (name, said)
    s.wait_record({"host": HOST, "error": "misdirected", "decision": "deny"})
    data = hello(HOST)[0]
    at = data.index(HOST.encode())
    two = data[:at - 9] + data[at - 9:at + len(HOST)] * 2 + data[at + len(HOST):]           # the extension again: lengths mended
    grown = 9 + len(HOST)
    ext = 5 + 4 + 34
    ext += 1 + two[ext]
    ext += 2 + struct.unpack(">H", two[ext:ext + 2])[0]
    ext += 1 + two[ext]
    two = (two[:3] + struct.pack(">H", len(two) - 5) + two[5:6] + struct.pack(">I", len(two) - 9)[1:] + two[9:ext]
           + struct.pack(">H", struct.unpack(">H", two[ext:ext + 2])[0] + grown) + two[ext + 2:])
    for bad in (b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x00\x00", b"\x16\x02\x01\x00\x05hello", b"\x16\x03\x01\x40\x01" + b"x" * 40,
                b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03ab", two,
                records(b"\x16\x03\x01" + struct.pack(">H", 40004) + b"\x01" + struct.pack(">I", 40000)[1:] + b"a" * 40000, (16384, 16384))):
        sock = connect(s)
        sock.sendall(bad)
        assert sock.recv(100) == b"\x15\x03\x01\x00\x02\x02\x70" and sock.recv(100) == b"", bad[:20]
        sock.close()
    assert len(up.requests) == seen and all(r.target == "/t" for r in up.requests), up.requests
    assert up.connections >= reached


def test_half_a_hello(t):
    """half a ClientHello waits, reaches nobody, and ends after ten seconds; others' tunnels go on meanwhile"""
    s, up = world(t)
    data, *rest = hello(HOST)
    sock, began = connect(s), time.monotonic()
    sock.sendall(data[:100])
    assert speak(s, *hello(HOST)) == b"HTTP/1.1 200 OK"
    assert sock.recv(100) == b"" and time.monotonic() - began > 9
    assert len(up.requests) == 1


def test_address(t):
    """a tunnel to an address: a client names nobody there; one that names somebody is refused"""
    s, up = world(t, host="10.9.8.7")
    for name, want in ((None, True), ("evil.test", False)):
        data, tls, incoming, outgoing = hello(name)
        sock = connect(s, "10.9.8.7")
        sock.sendall(data)
        assert (sock.recv(1) == b"\x16") == want, name
        sock.close()


def test_raw(t):
    """--tunnel=raw relays whatever comes, is for exact hosts, is named by doctor and shown; a plain --tunnel is not"""
    s, up = world(t, tunnel="raw")
    data, *rest = hello("evil.test")
    assert speak(s, data, *rest) == b"HTTP/1.1 200 OK", "raw: the name is the upstream's to judge"
    echo = socket.create_server(("127.0.0.1", 0))

    def serve():
        peer = echo.accept()[0]
        peer.sendall(b"first")                               # a server that speaks first
        peer.sendall(peer.recv(100))
        peer.close()
    threading.Thread(target=serve, daemon=True).start()
    s.cli("domain", "add", "default", "127.0.0.1", "--port", echo.getsockname()[1], "--address", "127.0.0.0/8", "--tunnel=raw")
    sock = connect(s, "127.0.0.1", echo.getsockname()[1])
    assert sock.recv(5) == b"first"
    sock.sendall(b"\0any")
    assert sock.recv(100) == b"\0any"
    out = s.cli("doctor", check=False).stdout
    assert "127.0.0.1 (default) is relayed unread" in out and HOST in out, out
    assert "tunnel=raw" in s.cli("bundle", "show", "default").stdout
    assert "whatever" in s.cli("explain", "--agent", "a", "GET", f"https://{HOST}/").stdout
    for args, why in ((("*.x.test", "--tunnel=raw"), "one by one"), (("*", "--tunnel=raw"), "name its hosts"), (("x.test", "--tunnel=tls"), "anything")):
        r = s.cli("domain", "add", "default", *args, check=False)
        assert r.returncode == 2 and why in r.stderr, r.stderr
    s.cli("domain", "add", "default", "*.x.test", "--tunnel")
    s.cli("domain", "add", "default", HOST, "--tunnel")
    assert f"{HOST} (default) is relayed" not in s.cli("doctor", check=False).stdout
    wait(lambda: "UNRECOGNIZED" in str(speak(s, *hello("evil.test"))), 5, "the narrower entry in force")
