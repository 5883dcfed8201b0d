"""Every page of an operator, over a box that holds something of everything, in one Chromium."""
import http.server
import json
import lzma
import os
import shutil
import subprocess
import threading

from admin_test import HERE, NODE, NPM
from approval_test import OK, Asked, opened
from operator_test import PASSWORD, Desk
from proposal_test import ASK, own
from real import wait
from servers import free_port

import sallyport

SECRET = "canary-pages-0123456789"
EVIL = "<img src=x onerror=ran(2)>"


class Thief(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.got.append((self.path, self.headers.get("Cookie")))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def full(t, workers=1):
    """A box with something of everything, served with `--admin` and a door -> it, the address of its page"""
    port, gate = free_port(), free_port()
    s, up = t.proxy(workers=workers, serve=False, upstream=OK, domains=[{"bundle": "default", "host": "docs.test", "method": "GET"}])
    s.cli("set", "admin", f"127.0.0.1:{port}")
    s.cli("set", "public-url", f"http://127.0.0.1:{gate}")
    s.cli("set", "approval-wait", "55s")
    link = s.cli("user", "add", "ada", "--operator").stdout.strip()
    s.canaries += [SECRET, PASSWORD, link.split(".")[-1]]
    s.credential({"name": "api", "host": "api.test", "secrets": {"token": SECRET}})
    s.credential({"name": "internal-billing-service-production", "type": "api_key", "host": ["billing.internal.example.test", "*.billing.example.test"], "path": "/v1/invoices", "method": ["GET", "POST"], "secrets": {"key": SECRET}})
    s.credential({"name": "account", "type": "oauth_authorization_code", "host": "id.test", "fields": {"token_url": "https://id.test/token", "authorization_url": "https://id.test/auth", "client_id": "c1"}})
    s.credential({"name": "named", "type": "api_key", "host": "named.test", "fields": {"prefix": EVIL}, "secrets": {"key": SECRET}})
    s.cli("credential", "disable", "internal-billing-service-production")
    s.cli("bundle", "add", "reports")
    s.cli("bundle", "set", "reports", "SITE=a-rather-long-value-of-a-variable")
    s.cli("credential", "add", "site", "--type", "bearer", "--host", "${SITE}.example.test", "--bundle", "reports", "--bundle", "default", "token=-", stdin=SECRET)
    s.agent("nightly-report-builder", bundles=["default", "reports"])
    s.agent("soon", ttl="2h")
    s.policy("asks", """return { kind = "rule", api = 1, name = "asks", title = "Asks %s", on_request = function(req, ctx)
      if req.method == "DELETE" then return ask("it deletes %s " .. req.path) end
    end }""" % (EVIL, EVIL))
    s.cli("rule", "add", "mind", "--type", "asks")
    s.cli("rule", "add", "slow", "--type", "rate", "requests=900", "window=60")
    s.cli("tenant", "add", "acme")
    s.cli("user", "add", "bob@example.org", "--tenant", "acme=admin", "--approve")
    s.cli("key", "add", "ci", "--tenant", "acme", "--role", "viewer")
    s.cli("gateway", "add", "tools", "https://api.test/mcp")
    s.serve("--gateway", f"127.0.0.1:{gate}", "--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    for i in range(4):
        s.request(target="/v1/a-path-that-is-rather-long/%d/with-more-of-it/and-more" % i)
        s.request(host="no.test" if i % 2 else "api.stripe.com", wire=None)
    s.request(target="/" + EVIL.replace(" ", "%20"))
    held = Asked(s, method="DELETE", target="/v1/invoices/1?why=" + "x" * 80)
    opened(s)
    own(s, "POST", "/v1/proposals", {**ASK, "services": [{**ASK["services"][0], "host": "new.test"}, {"name": "wide", "host": "*.github.io", "auth": {"type": "passthrough"}}], "user_message": EVIL, "credentials": [{"key": "STRIPE_KEY", "description": EVIL, "obtain": EVIL}]})
    own(s, "POST", "/v1/proposals", {"services": [{"name": EVIL, "host": EVIL, "auth": {"type": "passthrough"}}]})
    desk = Desk(s, port)
    wait(lambda: desk.raw("GET", "/login")[0] == 200, 15, "the page")
    desk.set_password(link)
    return s, up, desk, held


def test_size(t):
    """what the page is made of, styles, script, templates and code, is under 60 KB packed"""
    web = HERE.parent.parent / "lua/web"
    text = b"".join(p.read_bytes() for p in [*sorted(web.glob("desk*.lua")), *(web / f"{n}.lua" for n in ("page", "live", "commands", "bounds", "turn"))])
    assert len(lzma.compress(text, preset=9)) < 60000, len(lzma.compress(text, preset=9))


def test_every_page(t):
    """in one Chromium, over a box with something of everything: axe-core finds nothing on any page at 1280 px in light or at 360 px in dark, none is wider than its window, the console is silent; markup in what strangers name is text where no policy stops it, and the policy stops it where nobody escaped it; a request and a proposal come to the pages that are live without another load; a server on another port gets no cookie, and its page frames, reads, opens and posts nothing"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build answers the same pages in the other tests")
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists() or not (NPM / "axe-core").exists():
        t.skip("chromium, playwright-core or axe-core is not installed")
    s, up, desk, held = full(t)
    shots = os.environ.get("SHOTS")
    thief = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Thief)
    thief.got = []
    threading.Thread(target=thief.serve_forever, daemon=True).start()
    plan = {"login": f"http://{desk.at}/login", "user": "ada", "password": PASSWORD, "thief": f"http://127.0.0.1:{thief.server_port}/", "proxy": {"port": s.port, "token": s.tokens["a"]}, "patience": 30000 * sallyport.SLOW, "shots": bool(shots), "most": 2 if shots else 1,
            "first": ["approvals", *["approvals/" + q["id"] for q in json.loads(s.cli("approval", "list", "--json").stdout)], "explain?method=GET&url=https://api.test/", "explain?method=GET&url=https://no.test/", "connect?q=nothing-of-the-kind", "connect?q=stripe", "policies/office?like=a+rule", "policies?name=rate", "do/rule/add?o.type=rate", "do/credential/add?o.type=oauth_authorization_code", "nothing"]}
    r = subprocess.run([NODE, HERE / "pages.mjs", NPM, shutil.which("chromium"), shots or s.dir, json.dumps(plan)], capture_output=True, text=True, timeout=240 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout[-2000:], r.stderr[-3000:])
    seen = [json.loads(line) for line in r.stdout.splitlines()]
    alone, live, other, policy = seen.pop(-4), seen.pop(-3), seen.pop(-2), seen.pop()
    for x in seen if shots else []:
        print("#", x.get("status"), x.get("path"), x["title"], x["axe"], x["wide"], x["said"])
    assert len(seen) > 35, [x.get("path") for x in seen]
    assert not [f for x in seen for f in x["axe"]], [(x.get("path"), x["axe"]) for x in seen if x["axe"]]
    assert not [x for x in seen if x["wide"]], [(x.get("path"), x["wide"]) for x in seen if x["wide"]]
    assert not [x for x in seen if x["said"]], [(x.get("path"), x["said"]) for x in seen if x["said"]]
    assert [x["path"] for x in seen if x.get("status", 200) >= 400] == ["nothing"], [(x["path"], x["status"]) for x in seen if x.get("status", 200) >= 400]
    assert live == {"live": {path: {"before": False, "came": True, "loads": 0} for path in ("log", "approvals")}, "said": []}, live
    assert other == {"posted": 403, "fetched": "refused", "framed": 0, "opened": [True, True, True]}, other
    assert "thief" not in s.cli("agent", "list", "--json").stdout
    assert ("/", None) in thief.got and not [x for x in thief.got if x[1] or x[0] not in ("/", "/favicon.ico")], thief.got
    assert alone == {"escaping": [], "would": [1]}, alone
    assert policy["policy"] == [] and len(policy["stopped"]) == 4, policy
    assert all(x == {"at": True, "base": True, "styled": "static"} for x in policy["stopped"].values()), policy
