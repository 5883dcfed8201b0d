"""A server that speaks S3 and takes nothing on trust: every header signature, presigned URL, chunk signature, trailer
signature and checksum is computed again, and what differs is answered 403 SignatureDoesNotMatch, as S3 does.

The independent party is Debian's botocore: canonical requests, key derivation and the final HMAC are its code. What
botocore does not have (it never sends signed chunks) is the string to sign of a chunk and of a trailer: those few lines
follow the S3 documentation. Other services than S3 get their signature verified and a small answer in their protocol.
Objects are kept in memory, up to OBJECTS_MAX bytes.
"""
import base64
import datetime
import hashlib
import http.server
import re
import socketserver
import ssl
import struct
import threading
import zlib
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

OBJECTS_MAX = 1 << 29
EMPTY = hashlib.sha256(b"").hexdigest()
STREAMING, UNSIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

CRC32C = []
for _n in range(256):
    for _ in range(8):
        _n = _n >> 1 ^ (0x82F63B78 if _n & 1 else 0)
    CRC32C.append(_n)


class Crc32c:
    def __init__(self):
        self.v = 0xFFFFFFFF
        try:
            from awscrt.checksums import crc32c
            self.fast, self.v = crc32c, 0
        except ImportError:
            self.fast = None

    def update(self, data):
        if self.fast:
            self.v = self.fast(data, self.v)
            return
        for b in data:
            self.v = self.v >> 8 ^ CRC32C[(self.v ^ b) & 255]

    def digest(self):
        return struct.pack(">I", self.v if self.fast else self.v ^ 0xFFFFFFFF)


class Crc32:
    v = 0

    def update(self, data):
        self.v = zlib.crc32(data, self.v)

    def digest(self):
        return struct.pack(">I", self.v)


CHECKSUMS = {"x-amz-checksum-crc32": Crc32, "x-amz-checksum-crc32c": Crc32c, "x-amz-checksum-sha256": hashlib.sha256,
             "x-amz-checksum-sha1": hashlib.sha1, "content-md5": hashlib.md5}


class Refused(Exception):
    def __init__(self, status, code, why=""):
        super().__init__(why or code)
        self.status, self.code = status, code


class Plain:
    """A body as HTTP frames it."""

    def __init__(self, handler):
        self.file, self.left, self.trailers = handler.rfile, 0, None
        self.chunked = handler.headers.get("transfer-encoding", "").lower() == "chunked"
        if not self.chunked:
            self.left = int(handler.headers.get("content-length") or 0)

    def read(self, n):
        """Up to n bytes; empty at the end."""
        if self.chunked and self.left == 0 and self.trailers is None:
            self.left = int(self.line(), 16)
            if self.left == 0:
                self.trailers = []
                while line := self.line():
                    self.trailers.append(line)
        data = self.file.read(min(n, self.left)) if self.left else b""
        self.left -= len(data)
        if self.left and not data:
            raise Refused(400, "IncompleteBody")
        if self.chunked and self.left == 0 and data:
            assert self.file.read(2) == b"\r\n", "a chunk ends in CR LF"
        return data

    def line(self):
        line = self.file.readline(4096)
        assert line.endswith(b"\r\n"), f"a line of the framing: {line!r}"
        return line[:-2]


class Pieces:
    """Exact reads from a body."""

    def __init__(self, body):
        self.body, self.have = body, b""

    def exactly(self, n):
        parts, got = [self.have[:n]], min(n, len(self.have))
        self.have = self.have[n:]
        while got < n:
            data = self.body.read(min(65536, n - got))
            if not data:
                raise Refused(400, "IncompleteBody")
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def line(self):
        while b"\n" not in self.have:
            data = self.body.read(4096)
            if not data or len(self.have) > 8192:
                raise Refused(400, "IncompleteBody", f"no line in {self.have[:200]!r}")
            self.have += data
        line, self.have = self.have.split(b"\n", 1)
        return line

    def rest(self):
        parts, self.have = [self.have], b""
        while piece := self.body.read(65536):
            parts.append(piece)
        return b"".join(parts)


class Signer:
    """botocore's signer of one request, asked for what the request should say."""

    def __init__(self, server, method, target, headers, scope, signed, presigned):
        from botocore.auth import S3SigV4Auth, SigV4Auth, S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest, HeadersDict
        from botocore.credentials import Credentials
        key, day, region, service, end = scope
        parts = urlsplit("https://host" + target)
        base = S3SigV4QueryAuth if presigned else S3SigV4Auth if service in ("s3", "s3express") else SigV4Auth

        class Auth(base):
            def headers_to_sign(self, request):     # those that the request says it signed, and no others
                return request.headers

        query = [tuple(map(unquote, (p + "=").split("=")[:2])) for p in parts.query.split("&") if p]
        query = [(k, v) for k, v in query if k != "X-Amz-Signature"]
        path = quote(unquote(parts.path), safe="/~") if service == "s3" else parts.path
        self.auth = Auth(Credentials(server.access_key, server.secret_key), service, region)
        self.request = AWSRequest(method=method, url="https://host" + path, params=query)
        for name in signed:
            values = headers.get_all(name)
            if values is None:
                raise Refused(403, "SignatureDoesNotMatch", f"the signed header {name} is not there")
            for v in values:
                self.request.headers.add_header(name, v)

    def sign(self, timestamp, payload):
        self.request.context["timestamp"] = timestamp
        if "x-amz-content-sha256" in self.request.headers:
            payload = self.request.headers["x-amz-content-sha256"]
        self.auth.payload = lambda request: payload
        canonical = self.auth.canonical_request(self.request)
        self.canonical = canonical
        return self.auth.signature(self.auth.string_to_sign(self.request, canonical), self.request)

    def chunk(self, kind, previous, *hashes):
        """S3 documentation, "Transferring Payload in Multiple Chunks", step 3, and "Including Trailing Headers"."""
        text = "\n".join([f"AWS4-HMAC-SHA256-{kind}", self.request.context["timestamp"],
                          self.auth.credential_scope(self.request), previous, *hashes])
        return self.auth.signature(text, self.request)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *args):
        pass

    def handle_expect_100(self):
        self.send_response_only(100)
        self.end_headers()
        return True

    def answer(self, status, body=b"", headers=None, kind="application/xml"):
        self.send_response(status)
        if body:
            self.send_header("Content-Type", kind)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-request-id", "TEST")
        for n, v in (headers or {}).items():
            self.send_header(n, v)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self):
        srv, note = self.server.s3, {"method": self.command, "host": self.headers.get("host"), "target": self.path}
        srv.seen.append(note)
        srv.heads.append(self.requestline + "\n" + str(self.headers))
        try:
            self.verify(note)
            self.body = self.read_body(note)
            note["size"] = len(self.body)
            self.act(note)
        except Refused as e:
            note["refused"] = f"{e.code}: {e}"
            srv.refused.append(f"{self.command} {self.path[:200]}: {e.code}: {e}")
            self.close_connection = True
            self.answer(e.status, f"<Error><Code>{e.code}</Code><Message>{escape(str(e))}</Message></Error>".encode(),
                        {"Connection": "close"})
        except (ConnectionError, ssl.SSLError) as e:
            note["refused"] = f"connection: {e}"
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve

    # -- who signed it

    def verify(self, note):
        srv, headers = self.server.s3, self.headers
        query = dict((unquote(k), unquote(v)) for k, _, v in
                     (p.partition("=") for p in urlsplit(self.path).query.split("&") if p))
        presigned = "X-Amz-Signature" in query
        if len(headers.get_all("authorization", [])) + presigned != 1:
            raise Refused(403, "AccessDenied", "there must be one signature")
        if presigned:
            what = query["X-Amz-Algorithm"], query["X-Amz-Credential"], query["X-Amz-SignedHeaders"], query["X-Amz-Signature"]
            timestamp, token = query["X-Amz-Date"], query.get("X-Amz-Security-Token")
        else:
            m = re.fullmatch(r"(AWS4-HMAC-SHA256) Credential=([^, ]+), ?SignedHeaders=([^, ]+), ?Signature=([0-9a-f]{64})",
                             headers["authorization"])
            if not m:
                raise Refused(400, "AuthorizationHeaderMalformed", headers["authorization"][:60])
            what, timestamp, token = m.groups(), headers.get("x-amz-date", ""), headers.get("x-amz-security-token")
        algorithm, credential, signed, signature = what
        scope = credential.rsplit("/", 4)
        if len(scope) != 5 or algorithm != "AWS4-HMAC-SHA256" or scope[4] != "aws4_request" or scope[1] != timestamp[:8]:
            raise Refused(400, "AuthorizationHeaderMalformed", credential)
        if scope[0] != srv.access_key:
            raise Refused(403, "InvalidAccessKeyId", scope[0])
        if token != srv.session_token:
            raise Refused(403, "InvalidToken")
        note.update(region=scope[2], service=scope[3], presigned=presigned, mode=headers.get("x-amz-content-sha256"))
        then = datetime.datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ")
        age = (datetime.datetime.utcnow() - then).total_seconds()
        if not (-900 < age < int(query["X-Amz-Expires"]) if presigned else abs(age) < 900):
            raise Refused(403, "AccessDenied" if presigned else "RequestTimeTooSkewed", f"{age} s old")
        names = signed.split(";")
        must = {"host"} | {n.lower() for n in headers if n.lower().startswith("x-amz-")}
        if presigned:
            must -= {"x-amz-content-sha256"} if scope[3] == "s3" else set()
        if missing := must - set(names):
            raise Refused(403, "AccessDenied", f"There were headers present in the request which were not signed: {missing}")
        if names != sorted(names):
            raise Refused(403, "SignatureDoesNotMatch", "the signed headers are not sorted")
        self.signer = Signer(srv, self.command, self.path, headers, scope, names, presigned)
        payload = "UNSIGNED-PAYLOAD" if presigned and scope[3] == "s3" else None
        self.early = None
        if payload is None and "x-amz-content-sha256" not in headers:
            if scope[3] == "s3":
                raise Refused(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
            self.early = Pieces(Plain(self)).rest()
            payload = hashlib.sha256(self.early).hexdigest()
        wanted = self.signer.sign(timestamp, payload)
        if wanted != signature:
            raise Refused(403, "SignatureDoesNotMatch", f"not {signature[:8]} but {wanted[:8]} for {self.signer.canonical}")
        self.seed = signature

    # -- what it carries

    def read_body(self, note):
        if self.early is not None:
            return self.early
        raw, mode = Pieces(Plain(self)), self.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        sums = {n: make() for n, make in CHECKSUMS.items() if n in self.headers or n in self.headers.get("x-amz-trailer", "")}
        if mode.startswith("STREAMING-"):
            data = self.read_chunks(raw, mode, note, sums)
        else:
            data = raw.rest()
            for s in sums.values():
                s.update(data)
            if mode != "UNSIGNED-PAYLOAD" and hashlib.sha256(data).hexdigest() != mode:
                raise Refused(400, "XAmzContentSHA256Mismatch")
        for name in sums:
            if name in self.headers:
                self.check_sum(name, self.headers[name], sums)
        return data

    def check_sum(self, name, value, sums):
        if name not in sums:
            raise Refused(400, "InvalidRequest", f"{name} is not supported here")
        if base64.b64encode(sums[name].digest()).decode() != value:
            raise Refused(400, "BadDigest", name)
        self.sum = (name, value)

    def read_chunks(self, raw, mode, note, sums):
        signed, trailer = mode.startswith(STREAMING), mode.endswith("-TRAILER")
        if mode not in (STREAMING, STREAMING + "-TRAILER", UNSIGNED):
            raise Refused(501, "NotImplemented", mode)
        if "aws-chunked" not in self.headers.get("content-encoding", "") and mode != STREAMING:
            raise Refused(400, "InvalidRequest", "content-encoding has no aws-chunked")
        data, last, note["chunks"] = bytearray(), self.seed, 0
        while True:
            line = raw.line()
            m = re.fullmatch(rb"([0-9a-fA-F]{1,8});chunk-signature=([0-9a-f]{64})\r" if signed else rb"([0-9a-fA-F]{1,8})()\r", line)
            if not m:
                raise Refused(400, "IncompleteBody", f"not a chunk: {line[:100]!r}")
            size = int(m[1], 16)
            piece = raw.exactly(size)
            if signed:
                last = self.check_piece("PAYLOAD", last, m[2].decode(), EMPTY, hashlib.sha256(piece).hexdigest())
            if size == 0:
                break
            for s in sums.values():
                s.update(piece)
            data += piece
            note["chunks"] += 1
            if raw.exactly(2) != b"\r\n":
                raise Refused(400, "IncompleteBody", "no line end behind a chunk")
        self.read_trailers(raw, trailer, signed, last, sums)
        if len(data) != int(self.headers.get("x-amz-decoded-content-length", len(data))):
            raise Refused(400, "IncompleteBody", "not the announced length")
        if "x-amz-decoded-content-length" not in self.headers:
            raise Refused(411, "MissingContentLength")
        return bytes(data)

    def check_piece(self, kind, last, stands, *hashes):
        wanted = self.signer.chunk(kind, last, *hashes)
        if wanted != stands:
            raise Refused(403, "SignatureDoesNotMatch", f"a {kind} signature is not {stands[:8]} but {wanted[:8]}")
        return wanted

    def read_trailers(self, raw, trailer, signed, last, sums):
        """name:value CR LF …; some clients end those that are signed in LF CR LF."""
        names, canonical, signature, text = [], "", None, raw.rest()
        if not text.endswith(b"\r\n\r\n" if trailer else b"\r\n") or (not trailer and text != b"\r\n"):
            raise Refused(400, "IncompleteBody", f"behind the last chunk: {text[:200]!r}")
        for line in text[:-4].split(b"\r\n") if trailer else []:
            name, _, value = line.decode().rstrip("\n").partition(":")
            if name == "x-amz-trailer-signature":
                signature = value
                continue
            names.append(name)
            canonical += f"{name}:{value.strip()}\n"
            self.check_sum(name, value.strip(), sums)
        if trailer and names != [n.strip() for n in self.headers.get("x-amz-trailer", "").split(",")]:
            raise Refused(400, "MalformedTrailerError", f"{names}")
        if trailer and signed:
            self.check_piece("TRAILER", last, signature, hashlib.sha256(canonical.encode()).hexdigest())

    # -- what it asks for

    def act(self, note):
        if note["service"] != "s3":
            return self.act_generic(note)
        url, host = urlsplit(self.path), note["host"].split(":")[0]
        query = dict(p.partition("=")[::2] for p in url.query.split("&") if p)
        query = {k: unquote(v) for k, v in query.items() if not k.startswith("X-Amz-")}
        at = re.fullmatch(r"(.+?)\.s3[.-].*", host)
        path = unquote(url.path)
        bucket, _, key = (at[1], "", path[1:]) if at else path[1:].partition("/")
        getattr(self, f"{self.command.lower()}_{'object' if key else 'bucket'}")(bucket, key, query)

    def get_bucket(self, bucket, key, query):
        srv = self.server.s3
        if not bucket:
            return self.answer(200, b"<ListAllMyBucketsResult><Buckets><Bucket><Name>b</Name></Bucket></Buckets></ListAllMyBucketsResult>")
        if "location" in query:
            return self.answer(200, b'<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>')
        prefix, found, groups = query.get("prefix", ""), "", set()
        for b, k in sorted(srv.objects):
            if b != bucket or not k.startswith(prefix):
                continue
            if query.get("delimiter") and query["delimiter"] in k[len(prefix):]:
                groups.add(prefix + k[len(prefix):].split(query["delimiter"])[0] + query["delimiter"])
                continue
            o = srv.objects[b, k]
            found += f"<Contents><Key>{escape(k)}</Key><Size>{len(o['data'])}</Size><ETag>{o['etag']}</ETag>" \
                     f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
        found += "".join(f"<CommonPrefixes><Prefix>{escape(g)}</Prefix></CommonPrefixes>" for g in sorted(groups))
        self.answer(200, ('<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                          f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{found}"
                          "</ListBucketResult>").encode())

    def head_bucket(self, bucket, key, query):
        self.answer(200, headers={"x-amz-bucket-region": "us-east-1"})

    def put_bucket(self, bucket, key, query):
        self.answer(200)

    def post_bucket(self, bucket, key, query):
        if "delete" not in query:
            raise Refused(405, "MethodNotAllowed")
        for k in re.findall(rb"<Key>([^<]*)</Key>", self.body):
            self.server.s3.objects.pop((bucket, k.decode()), None)
        self.answer(200, b"<DeleteResult/>")

    def put_object(self, bucket, key, query):
        srv = self.server.s3
        if sum(len(o["data"]) for o in srv.objects.values()) + len(self.body) > OBJECTS_MAX:
            raise Refused(507, "ServiceUnavailable", "the server's memory is full")
        source = self.headers.get("x-amz-copy-source")
        if source is not None:
            b, _, k = unquote(source.split("?")[0]).removeprefix("/").partition("/")
            if (b, k) not in srv.objects:
                raise Refused(404, "NoSuchKey", f"{b}/{k}")
            self.body = srv.objects[b, k]["data"]
        etag = f'"{hashlib.md5(self.body).hexdigest()}"'
        if "uploadId" in query:
            srv.uploads[query["uploadId"]][int(query["partNumber"])] = self.body
        else:
            srv.objects[bucket, key] = {"data": self.body, "etag": etag, "sum": getattr(self, "sum", None),
                                        "type": self.headers.get("content-type")}
        name, value = getattr(self, "sum", None) or ("content-md5", "")
        if source is not None:
            kind = "CopyPartResult" if "uploadId" in query else "CopyObjectResult"
            return self.answer(200, f"<{kind}><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{escape(etag)}</ETag></{kind}>".encode())
        self.answer(200, headers={"ETag": etag, **({name: value} if name != "content-md5" else {})})

    def post_object(self, bucket, key, query):
        srv = self.server.s3
        if "uploads" in query:
            upload = f"upload-{len(srv.uploads)}"
            srv.uploads[upload] = {}
            return self.answer(200, (f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                                     f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>").encode())
        numbers = [int(n) for n in re.findall(rb"<PartNumber>([0-9]+)</PartNumber>", self.body)]
        parts = srv.uploads.pop(query["uploadId"])
        if not numbers or numbers != sorted(parts):
            raise Refused(400, "InvalidPart", f"{numbers} of {sorted(parts)}")
        data = b"".join(parts[n] for n in numbers)
        etag = f'"{hashlib.md5(b"".join(hashlib.md5(parts[n]).digest() for n in numbers)).hexdigest()}-{len(numbers)}"'
        srv.objects[bucket, key] = {"data": data, "etag": etag, "sum": None, "type": None}
        self.answer(200, (f"<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
                          f"<ETag>{etag}</ETag></CompleteMultipartUploadResult>").encode())

    def get_object(self, bucket, key, query):
        o = self.server.s3.objects.get((bucket, key))
        if o is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data, status = o["data"], 200
        headers = {"ETag": o["etag"], "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        if o["sum"] and o["sum"][0] != "content-md5" and self.headers.get("x-amz-checksum-mode"):
            headers[o["sum"][0]] = o["sum"][1]
        if m := re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", self.headers.get("range", "")):
            a = int(m[1]) if m[1] else len(data) - int(m[2])
            b = min(int(m[2]) if m[1] and m[2] else len(data) - 1, len(data) - 1)
            headers["Content-Range"] = f"bytes {a}-{b}/{len(data)}"
            data, status = data[a:b + 1], 206
            headers = {n: v for n, v in headers.items() if not n.startswith("x-amz-checksum")}
        headers["Content-Length"] = str(len(data))
        self.answer(status, data, headers, o["type"] or "binary/octet-stream")

    head_object = get_object

    def delete_object(self, bucket, key, query):
        self.server.s3.objects.pop((bucket, key), None)
        self.answer(204)

    def act_generic(self, note):
        """The same answer to every call, in each protocol's words."""
        if self.headers.get("x-amz-target"):
            return self.answer(200, b'{"TableNames":["t"],"QueueUrls":["q"]}', kind="application/x-amz-json-1.0")
        m = re.search(rb"Action=([A-Za-z]+)", self.body)
        if m:
            name, inner = m[1].decode(), {"sts": "<Account>123456789012</Account><Arn>arn:aws:iam::123456789012:user/u</Arn><UserId>U</UserId>",
                                          "iam": "<IsTruncated>false</IsTruncated><Users/>",
                                          "sqs": "<QueueUrl>https://sqs.us-east-1.amazonaws.com/1/q</QueueUrl>"}.get(note["service"], "")
            return self.answer(200, f"<{name}Response><{name}Result>{inner}</{name}Result></{name}Response>".encode(), kind="text/xml")
        self.answer(200, b'{"Functions":[]}', kind="application/json")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    def handle_error(self, request, client_address):
        import traceback
        self.s3.broken.append(traceback.format_exc())

    def finish_request(self, request, client_address):
        if self.s3.context:
            request.settimeout(30)
            request = self.s3.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)
        if self.s3.context:
            try:
                request.unwrap()
            except (OSError, ValueError):
                pass
            request.close()


class S3:
    """port, seen (a note a request), refused, broken, heads (as they came), objects."""

    def __init__(self, access_key, secret_key, session_token=None, pem=None):
        self.access_key, self.secret_key, self.session_token = access_key, secret_key, session_token
        self.seen, self.refused, self.broken, self.heads, self.objects, self.uploads = [], [], [], [], {}, {}
        self.context = None
        if pem:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(pem)
        self.http = Server(("127.0.0.1", 0), Handler)
        self.http.s3 = self
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
