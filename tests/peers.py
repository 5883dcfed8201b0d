"""Both ends of the wire: a connection that says exactly how it ended, and an upstream that follows a script."""
import json
import re
import select
import socket
import ssl
import struct
import threading
import time


class Wire:
    """A socket, plain or TLS, one thread. After the end, `eof` is "clean" (close_notify, or FIN on a plain
    socket), "ragged" (FIN without close_notify) or "reset"."""

    def __init__(self, sock):
        self.sock, self.tls, self.eof = sock, None, None
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start_tls(self, context, server_side=False, name=None, timeout=10, session=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name, session=session)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.tls.do_handshake()
                self._flush(deadline)
                return
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if not self._fill(deadline):
                    raise ConnectionError("closed in the handshake")
            except ssl.SSLError:
                self._flush(deadline, quiet=True)
                raise

    def _wait(self, deadline, write=False):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | (select.POLLOUT if write else 0))
        ready = poll.poll(left * 1000)
        if not ready:
            raise TimeoutError
        return bool(ready[0][1] & select.POLLOUT)

    def _flush(self, deadline, quiet=False, data=None):
        """Sends what the engine has (or `data`, on a plain socket)."""
        data = memoryview(self.outgoing.read() if data is None else data)
        while data:
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                if not self._wait(deadline, write=True):
                    if self.tls and self.eof is None:      # the peer must read us before it reads on
                        self._fill(deadline)
                    else:
                        time.sleep(0.01)
            except OSError:
                if quiet:
                    return
                raise

    def _fill(self, deadline):
        while True:
            try:
                data = self.sock.recv(262144)
                break
            except BlockingIOError:
                self._wait(deadline)
            except OSError:
                self.eof = "reset"
                data = b""
                break
        if data:
            self.incoming.write(data)
            return True
        self.incoming.write_eof()
        return False

    def send(self, data, timeout=30):
        deadline = time.monotonic() + timeout
        if self.tls is None:
            return self._flush(deadline, data=data)
        for i in range(0, len(data), 65536):
            self.tls.write(data[i:i + 65536])
            self._flush(deadline)

    def recv(self, timeout=10, size=262144):
        """Some bytes; b"" at the end; TimeoutError."""
        deadline = time.monotonic() + timeout
        if self.eof:
            return b""
        if self.tls is None:
            while True:
                try:
                    data = self.sock.recv(size)
                    if not data:
                        self.eof = "clean"
                    return data
                except BlockingIOError:
                    self._wait(deadline)
                except OSError:
                    self.eof = "reset"
                    return b""
        while True:
            try:
                data = self.tls.read(size)
                if data:
                    return data
                self.eof = self.eof or "clean"
                return b""
            except ssl.SSLWantReadError:
                self._flush(deadline, quiet=True)
                self._fill(deadline)
            except ssl.SSLZeroReturnError:
                self.eof = "clean"
                return b""
            except ssl.SSLError as e:
                self.eof = self.eof or "ragged"
                self.error = e
                return b""

    def half_close(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close_notify(self):
        """TLS's half-close: this side has said all, and goes on reading."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:                       # for the other side's, which has time
            pass
        self._flush(time.monotonic() + 5)

    def close(self, clean=True):
        if self.tls is not None and clean:
            try:
                self.tls.unwrap()
            except (ssl.SSLError, OSError, ValueError):
                pass
            self._flush(time.monotonic() + 1, quiet=True)
        self.sock.close()
        self.eof = self.eof or "ours"

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.eof = "ours"


def head_fields(head):
    """The fields of a head as (lower-case name, value), in order."""
    lines = head.split(b"\r\n")[1:]
    pairs = [line.split(b":", 1) for line in lines if b":" in line]
    return [(n.decode("latin-1").lower(), v.strip().decode("latin-1")) for n, v in pairs]


def chunked(data):
    """(body, bytes used) of a chunked body that is complete, else None."""
    at, body = 0, []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(re.match(rb"[0-9A-Fa-f]+", data[at:end])[0], 16)
        at = end + 2
        if size == 0:
            while True:                                    # trailers
                end = data.find(b"\r\n", at)
                if end < 0:
                    return None
                if end == at:
                    return b"".join(body), at + 2
                at = end + 2
        if len(data) < at + size + 2:
            return None
        body.append(bytes(data[at:at + size]))
        at += size + 2


class Request:
    def __init__(self, head, body, raw_body):
        self.head, self.body, self.raw_body = head, body, raw_body
        self.fields = head_fields(head)
        self.line = head.split(b"\r\n", 1)[0].decode("latin-1")
        self.method, self.target = (self.line.split(" ") + ["", ""])[:2]

    def get(self, name):
        return next((v for n, v in self.fields if n == name.lower()), None)

    def echo(self):
        return json.dumps({"method": self.method, "target": self.target, "headers": self.fields,
                           "body": self.body.decode("latin-1")}).encode()


def server_context(certs, variant):
    """TLS for an upstream: a certificate's name, or a fault of the protocol itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert = variant
    if variant == "tls13_only":
        context.minimum_version, cert = ssl.TLSVersion.TLSv1_3, "ok"
    elif variant in ("tls10_only", "tls11_only"):
        context.set_ciphers("ALL:@SECLEVEL=0")
        version = ssl.TLSVersion.TLSv1 if variant == "tls10_only" else ssl.TLSVersion.TLSv1_1
        context.minimum_version = context.maximum_version = version
        cert = "rsa"
    elif variant == "no_common_cipher":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("DHE-RSA-AES128-GCM-SHA256")
        cert = "rsa"
    context.load_cert_chain(certs / (cert + ".pem"))
    return context


def read_head(recv):
    """What comes as far as the end of a head, with what came behind it, or as the connection ended. recv() -> bytes, none at its end."""
    data = b""
    while b"\r\n\r\n" not in data and (part := recv()):
        data += part
    return data


def each_connection(listener, serve):
    """Runs serve(socket) on a thread of its own for each connection, until the listener is closed; does not wait."""
    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


class Upstream:
    """A scripted server. `reply` is one answer or a list of them, the last repeating: "echo", raw bytes as a
    string, or a list of steps (see `play`). `at_connect` may be stall, close, reset or garbage."""

    def __init__(self, spec, certs):
        self.spec = spec
        self.context = None if spec.get("plain") else server_context(certs, spec.get("tls", "ok"))
        if self.context and spec.get("alpn"):
            self.context.set_alpn_protocols(spec["alpn"])
        self.lock = threading.Lock()
        self.wires = set()
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((spec.get("bind", "127.0.0.1"), spec.get("at", 0)))
        self.port = self.sock.getsockname()[1]
        self.reset(spec)
        if spec.get("refuse"):                             # the port answers RST
            self.sock.close()
        else:
            self.sock.listen(1024)
            each_connection(self.sock, self._serve)

    def reset(self, spec):
        """Forgets what it saw, takes a new script."""
        with self.lock:
            self.requests, self.connections, self.plaintext, self.resumed = [], 0, 0, 0
            self.reply, self.read = spec.get("reply", "echo"), spec.get("read", "all")
            self.at_connect, self.answered = spec.get("at_connect"), 0
            self.cut = []                                  # requests whose body never ended
            self.delay = spec.get("delay", 0)

    def stop(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)           # or its thread goes on accepting, on whatever gets its descriptor
        except OSError:
            pass
        self.sock.close()
        for wire in list(self.wires):
            try:
                wire.sock.close()
            except OSError:
                pass

    def _serve(self, sock):
        wire = Wire(sock)
        with self.lock:
            self.connections += 1
            self.wires.add(wire)
            at_connect = self.at_connect
        try:
            if at_connect == "stall":
                while wire.recv(120):
                    pass
                return
            if at_connect == "garbage":
                wire.send(b"HTTP/1.1 400 this is no TLS\r\n\r\n")
                wire.recv(1)
                return
            if at_connect == "echo":                       # no protocol at all
                while part := wire.recv(60):
                    wire.send(part)
                return
            if at_connect in ("close", "reset"):
                return wire.reset() if at_connect == "reset" else None
            if self.context:
                wire.start_tls(self.context, server_side=True)
                if wire.tls.session_reused:
                    self.resumed += 1
            self._converse(wire)
        except (OSError, ssl.SSLError, TimeoutError, ConnectionError, ValueError):
            pass
        finally:
            self.wires.discard(wire)
            if wire.eof != "ours":
                try:
                    wire.close()
                except OSError:
                    pass

    def _more(self, wire, data, timeout=60):
        part = wire.recv(timeout)
        if not part:
            return False
        with self.lock:
            self.plaintext += len(part)
        data += part
        return True

    def _converse(self, wire):
        data = bytearray()
        while True:
            while b"\r\n\r\n" not in data:
                if not self._more(wire, data):
                    return
            head, _, rest = bytes(data).partition(b"\r\n\r\n")
            data[:] = rest
            fields = dict(head_fields(head))
            request = Request(head, b"", b"")
            with self.lock:
                index, self.answered = self.answered, self.answered + 1
                reply, read, delay = self.reply, self.read, self.delay
            if isinstance(reply, list):
                reply = reply[min(index, len(reply) - 1)]
            if read == "none":
                with self.lock:
                    self.requests.append(request)
                return self.play(wire, reply, request, data)
            if read == "head":
                with self.lock:
                    self.requests.append(request)
                if self.play(wire, reply, request, data):
                    return
            if "expect" in fields and not data and read == "all":
                wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                if "chunked" in fields.get("transfer-encoding", ""):
                    while (found := chunked(data)) is None:
                        if not self._more(wire, data):
                            return self._cut(request, data)
                    request.body, used = found
                else:
                    used = int(fields.get("content-length", 0))
                    while len(data) < used:
                        if not self._more(wire, data):
                            return self._cut(request, data)
                    request.body = bytes(data[:used])
            except OSError:                                # a reset
                self._cut(request, data)
                raise
            request.raw_body = bytes(data[:used])
            del data[:used]
            if read == "head":
                continue
            self._note(request, read)
            if delay:
                time.sleep(delay)
            if self.play(wire, reply, request, data):
                return

    def _cut(self, request, data):
        request.raw_body = bytes(data)                     # what came of it
        self.cut.append(request)

    def _note(self, request, read):
        if read == "all":
            with self.lock:
                self.requests.append(request)

    def play(self, wire, reply, request, data):
        """Answers; true when the connection has ended."""
        if isinstance(reply, dict) and "steps" not in reply:
            reply = answer(**reply)
        elif isinstance(reply, dict):
            reply = reply["steps"]
        for step in reply if isinstance(reply, list) else [reply]:
            if step == "echo":
                body = request.echo()
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                wire.send(head if request.method == "HEAD" else head + body)
            elif isinstance(step, str):
                wire.send(step.encode("latin-1"))
            elif isinstance(step, (int, float)):
                time.sleep(step)
            elif "repeat" in step:
                block = step["repeat"].encode("latin-1")
                for _ in range(step["times"]):
                    wire.send(block)
                    if step.get("every"):
                        time.sleep(step["every"])
            elif "bytewise" in step:
                for c in step["bytewise"].encode("latin-1"):
                    wire.send(bytes([c]))
                    time.sleep(step.get("every", 0.01))
            elif "until" in step:                          # of what the client sends after its head
                while step["until"].encode("latin-1") not in data:
                    if not self._more(wire, data):
                        return True
            elif "relay" in step:                          # echo bytes, as a WebSocket or a tunnel would
                while True:
                    if data:
                        wire.send(bytes(data))
                        data.clear()
                    if not self._more(wire, data):
                        return True
            elif "half_close" in step:
                wire.half_close()
            elif "reset" in step:
                wire.reset()
                return True
            elif "close" in step:
                wire.close(clean=step["close"] != "ragged")
                return True
        return False


def answer(status=200, reason="OK", headers=None, body="", type="application/json"):
    text = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {type}\r\nContent-Length: {len(body)}\r\n"
    text += "".join(f"{n}: {v}\r\n" for n, v in (headers or {}).items())
    return text + "\r\n" + body


class Response:
    """What a client got: `complete` is false where the end never came, `by_close` where only a close ends it."""

    def __init__(self, status, head):
        self.status, self.head, self.body = status, head, b""
        self.fields, self.complete, self.by_close = head_fields(head), False, False

    def get(self, name):
        return next((v for n, v in self.fields if n == name.lower()), None)

    def all(self, name):
        return [v for n, v in self.fields if n == name.lower()]


def parse_responses(data, methods, ended):
    """Every response in data: (interim responses, final ones, bytes left over). methods: one per answer, the last
    repeating; ended: the peer has closed."""
    interim, final, data = [], [], bytes(data)
    while data:
        head, found, rest = data.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r|$)", head)
        if not found or not match:
            break
        r = Response(int(match[1]), head)
        if 100 <= r.status < 200 and r.status != 101:
            interim.append(r)
            data = rest
            continue
        method = methods[min(len(final), len(methods) - 1)]
        final.append(r)
        length = r.get("content-length")
        if method == "HEAD" or r.status in (101, 204, 304) or (method == "CONNECT" and r.status < 300):
            r.complete, data = True, rest
        elif "chunked" in (r.get("transfer-encoding") or "").lower():
            try:
                got = chunked(rest)
            except (TypeError, ValueError):                # not chunked at all
                got = None
            if got:
                r.body, used = got
                r.complete, data = True, rest[used:]
            else:
                r.body, data = rest, b""
        elif length is not None:
            size = int(length) if length.isdigit() else 1 << 62
            r.body, data = rest[:size], rest[size:]
            r.complete = len(r.body) == size
        else:
            r.body, data, r.by_close, r.complete = rest, b"", True, ended
        if r.status == 101:
            r.body, data = data, b""
    return interim, final, data
