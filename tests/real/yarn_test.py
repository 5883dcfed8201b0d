"""yarn 4 (berry), which has a client of its own: `sallyport env` alone points it at the proxy."""
import hashlib
import http.server
import io
import json
import base64
import tarfile

import sallyport
import servers
from clients_test import environment, run

YARN = sallyport.BUILD / "npm/node_modules/@yarnpkg/cli-dist/bin/yarn.js"
REAL = "npm_canary0123456789012345678901234567"


def package():
    out, text = io.BytesIO(), json.dumps({"name": "lib", "version": "1.0.0"}).encode()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("package/package.json")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return out.getvalue()


TARBALL = package()
PACKUMENT = {"name": "lib", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": "lib", "version": "1.0.0", "dist": {
    "tarball": "https://api.test/lib/-/lib-1.0.0.tgz", "integrity": "sha512-" + base64.b64encode(hashlib.sha512(TARBALL).digest()).decode()}}}}


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.got.append((self.path, self.headers.get("Authorization")))
        known = self.headers.get("Authorization") == f"Bearer {REAL}"
        body = b"{}" if not known else TARBALL if self.path.endswith(".tgz") else json.dumps(PACKUMENT).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/octet-stream" if self.path.endswith(".tgz") else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_yarn_berry(t):
    """`yarn npm info` and `yarn install` from a private registry, with what `sallyport env` prints and nothing else"""
    found = servers.node() or t.skip("there is no Node 22")
    if not YARN.exists():
        t.skip("npm did not install yarn")
    server = servers.Recorder(Registry)
    s = t.bare()
    s.init()
    s.canaries.append(REAL)
    s.credential({"name": "npm", "env": "NPM_TOKEN", "secrets": {"token": REAL}})
    s.agent()
    s.serve("--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{server.server_port}")
    env = {**environment(s), "YARN_ENABLE_TELEMETRY": "0", "YARN_CACHE_FOLDER": str(s.dir / "cache"), "YARN_GLOBAL_FOLDER": str(s.dir / "yarn")}
    assert REAL not in env["NPM_TOKEN"] and env["YARN_HTTPS_PROXY"] == env["HTTPS_PROXY"], env
    project = s.dir / "project"
    project.mkdir()
    (project / "package.json").write_text('{"name": "x", "private": true, "dependencies": {"lib": "1.0.0"}}')
    (project / ".yarnrc.yml").write_text('npmRegistryServer: "https://api.test"\nnpmAuthToken: "${NPM_TOKEN}"\nnpmAlwaysAuth: true\n'
                                         'nodeLinker: node-modules\nnpmMinimalAgeGate: 0\n')
    (project / "yarn.lock").write_text("")
    got = json.loads(run([found[0], YARN, "npm", "info", "lib", "--json"], env, cwd=project, timeout=120))
    assert got["version"] == "1.0.0", got
    run([found[0], YARN, "install", "--no-immutable"], env, cwd=project, timeout=120)
    assert json.loads((project / "node_modules/lib/package.json").read_text())["version"] == "1.0.0"
    assert any(path.endswith(".tgz") for path, _ in server.got), server.got
    assert all(auth == f"Bearer {REAL}" for _, auth in server.got), server.got
