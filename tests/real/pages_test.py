"""Every page of an operator, over a box that holds something of everything, in one Chromium."""
import http.server
import json
import lzma
import os
import re
import shutil
import subprocess
import threading
import urllib.parse

from admin_test import HERE, NODE, NPM
from approval_test import OK, Asked, opened
from operator_test import PASSWORD, Desk, page_pid, world
from oauth_test import Server, bearer
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


MARKUP, HUGE, DASH, CONTROL = "<x-canary onclick=x>\"'&amp;\u202e", "A" * 5000, "--home=/", "\x01"
# Words of ours that no page may show: one of several, and a value that is none
BAD = re.compile(r"\b1 (requests|agents|credentials|connections|proposals|bytes)\b|Default: +\.")
# What has pages of its own, and no form at do/…
NO_FORM = r".* (list|show|presets|counters)$|env$|log$|set$|status$|doctor$|policy put$|webhook set$"


class Forms:
    """Every form of the page, once, found by following links and by the table of the page's commands."""

    def __init__(self, desk, commands):
        self.desk, self.found, self.seen, self.lacks = desk, {}, {}, []
        todo = [desk.base + "do/" + c.replace(" ", "/") for c in commands if not re.match(NO_FORM, c)] + [desk.base]
        for at in todo[:-1]:
            desk.get(at)
            self.lacks += [at] if desk.status != 200 or not self.take(at) else []
        while todo:
            at = todo.pop()
            path, _, query = at.partition("?")
            parts = path[len(desk.base):].split("/")
            kind = (*(parts[:3] if parts[0] == "do" else [parts[0], len(parts)]), *sorted(re.findall(r"([^&=]+)=", query)))
            one = self.seen.setdefault(kind, set())
            if at in one or len(one) >= (99 if "o.type" in query else 2 if "o.preset" in query else 6) or "/done/" in at or "live=" in at:
                continue
            one.add(at)
            page = desk.get(at)
            assert desk.status in (200, 400) and "On the command line" in desk.html, (at, desk.status)
            self.take(at)
            todo += [link.split("#")[0] for link, _ in page.links if link.startswith(desk.base)]
            for form in page.forms:     # each choice that leads to another form
                if form["method"] == "get" and "o.type" in form["choices"]:
                    todo += [f"{form['action']}?o.type={v}" for v in form["choices"]["o.type"]]

    def take(self, at):
        mine = [f for f in self.desk.page.forms if not f["action"].endswith("/out")]
        for f in mine:
            to = f["action"][len(self.desk.base):]
            fixed = [f["fields"][n] for n in sorted(f["hidden"]) if n in ("o.type", "name")]
            self.found.setdefault((to if to.startswith("do/") else to.split("/")[0], tuple(sorted(f["fields"])), *fixed), (at, f))
        return mine


def test_every_form(t):
    """every form, found by links and by the table of commands, so that none can be forgotten, with every field empty, huge and hostile, what stands in it already kept or not, by each of its buttons: refused or taken as text; no fault, no markup, no secret; the process and its pages stand"""
    if "asan" in str(t.binary):
        t.skip("it is Lua that reads forms; hostile texts reach the sanitized build by admin_test, api_test and the fuzz targets")
    s, up, desk, held = full(t)
    assert desk.sign_in("ada") == 200
    s.cli("webhook", "set", "https://hooks.test/x", "--format", "ntfy")
    script = s.dir / "page.lua"
    script.write_text('local cli, page = require "cli", require "web.commands"\nfor _, f in ipairs(cli.first_words()) do for _, c in ipairs(cli.commands_of(f)) do\n'
                      'if page.find(c.words) then print(c.words) end end end\n')
    assert "5 requests went out in the last day, 5 were refused" in desk.get("").text, "what the proxy itself answers went nowhere"
    forms = Forms(desk, s.cli("lua", str(script)).stdout.splitlines())
    assert not forms.lacks, forms.lacks
    apart = {"policies", "settings", "variables", "environment", "proposals", "account", "connect", "log", "explain", "credentials", "messages"} - {k[0] for k in forms.found}
    assert len(forms.found) > 100 and not apart, (len(forms.found), apart, sorted(forms.seen, key=str))
    pid, sent = page_pid(s), 0

    def send(at, form, changed):
        nonlocal sent
        sent += 1
        desk.submit(form=form, **changed)
        what = (at, form["action"], {k: v[:9] for k, v in changed.items()}, desk.status, desk.page.text[:600])
        if desk.status == 431 and form["method"] == "get":      # an address of more than 64 KiB
            return
        assert desk.status in (200, 400, 404, 409), what
        assert "fault in sallyport" not in desk.page.text and SECRET not in desk.html and "<h1" in desk.html, what
        assert not any(tag == "x-canary" for tag, _ in desk.page.tags), what
        bad = BAD.search(re.sub("<[^>]*>", " ", re.sub("(?s)<(style|script|pre|textarea|code|small|option).*?</\\1>", "", desk.html)))
        assert not bad and not re.search("<dd>(true|false|nil|)</dd>|<dt>[^<]*_", desk.html), (bad, what)

    for key, (at, form) in forms.found.items():
        shown = [k for k in form["fields"] if k not in form["hidden"] and k != "o.operator"]      # who sends all this is one
        given = [k for k in form["fields"] if k not in ("csrf", "seen", "o.type")]
        deeper = [k for k in shown if not re.fullmatch(r"a\d+", k)] if any(form["fields"].get(k) for k in shown if re.fullmatch(r"a\d+", k)) else []
        many = len(key) > 2         # one of a form that comes for each type or setting
        for value in ("", MARKUP, HUGE) if many else ("", MARKUP, HUGE, DASH, CONTROL):
            if shown:
                send(at, form, {k: value for k in shown})
        for value in (MARKUP, HUGE) if deeper else ():
            send(at, form, {k: value for k in deeper})
        if not shown:
            send(at, form, {k: MARKUP for k in given})
        for button in form["buttons"]:
            send(at, form, {**{k: MARKUP for k in shown}, button: "on"})
    assert page_pid(s) == pid and "ev=task_failed" not in s.log()
    for q in json.loads(s.cli("approval", "list", "--json").stdout):
        s.cli("approval", "deny", q["id"])
    assert held.status() == 403
    for at, page, text in desk.every():
        assert desk.status == 200 and not any(tag == "x-canary" for tag, _ in page.tags) and "\u202e" not in text and SECRET not in text, at
        assert "On the command line" in page.text, (at, "every page has the command that does the same")
    text = desk.get("door").text
    for family in ("gateway", "tenant", "user", "connection", "key", "role", "client"):
        assert f"sallyport {family} list" in text, (family, text)
    print("#", len(forms.found), "forms,", sum(map(len, forms.seen.values())), "pages,", sent, "sent")


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


def test_keyboard(t):
    """in Chromium without a mouse: Tab reaches every control in the order in which they stand, each with a focus that is seen; links, buttons, boxes, choices and forms by Enter, Space and letters, from the first page to a credential, and to an account that is signed in to (oidc-provider); the editor lets Tab out both ways; the secret that was typed is in nothing that the browser keeps"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build answers the same pages in the other tests")
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists():
        t.skip("chromium or playwright-core is not installed")
    server = Server(t)
    s, up, desk, link = world(t)
    wait(lambda: desk.raw("GET", "/login")[0] == 200, 15, "the page")
    desk.set_password(link)
    s.credential({"name": "api", "host": "other.test", "secrets": {"token": SECRET}})
    s.credential({"name": "account", "type": "oauth_authorization_code", "host": "api.test", "address": "127.0.0.0/8", "fields": server.fields()})
    profile, typed = s.dir / "profile", "canary-typed-" + "k" * 20
    s.canaries += [SECRET, typed]
    plan = {"login": f"http://{desk.at}/login", "user": "ada", "password": PASSWORD, "secret": typed, "account": "account", "walk": ["", "log", "do/credential/set?a1=api", "policies/rate", "variables"]}
    r = subprocess.run([NODE, HERE / "keys.mjs", NPM, shutil.which("chromium"), profile, json.dumps(plan)], capture_output=True, text=True, timeout=200 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout[-2000:], r.stderr[-3000:])
    got = json.loads(r.stdout)
    for path, walk in got.pop("walks").items():
        assert walk["stops"] > 14 and not (walk["missed"] or walk["order"] or walk["unseen"] or walk["clickable"]) and walk["first"] == "To the page", (path, walk)
    assert got.pop("skip")["seen"] and got == {"skipped": "#main", "open": True, "kept": True, "connected": True, "inside": True, "box": True, "choice": "rate", "typed": True, "after": "Run its examples", "back": "source", "same": True, "tested": True, "shown": False}, got
    assert bearer(s, up, server)["sub"] == "somebody"
    kept = [(p, p.read_bytes()) for p in profile.rglob("*") if p.is_file() and not p.is_symlink()]
    assert any(b"/login" in data for p, data in kept if p.name == "History"), "its history is looked at"
    assert not [str(p) for p, data in kept if any(w.encode() in data or w.encode("utf-16-le") in data for w in (typed, PASSWORD))]
    shutil.rmtree(profile)
