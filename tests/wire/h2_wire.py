"""A wire that speaks HTTP/2 below a client that says HTTP/1.1: so wire cases run a second time, where they mean the same there.

A request of the case becomes a stream (RFC 9113 8.3); its answer comes back as the text of HTTP/1.1 that parse_responses
reads. Requests that a case pipelines go one after the other, for streams have no order. NotTheSame is raised where the
text has no equal in HTTP/2: another framing, a malformed head, a field of the connection.
"""
import http
import re

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
CONNECTION_FIELDS = {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"http2-settings", b"te", b"trailer"}
# What a case may expect that is about the connection, or about bytes as HTTP/1.1 frames them.
FRAMING = {"raw_has", "raw_not", "no_answer", "tls_error", "connect_status"}


class NotTheSame(Exception):
    """The case means nothing, or something else, over HTTP/2."""


def check_case(case):
    """Raises NotTheSame for what can be told before it runs."""
    if case.get("via", "tunnel") != "tunnel" or {"alpn", "sni", "tls", "refuse"} & set(case):
        raise NotTheSame("another way in")
    clients = case.get("client") or []
    if not {"status", "statuses"} & set(case.get("expect") or {}):
        raise NotTheSame("no answer is awaited")
    for expect in [case.get("expect") or {}, *[c.get("expect") or {} for c in (clients if isinstance(clients, list) else [clients])]]:
        if FRAMING & set(expect) or expect.get("closed"):
            raise NotTheSame("it is about the connection")
        named = {n.lower() for n in expect.get("headers") or {}} | {expect["no_headers"].lower()} if \
            isinstance(expect.get("no_headers"), str) else {n.lower() for n in [*(expect.get("headers") or {}), *(expect.get("no_headers") or [])]}
        if named & {"transfer-encoding", "connection", "keep-alive"}:
            raise NotTheSame("it is about framing")
        if expect.get("error") in ("bad_request", "head_too_large", "trace"):
            raise NotTheSame("HTTP/2 has its own errors of that kind, which real/h2_test names")
        for server in [expect.get("upstream"), *(expect.get("servers") or {}).values()]:
            if isinstance(server, dict) and {"raw_body", "head_has", "head_not"} & set(server):
                raise NotTheSame("it is about bytes of the head")


class H2Wire:
    """Has what the harness uses of a Wire: send, recv, eof, tls, close, reset."""

    def __init__(self, wire):
        if wire.tls.selected_alpn_protocol() != "h2":
            raise AssertionError(f"ALPN chose {wire.tls.selected_alpn_protocol()}")
        self.wire, self.ended = wire, None
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False))
        self.typed = b""            # of the case's text, what is not sent
        self.body = None            # of the request that is being sent: bytes left, or "chunked"; None: a head comes
        self.stream = None          # the only one that is open
        self.method = b"GET"
        self.outgoing = bytearray() # of its body, what waits for a window
        self.closing = False        # the body ends behind it
        self.chunked = False        # so its answer goes on
        self.h2.initiate_connection()
        self.flush()

    tls = property(lambda self: self.wire.tls)
    eof = property(lambda self: self.ended or self.wire.eof)

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.wire.send(data)

    # -- the request
    def send(self, data):
        self.typed += data
        self.go_on()
        self.flush()

    def go_on(self):
        while self.typed and not self.ended:
            if self.body is None:
                if self.stream is not None or b"\r\n\r\n" not in self.typed:
                    break           # the answer before it comes first
                head, _, self.typed = self.typed.partition(b"\r\n\r\n")
                self.begin(head)
            elif self.body == "chunked":
                m = re.match(rb"([0-9A-Fa-f]+)(?:;[^\r\n]*)?\r\n", self.typed)
                if not m:
                    if len(self.typed) > 20 and b"\r\n" in self.typed[:20]:
                        raise NotTheSame("chunks that are none")
                    break
                size = int(m[1], 16)
                if size == 0:
                    trailers, found, rest = self.typed[m.end() - 2:].partition(b"\r\n\r\n")
                    if not found:
                        break
                    if trailers.strip():
                        raise NotTheSame("trailers of a request are in real/h2_test")
                    self.typed, self.body, self.closing = rest, None, True
                elif len(self.typed) < m.end() + size + 2:
                    break
                else:
                    self.outgoing += self.typed[m.end():m.end() + size]
                    self.typed = self.typed[m.end() + size + 2:]
            else:
                part = self.typed[:self.body]
                self.outgoing += part
                self.typed, self.body = self.typed[len(part):], self.body - len(part)
                if self.body == 0:
                    self.body, self.closing = None, True
            self.move()

    def begin(self, head):
        lines = head.split(b"\r\n")
        m = re.fullmatch(rb"([!-~]+) ([!-~]+) HTTP/1\.1", lines[0])
        fields = [re.fullmatch(rb"([^:]+):[ \t]*(.*?)[ \t]*", line, re.S) for line in lines[1:]]
        if not m or not TOKEN.fullmatch(m[1]) or m[2][:1] not in b"/*" or None in fields:
            raise NotTheSame("no plain head")
        fields = [(f[1].lower(), f[2]) for f in fields]
        names = [n for n, _ in fields]
        if names.count(b"host") != 1 or CONNECTION_FIELDS & set(names) or not all(map(TOKEN.fullmatch, names)) \
                or any(re.search(rb"[\r\n\0]", v) for _, v in fields):
            raise NotTheSame("fields of the connection, or none that HTTP/2 has")
        framing = [v for n, v in fields if n in (b"transfer-encoding", b"content-length")]
        if len(framing) > 1 or (b"transfer-encoding" in names and framing[0].lower() != b"chunked") \
                or (b"content-length" in names and not framing[0].isdigit()):
            raise NotTheSame("framing of another kind")
        self.method = m[1]
        self.body = None if not framing else "chunked" if b"transfer-encoding" in names else int(framing[0]) or None
        self.stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(self.stream, [(b":method", m[1]), (b":scheme", b"https"),
                                           (b":authority", dict(fields)[b"host"]), (b":path", m[2]),
                                           *[f for f in fields if f[0] not in (b"host", b"transfer-encoding")]],
                             end_stream=self.body is None)
        self.closing = False

    def move(self):
        """Sends of the body as much as the windows take."""
        while self.stream is not None and (self.outgoing or self.closing):
            room = min(self.h2.local_flow_control_window(self.stream), self.h2.max_outbound_frame_size)
            part = bytes(self.outgoing[:room])
            if self.outgoing and not part:
                return
            del self.outgoing[:len(part)]
            last = self.closing and not self.outgoing
            self.h2.send_data(self.stream, part, end_stream=last)
            self.closing = self.closing and not last
            self.flush()

    # -- the answer
    def recv(self, timeout):
        got = b""
        while not got and not self.eof:
            data = self.wire.recv(timeout)
            for e in self.h2.receive_data(data) if data else ():
                got += self.event(e)
            self.move()
            self.go_on()
            self.flush()
        return got

    def head(self, headers):
        status = next(v for n, v in headers if n == b":status")
        assert all(n == n.lower() for n, _ in headers), headers
        phrase = next((s.phrase.encode() for s in http.HTTPStatus if s == int(status)), b".")
        return b"HTTP/1.1 " + status + b" " + phrase + b"\r\n" + b"".join(n + b": " + v + b"\r\n" for n, v in headers if n[:1] != b":")

    def event(self, e):
        if isinstance(e, h2.events.InformationalResponseReceived):
            return self.head(e.headers) + b"\r\n"
        if isinstance(e, h2.events.ResponseReceived):
            names = {n for n, _ in e.headers}
            status = next(v for n, v in e.headers if n == b":status")
            self.chunked = b"content-length" not in names and self.method != b"HEAD" and status not in (b"204", b"304")
            return self.head(e.headers) + (b"transfer-encoding: chunked\r\n" if self.chunked else b"") + b"\r\n"
        if isinstance(e, h2.events.DataReceived):
            self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            return b"%x\r\n%s\r\n" % (len(e.data), e.data) if self.chunked and e.data else e.data
        if isinstance(e, h2.events.StreamEnded):
            if e.stream_id != self.stream:
                return b""
            if self.outgoing or self.closing or self.body is not None:      # answered before the body ended
                self.h2.reset_stream(e.stream_id, h2.errors.ErrorCodes.NO_ERROR)
                self.outgoing, self.closing, self.body, self.typed = bytearray(), False, None, b""
            self.stream = None
            return b"0\r\n\r\n" if self.chunked else b""
        if isinstance(e, h2.events.StreamReset) and e.stream_id == self.stream:
            if e.error_code == h2.errors.ErrorCodes.NO_ERROR:
                return b""
            self.ended, self.stream = "ragged", None
        return b""

    # -- the end
    def close(self, clean=True):
        self.wire.close(clean)

    def reset(self):
        self.wire.reset()

    def half_close(self):
        raise NotTheSame("it is about the connection")

    close_notify = half_close
