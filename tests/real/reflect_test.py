"""A server that reflects what it got, in random places and codings, through every type that attaches something: nothing of a
secret reaches the client in a form that README names. REFLECT_ROUNDS=20 asks for twenty times as many; REFLECT_SEED repeats a run.

What is looked for in the answers is written here from the standards, and shares nothing with the search (RFC 4648, RFC 3986,
RFC 8259, HTML's character references)."""
import base64
import gzip
import html
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import zlib

import certs
import peers
import sallyport

ROUNDS, SEED = int(os.environ.get("REFLECT_ROUNDS", 1)), int(os.environ.get("REFLECT_SEED", 11))
STS, SQS, EKS = "sts.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com", "abc.gr7.eu-west-1.eks.amazonaws.com"
SESSION = "canary-session-token//with+odd==0123"
KEY, SPACED, ODD = "canary-k3y-0123456789abcdef", "canary with sp aces/+ 01234", 'canary"odd\\<&>%41\'~`{}^k'
AWS = ["access_key_id=AKIAREALKEY000000001"]


# -- what a server may make of a text

def forms(rng, text):
    """The text in one coding of the whole."""
    raw, junk = text.encode("latin-1"), bytes(rng.randrange(33, 127) for _ in range(rng.randrange(4)))
    how = rng.randrange(7)
    if how < 2:
        return text
    if how == 2:
        return raw.hex() if rng.random() < .5 else raw.hex().upper()
    if how == 3:
        return text.replace(" ", "+")
    coded = (base64.urlsafe_b64encode if how == 4 else base64.b64encode)(junk + raw + bytes(rng.randrange(256) for _ in range(rng.randrange(3))))
    return coded.decode().rstrip("=") if rng.random() < .5 else coded.decode()


def escape(rng, text, how, many=True):
    """Every character escaped or not, in one of the codings; what must be escaped is. many=False: nothing but that."""
    often, out = rng.choice((0, 0, .2, 1)) if many else 0, []
    for c in text:
        more, upper = rng.random() < often, rng.random() < .5
        code = f"{ord(c):02{'X' if upper else 'x'}}"
        if how == "percent" and (more or c in "% &#\"<>"):
            c = f"%{code}"
        elif how == "twice" and (more or c in "% &"):
            c = f"%25{code}"
        elif how == "JSON" and (more or c in "\"\\"):
            c = f"\\{c}" if c in "\"\\/" and upper else f"\\u00{code}"
        elif how == "HTML" and (more or c in "&<>\"'"):
            c = rng.choice((html.escape(c), f"&#{ord(c)};", f"&#x{code};")) if c in "&<>\"'" else f"&#{ord(c)};" if upper else f"&#x{code};"
        out.append(c)
    return "".join(out)


def spell(rng, text, coded=False):
    """One spelling. coded: the text came percent-encoded, so that percent's are the escapes of escapes already."""
    how = rng.choice(("raw", "percent", "twice", "JSON", "HTML"))
    return escape(rng, forms(rng, text), "percent" if coded and how == "twice" else how, not coded)


# -- what a reader makes of an answer

def readings(raw):
    """(name, text): the answer as it is, and without the escapes of each coding."""
    text = raw.decode("latin-1")
    yield "as it is", text
    yield "percent", urllib.parse.unquote(text, "latin-1")
    yield "percent twice", urllib.parse.unquote(urllib.parse.unquote(text, "latin-1"), "latin-1")
    yield "JSON", re.sub(r'\\(u[0-9a-fA-F]{4}|["\\/])', lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else m[1], text)
    yield "HTML", re.sub(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);", lambda m: html.unescape(m[0]), text)


def looks(secret):
    """(name, text): the forms in which a secret can be read."""
    raw = secret.encode("latin-1")
    yield "itself", secret
    yield "plus for spaces", secret.replace(" ", "+")
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        inner = coded[(8 * before + 5) // 6:(8 * (before + len(raw))) // 6]
        yield f"Base64 behind {before}", inner
        yield f"base64url behind {before}", inner.replace("+", "-").replace("/", "_")


def shown(raw, secrets):
    found = []
    for how, text in readings(raw):
        low = text.lower()
        for secret in secrets:
            found += [(secret, form, how) for form, look in looks(secret) if look in text]
            found += [(secret, "hexadecimal", how)] * (secret.encode("latin-1").hex() in low)
    return found


# -- the server

class Server:
    """Token endpoints, and an API that reflects. `tokens`: what was handed out, or came, by host."""

    def __init__(self, pem, rng):
        self.rng, self.got, self.tokens, self.hits = rng, {}, {}, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pem)
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            sock, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        try:
            with self.context.wrap_socket(sock, server_side=True) as tls:
                tls.settimeout(30)
                head, end, body = peers.read_head(lambda: tls.recv(65536)).partition(b"\r\n\r\n")
                if not end:
                    return
                lines = head.decode("latin-1").split("\r\n")
                fields = [tuple(line.split(": ", 1)) for line in lines[1:] if ": " in line]
                by_name = {n.lower(): v for n, v in fields}
                while len(body) < int(by_name.get("content-length", 0)):
                    body += tls.recv(65536)
                method, target = lines[0].split(" ")[:2]
                token = self.token(by_name["host"], target)
                for part in [token] if token else self.reflect(method, target, fields, by_name, body.decode("latin-1")):
                    tls.sendall(part) if isinstance(part, bytes) else time.sleep(part)
                tls.unwrap()
        except (OSError, ssl.SSLError):
            pass                                # the proxy cut it

    def token(self, host, target):
        if host not in ("auth.test", STS) and "access_tokens" not in target:
            return None
        made = f"canary-token-{self.rng.getrandbits(64):016x}/+={len(self.tokens)}"
        self.tokens.setdefault(host, []).append(made)
        answer = {"access_token": made, "id_token": made, "token": made, "expires_in": 3600, "expires_at": "2999-01-01T00:00:00Z", "token_type": "Bearer"}
        if host == STS:
            answer = {"AssumeRoleResponse": {"AssumeRoleResult": {"Credentials": {"AccessKeyId": "ASIAROLEKEY000000001", "SecretAccessKey": KEY,
                "SessionToken": made, "Expiration": int(time.time()) + 3600}}}}
        body = json.dumps(answer).encode()
        return b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
            201 if "access_tokens" in target else 200, len(body), body)

    def parts(self, target, fields, body):
        """What a server may have in its hands, as it came and as it reads it."""
        out = [urllib.parse.unquote(target, "latin-1")]
        out += [v for _, v in urllib.parse.parse_qsl(target.partition("?")[2], encoding="latin-1")]
        out += [v for _, v in urllib.parse.parse_qsl(body, encoding="latin-1")] if "=" in body and not body.startswith("{") else []
        out += [v for v in json.loads(body).values() if isinstance(v, str)] if body.startswith("{") else []
        for _, value in fields:
            scheme, _, rest = value.partition(" ")
            out += [value] + ([rest] if rest else [])
            if scheme == "Basic":
                pair = base64.b64decode(rest).decode("latin-1")
                out += [pair, pair.partition(":")[2]]
        return [(x, False) for x in out] + [(x, "%" in x) for x in (target, body) if x]

    def reflect(self, method, target, fields, by_name, body):
        rng = self.rng
        self.got.setdefault(by_name["host"], []).append((target, by_name, body))
        mine = [f for f in fields if f[0].lower() not in ("host", "accept", "accept-encoding", "content-length", "content-type", "connection",
                                                          "sec-websocket-key", "sec-websocket-version", "upgrade")]
        parts = self.parts(target, mine, body)
        text = lambda: spell(rng, *rng.choice(parts))   # noqa: E731
        noise = lambda n: "".join(rng.choices('abc {}":,/%&\\<=0Zcanary-k', k=rng.randrange(n)))  # noqa: E731
        if "sec-websocket-key" in by_name:
            yield from self.websocket(by_name, [noise(200) + text() + noise(200) for _ in range(rng.randrange(1, 4))])
            return
        where = rng.choice(("head", "body", "body", "body", "both"))
        head, status = [], rng.choice(("200 OK", "200 OK", "201 Created", "302 Found", "400 Bad", "401 Unauthorized", "404 Not Found", "500 Oh", "206 Partial"))
        if where != "body":
            for name in rng.sample(("X-Echo", "Set-Cookie", "Location", "ETag", "Link", "WWW-Authenticate", "Content-Disposition", "X-Request-Id", "Warning",
                                    "Access-Control-Allow-Origin", "Content-Type", "Server"), rng.randrange(1, 4)):
                head.append(f"{name}: {noise(30).strip()}{text()}")
            if rng.random() < .2:
                status = status.split(" ")[0] + " " + text()
            if rng.random() < .2:
                head.append(re.sub(r"[^A-Za-z0-9!#$%&'*+.^_`|~-]", "-", forms(rng, rng.choice(parts)[0])) + ": 1")
        if rng.random() < .15:
            yield f"HTTP/1.1 103 Early Hints\r\nLink: <{text()}>\r\n\r\n".encode("latin-1")
        content = noise(400) + "".join(text() + noise(400) for _ in range(rng.randrange(1, 4))) if where != "head" else noise(50)
        content = content.encode("latin-1") + (b"." * rng.choice((0, 0, 0, 20000)))
        if rng.random() < .3:
            content = b"," * rng.choice((15000, 16380, 40000)) + content
        if not any(h.startswith("Content-Type") for h in head):
            head.append("Content-Type: " + rng.choice(("application/json", "text/html", "text/plain; charset=utf-8", "application/problem+json", "text/event-stream",
                                                       "application/x-www-form-urlencoded", "application/octet-stream", "image/png", "application/xml")))
        coding = rng.choice((None, None, None, "gzip", "deflate", "x-gzip", "raw deflate", "identity", "br"))
        if coding:
            head.append(f"Content-Encoding: {coding.split(' ')[-1]}")
            packer = zlib.compressobj(6, wbits=31 if "gzip" in coding else -15 if coding[0] == "r" else 15)
            content = packer.compress(content) + packer.flush() if coding not in ("identity", "br") else content
        if rng.random() < .1:
            head.append(rng.choice(("Content-MD5: x", "Digest: sha-256=x", "x-amz-checksum-crc32: x", "Repr-Digest: sha-256=:eA==:")))
        framing = rng.choice(("length", "length", "chunked", "close"))
        tail = b""
        if framing == "length":
            head.append(f"Content-Length: {len(content)}")
        elif framing == "chunked":
            head.append("Transfer-Encoding: chunked")
            if rng.random() < .3:
                tail = f"X-Trailer: {text()}\r\n".encode("latin-1")
        clean = [re.sub(r"[\r\n\0]", "", h) for h in head + ["Connection: close"]]
        yield ("\r\n".join([f"HTTP/1.1 {status}"] + clean) + "\r\n\r\n").encode("latin-1")
        if method == "HEAD":
            return
        while content:
            n = rng.choice((1, 7, 30, 1000, 1 << 20)) if len(content) < 3000 else rng.choice((3000, 1 << 20))
            piece, content = content[:n], content[n:]
            yield b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece
            if rng.random() < .01:
                yield .25                       # a beginning that is held goes on
        if framing == "chunked":
            yield b"0\r\n" + tail + b"\r\n"

    def websocket(self, by_name, texts):
        import hashlib
        accept = base64.b64encode(hashlib.sha1((by_name["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        yield f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        for text in texts:
            data, first = text.encode("latin-1", "replace"), 1
            while data or first:
                n = self.rng.choice((1, 20, 125, 4000))
                piece, data = data[:n], data[n:]
                size = bytes([len(piece)]) if len(piece) < 126 else b"\x7e" + len(piece).to_bytes(2, "big")
                yield bytes([first | (0 if data else 128)]) + size + piece
                first = 0
                if self.rng.random() < .1:
                    yield b"\x89\x01p"
        yield b"\x88\x02\x03\xe8"


# -- the client

def read(raw):
    """All that the client can read of an answer: heads and trailers, and the bodies behind framing and coding."""
    rest, out = raw, []
    while rest.startswith(b"HTTP/1.1 1") and not rest.startswith(b"HTTP/1.1 101"):
        head, _, rest = rest.partition(b"\r\n\r\n")
        out.append(head)
    head, _, body = rest.partition(b"\r\n\r\n")
    out.append(head)
    if head.startswith(b"HTTP/1.1 101"):
        text = b""
        while len(body) >= 2:
            n, at = body[1] & 127, 2
            n, at = (int.from_bytes(body[2:4], "big"), 4) if n == 126 else (n, at)
            text += body[at:at + n] if body[0] & 15 < 3 else b""
            text += b"\n\n" if body[0] & 128 and body[0] & 15 < 3 else b""
            body = body[at + n:]
        return out + [text]
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        text = b""
        while m := re.match(rb"([0-9a-fA-F]+)\r\n", body):
            n = int(m[1], 16)
            text, body = text + body[m.end():m.end() + n], body[m.end() + n + 2:]
            if n == 0:
                break
        out.append(body)
        body = text
    out.append(body)
    coding = re.search(rb"(?i)\r\ncontent-encoding: *(\S+)", head)
    for wbits in (31, 15, -15) if coding and coding[1] not in (b"br", b"identity") else ():
        try:
            out.append(zlib.decompressobj(wbits).decompress(body))
        except zlib.error:
            pass
    return out


def ask(s, agent, host, method, target, head, body=b""):
    wire = s.tunnel(host, auth=s.auth(None, agent))
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *head, *([f"Content-Length: {len(body)}"] if body else [])]
    raw = b""
    try:
        wire.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        while part := wire.recv(20 * sallyport.SLOW):
            raw += part
    except (ConnectionError, OSError):
        pass                                    # cut: what came before counts
    finally:
        wire.close()
    return raw


def openssl(*args):
    import subprocess
    return subprocess.run(["openssl", *args], capture_output=True, text=True, check=True).stdout


def arrange(t, agents):
    """name -> (host, method, target, fields, body, what the client must not see beside tokens, whose tokens)"""
    t.need("openssl")
    s = t.bare()
    s.init()
    folder = s.dir / "helpers"
    folder.mkdir(mode=0o755)
    (folder / "printer").write_text("#!/bin/sh\nprintf '{\"X-Printed\": \"" + KEY + "-printed\"}'\n")
    (folder / "printer").chmod(0o755)
    key, spaced, odd, session = (s.secret_file(x) for x in (KEY, SPACED, ODD, SESSION))
    pem = openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    rsa, document = s.dir / "rsa.pem", s.dir / "account.json"
    rsa.write_text(pem)
    document.write_text(json.dumps({"type": "service_account", "client_email": "a@p.test", "private_key_id": "k", "token_uri": "https://auth.test/token", "private_key": pem}))
    oauth = "token_url=https://auth.test/token"
    made, rows = {}, [
        ("bearer", [f"token=@{key}", f"headers.X-Second=@{spaced}"], [KEY, SPACED]),
        ("api_key", ["header=X-Key", f"key=@{odd}"], [ODD]),
        ("basic", ["username=user", f"password=@{spaced}"], [SPACED, base64.b64encode(f"user:{SPACED}".encode()).decode()]),
        ("registry", ["username=user", "basic=yes", f"password=@{spaced}"], [SPACED, base64.b64encode(f"user:{SPACED}".encode()).decode()]),
        ("body_parameter", ["name=key", "in=query", f"value=@{odd}"], [ODD]),
        ("body_parameter", ["name=key", "in=form", f"value=@{spaced}"], [SPACED], "POST", b"a=1", "application/x-www-form-urlencoded"),
        ("body_parameter", ["name=key", "in=json", f"value=@{odd}"], [ODD], "POST", b'{"a":"b"}', "application/json"),
        ("substitute", [f"value=@{key}", "--substitute", "value:header=X-Sub:__PLACE_HOLDER__"], [KEY]),
        ("substitute", [f"value=@{key}", "--substitute", "value:path=/bot{}/**:__PLACE_HOLDER__"], [KEY]),
        ("hmac", [f"key=@{key}", "string={method}", "set.X-Sign={signature}", f"headers.X-Pass=@{spaced}"], [KEY, SPACED]),
        ("jwt", [f"private_key=@{rsa}", "claims.iss=me"], []),
        ("aws_sigv4", [*AWS, f"secret_access_key=@{key}", f"session_token=@{session}", "region=eu-west-1", "service=sqs"], [KEY, SESSION]),
        ("aws_assume_role", [*AWS, f"secret_access_key=@{key}", "role_arn=arn:aws:iam::123456789012:role/agent", "region=eu-west-1"], [KEY]),
        ("aws_eks", [*AWS, f"secret_access_key=@{key}", f"session_token=@{session}", "cluster=demo", "region=eu-west-1"], [KEY, SESSION]),
        ("command", ["program=printer"], [KEY + "-printed"]),
        ("oauth_client_credentials", [oauth, "client_id=me", f"client_secret=@{key}"], [KEY]),
        ("oauth_jwt_bearer", [oauth, "issuer=i", f"private_key=@{rsa}"], []),
        ("gcp_access_token", [f"key=@{document}"], []),
        ("gcp_iap", [f"key=@{document}", "audience=1-a.apps.googleusercontent.com"], []),
        ("github_app", ["api_url=https://ghe.test/api/v3", "app_id=1", "installation_id=7", f"private_key=@{rsa}"], []),
    ]
    for p in (rsa, document):
        p.chmod(0o600)
    for i, (kind, flags, secrets, *shape) in enumerate(rows):
        method, body, content = shape or ("GET", b"", "")
        host = {"aws_sigv4": SQS, "aws_assume_role": "sns.eu-west-1.amazonaws.com", "aws_eks": EKS, "github_app": "ghe.test"}.get(kind, f"h{i}.test")
        s.cli("credential", "add", f"c{i}", "--type", kind, "--host", host, *flags)
        target, head = "/v2/a/tags/list?b=c" if kind == "registry" else "/v1/a?b=c", [f"Content-Type: {content}"] if content else []
        if kind == "substitute":
            target, head = (target, ["X-Sub: see __PLACE_HOLDER__"]) if "header" in flags[2] else ("/bot__PLACE_HOLDER__/send?x=1", [])
        made[f"{kind} {i}"] = (host, method, target, head, body, secrets)
    kinds = {p["name"] for p in json.loads(s.cli("policy", "list", "--json").stdout) if p["kind"] == "type"}
    # a person consents to oauth_authorization_code; its token goes out as that of oauth_client_credentials does
    assert kinds == {kind for kind, *_ in rows} | {"oauth_authorization_code"}, kinds
    for i in range(agents):
        s.agent(f"a{i}")
    hosts = sorted({x[0] for x in made.values()} | {"auth.test", STS})
    server = Server(certs.leaf(sallyport.certs(), s.dir, hosts), random.Random(SEED))
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--helpers", folder, *[x for h in hosts for x in ("--connect-to", f"{h}:443:127.0.0.1:{server.port}")])
    return s, server, made


def carried(kind, got):
    """The tokens that the last request carried and that were made for it."""
    value = got[-1][1].get("authorization", "")
    scheme, _, rest = value.partition(" ")
    return [rest] if scheme == "Bearer" and len(rest) >= 16 else []


def test_reflecting(t):
    """through every type, in random places and codings: no secret comes back"""
    each = 16 * ROUNDS
    s, server, made = arrange(t, 2 + each // 8)         # ten answers of an agent and credential may have hits in a minute
    rng, wrong, passed, limited, told = random.Random(SEED), [], 0, 0, 0
    for name, (host, method, target, head, body, secrets) in made.items():
        for i in range(each):
            websocket = method == "GET" and "substitute" not in name and rng.random() < .15
            more = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="] if websocket else ["Connection: close"]
            asked = ["Accept-Encoding: gzip, deflate, br"] if rng.random() < .7 else []
            before = len(server.got.get(host, []))
            how = "HEAD" if method == "GET" and not websocket and rng.random() < .05 else method
            raw = ask(s, f"a{i % (2 + each // 8)}", host, how, target, head + asked + more, body)
            got = server.got.get(host, [])
            assert len(got) > before, (name, raw[:600])
            must = secrets + carried(name, got) + [x for tokens in server.tokens.values() for x in tokens]
            passed += raw.startswith(b"HTTP/1.1 ")
            limited += b"scrub_limit" in raw
            for part in read(raw):
                if found := shown(part, must):
                    wrong.append((name, i, found[:3], re.sub(rb"(.)\1{50,}", rb"\1..", part)[:2000]))
    told = sum(r.get("scrubbed", 0) for r in s.records())
    assert not wrong, (len(wrong), wrong[:3])
    assert passed > each * len(made) * .7 and limited < each * len(made) * .1 and told > each * len(made) * .4, (passed, limited, told, each * len(made))


def test_reader(t):
    """the reader above does find each form in each coding: else nothing that it says of answers would mean anything"""
    rng, missed = random.Random(SEED), []
    for secret in (KEY, SPACED, ODD, SESSION):
        for _ in range(400):
            text = spell(rng, secret)
            if not shown(("x " + text + " y").encode("latin-1"), [secret]):
                missed.append((secret, text))
    body = b"see " + KEY.encode()
    for raw in (b"HTTP/1.1 200 OK\r\nX-Echo: %s\r\n\r\n" % KEY.encode(), b"HTTP/1.1 103 Hints\r\nLink: %s\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" % KEY.encode(),
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(body), b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n" + zlib.compress(body),
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsee c\r\n%x\r\n%s\r\n0\r\nX-T: 1\r\n\r\n" % (len(KEY) - 1, KEY[1:].encode()),
                b"HTTP/1.1 101 S\r\n\r\n\x01\x05see c\x89\x01p\x80" + bytes([len(KEY) - 1]) + KEY[1:].encode()):
        if not any(shown(part, [KEY]) for part in read(raw)):
            missed.append(raw)
    assert not missed, (len(missed), missed[:5])
