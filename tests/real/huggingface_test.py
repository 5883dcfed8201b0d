"""Hugging Face with its default client: huggingface_hub, which transfers by Xet. The storage token that the hub gives, in a header and in the
body, never reaches it. The servers are scripted: the hub, the store (CAS), and the host that serves chunks by signed addresses."""
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import time

import certs
import sallyport
from clients_test import environment
from real import wait
from registry_test import core
from servers import Recorder, free_port

HUB, CAS, CHUNKS = "huggingface.co", "cas-server.xethub.hf.co", "transfer.xethub.hf.co"
REAL, COMMIT, FILE, XORB = "hf_canaryrealtoken7c1e", "a" * 40, "b" * 64, "c" * 64
PIP = sallyport.BUILD / "pip"


class World:
    """What the servers know: the tokens they gave, the chunks that were uploaded, and what each host was shown."""

    def __init__(self):
        self.given, self.xorb, self.data, self.shown, self.lives, self.fail, self.slow = [], b"", b"", [], 900, 0, 0

    def token(self, kind):
        self.given.append(f"xet_canary_{kind}_{len(self.given)}_" + os.urandom(16).hex())
        return self.given[-1], int(time.time()) + self.lives

    def chunks(self):
        """How many chunks the xorb has: each begins with eight bytes, of which 1 to 3 are its length ("Xorb Format" of the protocol)."""
        at = n = 0
        while at + 8 <= len(self.xorb) and self.xorb[at] == 0:
            at, n = at + 8 + int.from_bytes(self.xorb[at + 1:at + 4], "little"), n + 1
        return n, at

    def hub(self, method, path, body):
        if kind := re.fullmatch(r"/api/models/me/m/xet-(read|write)-token/\w+", path):
            token, ends = self.token(kind[1])
            return 200, {"X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(ends), "X-Xet-Cas-Url": f"https://{CAS}"}, \
                {"casUrl": f"https://{CAS}", "exp": ends, "accessToken": token}
        if path == "/me/m/resolve/main/model.bin":
            digest, size = hashlib.sha256(self.data).hexdigest(), str(len(self.data))
            return 302, {"Location": f"https://cas-bridge.xethub.hf.co/x?X-Amz-Signature=1", "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{digest}"',
                         "X-Linked-Size": size, "ETag": f'"{digest}"', "X-Xet-Hash": FILE,
                         "Link": f'<https://{HUB}/api/models/me/m/xet-read-token/{COMMIT}>; rel="xet-auth"'}, ""
        if "/preupload/" in path:
            return 200, {}, {"files": [{"path": "model.bin", "uploadMode": "lfs", "shouldIgnore": False}]}
        if "/commit/" in path:
            return 200, {}, {"success": True, "commitOid": COMMIT, "commitUrl": f"https://{HUB}/me/m/commit/{COMMIT}", "hookOutput": ""}
        return 404, {}, {}

    def cas(self, method, path, body):
        if method == "POST" and path.startswith("/v1/xorbs/"):
            self.xorb = body
            return 200, {}, {"was_inserted": True}
        if path == "/v1/shards":
            return 200, {}, {"result": 1}
        if method == "GET" and path == f"/v1/reconstructions/{FILE}":
            if self.fail:
                self.fail -= 1
                return 503, {}, ""
            n, end = self.chunks()
            return 200, {}, {"offset_into_first_range": 0, "terms": [{"hash": XORB, "unpacked_length": len(self.data), "range": {"start": 0, "end": n}}],
                             "fetch_info": {XORB: [{"range": {"start": 0, "end": n}, "url": f"https://{CHUNKS}/xorbs/default/{XORB}?Signature=1",
                                                    "url_range": {"start": 0, "end": end - 1}}]}}
        return 404, {}, ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def serve(self):
        w, host, shown = self.server.world, self.headers["Host"], self.headers.get("Authorization")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        w.shown.append((host, path, shown))
        right = {HUB: ["Bearer " + REAL], CAS: ["Bearer " + t for t in w.given], CHUNKS: [None]}[host]
        if shown not in right:
            return self.send(401, {}, "")
        if host == CHUNKS:
            time.sleep(w.slow)
            return self.send(206, {"Content-Range": f"bytes 0-{w.chunks()[1] - 1}/{len(w.xorb)}"}, w.xorb[:w.chunks()[1]])
        self.send(*(w.hub if host == HUB else w.cas)(self.command, path, body))

    do_GET = do_HEAD = do_POST = serve

    def send(self, status, headers, body):
        if isinstance(body, dict):
            headers, body = {"Content-Type": "application/json", **headers}, json.dumps(body)
        body = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Box:
    def __init__(self, t, *fields):
        if subprocess.run([sys.executable, "-c", "import huggingface_hub, hf_xet"], env={**os.environ, "PYTHONPATH": str(PIP)}, capture_output=True).returncode:
            t.skip("huggingface_hub with hf_xet is not installed")
        self.s, self.w = t.bare(), World()
        self.s.init()
        upstream = Recorder(Handler, certs.leaf(sallyport.certs(), self.s.dir, [HUB, CAS, CHUNKS]))
        upstream.world = self.w
        self.s.cli("credential", "add", "hf", "--preset", "huggingface", *fields, f"token=@{self.s.secret_file(REAL)}")
        self.s.agent()
        port = free_port()
        self.s.cli("set", "listen", f"127.0.0.1:{port}")
        to = [f for h in (HUB, CAS, CHUNKS) for f in ("--connect-to", f"{h}:443:127.0.0.1:{upstream.server_address[1]}")]
        self.s.serve("--upstream-ca", sallyport.certs() / "root.pem", *to, listen=f"127.0.0.1:{port}")
        self.env = {**environment(self.s), "PYTHONPATH": str(PIP), "HF_HOME": str(self.s.dir / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
                    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.s.canaries.append(self.env["HTTPS_PROXY"].split(":")[2].split("@")[0])

    def python(self, code):
        return subprocess.Popen([sys.executable, "-c", code], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, code):
        p = self.python(code)
        out, err = p.communicate(timeout=120 * sallyport.SLOW)
        assert p.returncode == 0, f"{err[-1500:]} {self.s.records()[-3:]}"
        assert not any(t in out + err for t in self.w.given), "the client shows a real token"
        return out

    def upload(self):
        self.w.data = os.urandom(150_000)
        (self.s.dir / "data").write_bytes(self.w.data)
        out = self.run(f"from huggingface_hub import HfApi; print(HfApi().upload_file(path_or_fileobj={str(self.s.dir / 'data')!r}, path_in_repo='model.bin', repo_id='me/m'))")
        assert COMMIT in out and self.w.chunks()[0] > 0, out
        assert not any("grants" in p for _, p, _ in self.w.shown), "uploads go to the store itself, and not to hosts that its answers name"

    DOWNLOAD = "from huggingface_hub import hf_hub_download; import hashlib; print(hashlib.sha256(open(hf_hub_download('me/m', 'model.bin'), 'rb').read()).hexdigest())"

    def check(self):
        hosts = {h for h, _, _ in self.w.shown}
        assert hosts == {HUB, CAS, CHUNKS}, hosts
        for host, path, shown in self.w.shown:
            assert host != CAS or shown in {"Bearer " + t for t in self.w.given}, (path, (shown or "")[:40])
        for path in (self.s.dir / "hf").rglob("*"):
            assert not path.is_file() or not any(t.encode() in path.read_bytes() for t in [REAL, *self.w.given]), path


def test_xet(t):
    """upload_file and hf_hub_download, by Xet: the storage's tokens are sealed, in the header and in the body"""
    b = Box(t)
    b.upload()
    assert hashlib.sha256(b.w.data).hexdigest() in b.run(b.DOWNLOAD)
    assert {x.split("_")[2] for x in b.w.given} == {"write", "read"}, b.w.given
    sealed = [r for r in b.s.records() if r.get("sealed")]
    assert sealed and all("-token/" in r["path"] for r in sealed), sealed
    b.check()


def test_expiry(t):
    """a storage token that ends is renewed, a request that failed is tried again, and in the client's memory there is no real one"""
    t.need("gcore")
    b = Box(t)
    b.upload()
    b.w.lives, b.w.fail, b.w.slow = 20, 1, 8      # s: a client asks for another 30 s before the end
    before, p = len(b.w.given), b.python(b.DOWNLOAD)
    wait(lambda: any(h == CHUNKS for h, _, _ in b.w.shown), 60, "a chunk is asked for")
    memory = core(p, b.s.dir / "core")
    assert b.env["HF_TOKEN"].encode() in memory, "the placeholder is there: it is the client's memory"
    for secret in [REAL, *b.w.given]:
        assert secret.encode() not in memory, f"the client's memory has {secret[:20]}…"
    out, err = p.communicate(timeout=120 * sallyport.SLOW)
    assert hashlib.sha256(b.w.data).hexdigest() in out, err[-1500:]
    assert len(b.w.given) > before + 1 and b.w.fail == 0, "it was renewed"
    b.check()


def test_refused(t):
    """an operator who wants no such tokens says so, and the client goes without Xet"""
    b = Box(t, "mint=refuse")
    assert b.env["HF_HUB_DISABLE_XET"] == "1"
    r = b.s.request("GET", f"/api/models/me/m/xet-read-token/{COMMIT}", host=HUB)
    assert r.status == 403 and not b.w.given, r.status
