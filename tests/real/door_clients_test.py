"""Clients of the world at the door, as they are published: the MCP conformance suite, MCP Inspector, mcp-remote, the SDKs' clients in
JavaScript and Python. An MCP server behind the door has all that the suite asks for, and records what it got."""
import json
import os
import re
import subprocess
import sys
import urllib.parse

import sallyport
from authorization_test import Box, Browser, HERE
from door_mcp_test import key
from oauth_test import NODE, NPM
from real import wait
from servers import free_port

SUITE = NPM / "@modelcontextprotocol/conformance/dist/index.js"
FRONT = """
daemon off; worker_processes 1; pid {d}/pid; error_log {d}/err warn; {user}
events {{ }}
http {{
  access_log off; client_body_temp_path {d}/1; proxy_temp_path {d}/2; fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4; scgi_temp_path {d}/5;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{door}; proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_buffering off;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header Authorization "Bearer {token}"; proxy_set_header Connection "";
    }}
  }}
}}
"""


class Everything(Box):
    def __init__(self, t, public=None):
        if not SUITE.exists():
            t.skip("the conformance suite is not installed")
        super().__init__(t, server="everything.mjs", public=public)

    def got(self):
        """The heads of the requests that the server got."""
        return [e["headers"] for e in self.requests()]

    def check(self, *tokens):
        """Nothing that a client showed came to the server, which got the credential of the tenant's bundle."""
        assert {h.get("authorization") for h in self.got()} == {"Bearer canary-upstream-1"}, self.got()[:3]
        text = self.log.read_text()
        for token in tokens:
            assert token and token not in text
        for h in self.got():
            assert "cookie" not in h and "x-forwarded-for" not in h, h


def checks(folder, kind):
    """What the suite found: { scenario: { check: worst status } }"""
    out = {}
    for path in sorted(folder.glob("*/checks.json")):
        scenario = re.match(kind + r"(.*)-\d{4}-\d\d-\d\dT", path.parent.name)[1]
        for c in json.loads(path.read_text()):
            kept = out.setdefault(scenario, {})
            if kept.get(c["id"]) != "FAILURE":
                kept[c["id"]] = c["status"]
    return out


def test_conformance(t):
    """the conformance suite passes at the door, behind nginx, in both generations of the transport [R6]"""
    t.need("nginx")
    port = free_port()
    box = Everything(t, f"http://127.0.0.1:{port}")
    token = key(box, "suite")
    front = box.s.dir / "front"
    front.mkdir()
    (front / "conf").write_text(FRONT.format(d=front, port=port, door=box.port, token=token, user="user root;" if os.getuid() == 0 else ""))
    t.start(["nginx", "-e", front / "err", "-p", front, "-c", front / "conf"], front / "out")
    wait(lambda: (front / "pid").exists() and (front / "pid").read_text(), 10, "nginx")
    for revision, least in (("2025-11-25", 33), ("2026-07-28", 38)):
        out = box.s.dir / revision
        subprocess.run([NODE, SUITE, "server", "--url", f"http://127.0.0.1:{port}/mcp/tools", "--requirements", revision, "-o", out], capture_output=True,
                       timeout=240 * sallyport.SLOW)
        # The tasks extension is a server's own business, and this server has none.
        found = {s: c for s, c in checks(out, "server-").items() if not s.startswith("tasks-")}
        assert len(found) >= least, sorted(found)
        assert not [(s, c) for s, c in found.items() if set(c.values()) - {"SUCCESS", "INFO"}], found
    box.check(token)
