"""A person answers from a phone: /approvals at the door, for users with the permission `approve`, and nothing else of the box."""
import base64
import hashlib
import html
import http.client
import json
import os
import re
import shutil
import subprocess
import urllib.parse

import sallyport
from approval_test import OK, Asked, opened, questions
from authorization_test import HERE, NODE, NPM, PASSWORD, Browser
from proposal_test import ASK, own
from servers import free_port

SECRET = "canary-phone-0123456789"
CSRF = r'name="csrf" value="([^"]*)"'


def world(t, people):
    """A proxy with a door; people = { name: flags } with their passwords set -> it, their browsers"""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    s, up = t.proxy(workers=2, serve=False, upstream=OK, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": SECRET}}])
    s.policy("asks", """return { kind = "rule", api = 1, name = "asks", title = "t", on_request = function(req, ctx)
      if req.method ~= "GET" then return ask("it writes <x-canary> " .. req.path) end
    end }""")
    s.cli("rule", "add", "mind", "--type", "asks")
    s.cli("set", "public-url", base)
    links = {who: s.cli("user", "add", who, *flags).stdout.strip() for who, flags in people.items()}
    s.canaries += [SECRET, PASSWORD]
    s.serve("--gateway", f"127.0.0.1:{port}", "--upstream-ca", sallyport.certs() / "root.pem", "--connect-to", f"api.test:443:127.0.0.1:{up.port}")
    return s, base, {who: Browser(base).set_password(link) for who, link in links.items()}


def post(b, at, cookie=True, **fields):
    """A form as another page would send it -> status"""
    where = urllib.parse.urlsplit(b.base)
    c = http.client.HTTPConnection(where.hostname, where.port, timeout=20 * sallyport.SLOW)
    head = {"Content-Type": "application/x-www-form-urlencoded", "Origin": fields.pop("origin", b.base)}
    if cookie:
        head["Cookie"] = "; ".join(f"{k}={v}" for k, v in b.jar["box"].items())
    c.request("POST", at, urllib.parse.urlencode(fields), head)
    r = c.getresponse()
    r.read()
    c.close()
    return r.status, r.getheader("Location")


def test_question(t):
    """a held request is answered at the door by who may: once, for an hour, refused; who may not, who is not signed in and another form's token change nothing; the record says who"""
    s, base, people = world(t, {"ada": ["--approve"], "bob": [], "eve": ["--operator"]})
    ada = people["ada"]
    asked = Asked(s, target="/%3Cx-canary%3E/1", headers={"X-Mark": "<x-canary>", "X-Token": "agents-own"})
    q = opened(s)[0]
    at = "/approvals/q/" + q["id"]
    for who in ("bob", "eve"):
        for path in ("/approvals", at):
            assert people[who].go(base + path).status == 403 and "api.test" not in people[who].page, (who, path, people[who].page)
        assert post(people[who], at, answer="once")[0] == 403
    stranger = Browser(base).go(base + at)
    assert stranger.at.startswith(base + "/login?next=%2Fapprovals%2Fq%2F") and "api.test" not in stranger.page, stranger.at
    assert post(stranger, at, cookie=False, answer="once") == (303, "/login?next=" + urllib.parse.quote(at, safe=""))
    stranger.submit("/login", ("user", "ada"), ("password", PASSWORD))
    assert stranger.at == base + at and "May this go out?" in stranger.page, (stranger.at, stranger.page)
    ada.go(base + "/approvals")
    assert f'href="{at}"' in ada.page and "<x-canary" not in ada.page and ada.head["X-Frame-Options"] == "DENY" and ada.page.count("<script") == 1, ada.page
    script = re.search("<script>(.*?)</script>", ada.page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; connect-src 'self';" in ada.head["Content-Security-Policy"] and 'id="live" data-every="5"' in ada.page, "the list is live"
    other = re.search(CSRF, ada.page)[1]
    ada.go(base + at)
    token = re.search(CSRF, ada.page)[1]
    assert "<script" not in ada.page and "script-src" not in ada.head["Content-Security-Policy"], "an answer's page is not"
    assert "it writes &lt;x-canary&gt;" in ada.page and "<x-canary" not in ada.page and "with api" in html.unescape(ada.page), ada.page
    assert "&lt;x-canary&gt;</dd>" in ada.page and "x-mark" in ada.page and "agents-own" not in ada.page and SECRET not in ada.page and "as the rule saw it" in ada.page, ada.page
    assert re.search(CSRF, stranger.page)[1] != token, "a session's own"
    for bad in ({}, {"csrf": ""}, {"csrf": other}, {"csrf": re.search(CSRF, stranger.page)[1]}, {"csrf": token + "x"}):
        assert post(ada, at, answer="once", **bad)[0] == 400, bad
    assert post(ada, at, answer="once", csrf=token, origin="https://evil.test")[0] == 403
    assert post(ada, at, answer="for ever", csrf=token)[0] == 400
    assert [x["state"] for x in questions(s)] == ["open"] and asked.answer is None
    ada.submit(at, ("answer", "once"))
    assert asked.status() == 200 and "Allowed: the request goes on" in ada.page, ada.page
    assert ada.go(base + at).status == 404 and "answered already" in ada.page
    changes = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    mine = [c for c in changes if "/approvals/" in c.get("page", "")]
    assert [(c["by"], c["door"], c["page"]) for c in mine] == [("ada", "gateway", "POST " + at)], mine
    for answer, status in (("deny", 403), ("hour", 200)):
        asked = Asked(s, target="/" + answer)
        at = "/approvals/q/" + opened(s)[0]["id"]
        ada.go(base + at).submit(at, ("answer", answer))
        assert asked.status() == status
    assert s.request(method="POST", target="/hour").status == 200, "an answer for an hour covers the next"
    asked = Asked(s, target="/always")
    at = "/approvals/q/" + opened(s)[0]["id"]
    s.cli("user", "set", "ada", "--no-approve")
    assert ada.go(base + at).at.startswith(base + "/login"), "the session ended with what it could do"
    s.cli("user", "set", "ada", "--approve")
    ada = Browser(base).go(base + at).submit("/login", ("user", "ada"), ("password", PASSWORD))
    ada.submit(at, ("answer", "always"))
    assert asked.status() == 200 and "sallyport" not in ada.page.lower()
    assert json.loads(s.cli("rule", "show", "mind", "--json").stdout)["exceptions"] and "POST api.test/always with api" in s.cli("rule", "show", "mind", "--json").stdout


BOT = {"name": "bot", "host": "bot.test", "auth": {"type": "passthrough"}, "substitutions": [{"key": "STRIPE_KEY", "placeholder": "__bot_token__", "in": ["path"]}]}


def test_proposal(t):
    """approval_url leads to a sign-in and then to that proposal; a part of it is approved there with the secret typed, narrowed, or none of it where one part is refused; another is rejected"""
    s, base, people = world(t, {"ada": ["--approve"]})
    ada = people["ada"]
    ask = {"services": [{**ASK["services"][0], "host": "new.test/v1"}, {"name": "docs", "host": "*.docs.test", "auth": {"type": "passthrough"}},
                        {"name": "wide", "host": "*.github.io", "auth": {"type": "passthrough"}}], "credentials": ASK["credentials"], "user_message": "<x-canary>\u202e please"}
    status, made, _ = own(s, "POST", "/v1/proposals", ask)
    at = f"/approvals/p/{made['id']}"
    assert status == 201 and made["approval_url"] == base + at and base + at in made["message"], made
    stranger = Browser(base).go(made["approval_url"])
    assert "new.test" not in stranger.page and "/login?next=" in stranger.at
    ada.go(base + "/approvals")
    assert f'href="{at}"' in ada.page
    ada.go(made["approval_url"])
    text = html.unescape(ada.page)
    assert "<x-canary" not in ada.page and "\u202e" not in text and "every agent with the bundle default (a)" in text and "strangers" in text, text
    assert s.request(host="new.test", wire=None).status == 403
    ada.submit(at, ("answer", "approve"), ("s.1", "on"))
    assert ada.status == 400 and "STRIPE_KEY is missing" in ada.page, ada.page
    assert re.findall(r'name="(s.\d)" value="on"( checked)?', ada.page) == [("s.1", " checked"), ("s.2", ""), ("s.3", "")], "what was left out stays so"
    ada.submit(at, ("answer", "approve"))
    assert ada.status == 400 and "no service is chosen" in ada.page, ada.page
    ada.submit(at, ("answer", "approve"), ("s.1", "on"), ("s.2", "on"), ("h.2", "not a host"), ("k.STRIPE_KEY", SECRET))
    assert ada.status == 400 and "docs: " in ada.page and SECRET not in ada.page and 'value="not a host"' in ada.page, ada.page
    for i, field, wide in ((2, "h", "read.test"), (2, "h", "docs.test"), (2, "h", "*"), (2, "h", "*.test"), (2, "h", "${A}.docs.test"), (1, "h", "other.test"), (1, "h", "*.new.test"), (1, "p", "/v10"), (1, "p", "/")):
        ada.submit(at, ("answer", "approve"), (f"s.{i}", "on"), (f"{field}.{i}", wide), ("k.STRIPE_KEY", SECRET))
        assert ada.status == 400 and "Proposal of" in ada.page, (wide, ada.page)
    for i, methods in ((1, "TRACE"), (1, "GET, x y!"), (2, "GET POST")):
        ada.submit(at, ("answer", "approve"), (f"s.{i}", "on"), (f"m.{i}", methods), ("k.STRIPE_KEY", SECRET))
        assert ada.status == 400 and "Proposal of" in ada.page, (methods, ada.page)
    assert s.request(host="new.test", wire=None).status == 403, "nothing of it was made"
    ada.submit(at, ("answer", "approve"), ("s.1", "on"), ("s.2", "on"), ("h.2", "read.docs.test"), ("p.1", "/v1/read"), ("m.1", "get, post"), ("m.2", "GET"), ("k.STRIPE_KEY", SECRET))
    assert ada.status == 200 and "Approved" in ada.page, ada.page
    stripe = json.loads(s.cli("credential", "show", "stripe", "--json").stdout)
    assert stripe["hosts"] == ["new.test"] and stripe["paths"] == ["/v1/read"] and stripe["methods"] == ["GET", "POST"], stripe
    assert [(d["host"], d["methods"]) for d in json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"]] == [("read.docs.test", ["GET"])]
    got = own(s, "GET", "/v1/proposals/" + made["id"])[1]
    assert got["status"] == "applied" and got["reason"] == "in part: stripe, docs", got
    changes = [json.loads(x) for x in s.cli("log", "--json", "--kind", "change").stdout.splitlines()]
    mine = [c for c in changes if c.get("page", "").startswith("POST /approvals")]
    assert len(mine) == 1 and mine[0]["by"] == "ada" and len(mine[0]["changes"]) == 3, mine
    assert ada.go(base + at).status == 404
    second = own(s, "POST", "/v1/proposals", {**ask, "services": ask["services"][1:2], "credentials": []})[1]["id"]
    at = f"/approvals/p/{second}"
    ada.go(base + at).submit(at, ("answer", "reject"), ("reason", "not\x1b now"))
    assert {"status": "rejected", "reason": "not now"}.items() <= own(s, "GET", "/v1/proposals/" + second)[1].items()
    third = own(s, "POST", "/v1/proposals", {"services": [BOT], "credentials": [{**ASK["credentials"][0], "value": SECRET}]})[1]["id"]
    at = f"/approvals/p/{third}"
    ada.go(base + at)
    assert "Where __bot_token__ stands" in ada.page and 'name="u.STRIPE_KEY" value="on">' in ada.page and SECRET not in ada.page, ada.page
    for place in ("", "path", "query=k", "path=/x", "header=X-Key, path=/bot{}/**"):
        ada.submit(at, ("answer", "approve"), ("s.1", "on"), ("k.STRIPE_KEY", SECRET), ("w.1.1", place))
        assert ada.status == 400 and "Proposal of" in ada.page and f'name="w.1.1" type="text" autocomplete="off" autocapitalize="none" spellcheck="false" value="{place}"' in ada.page, (place, ada.page)
    ada.submit(at, ("answer", "approve"), ("s.1", "on"), ("w.1.1", "path=/bot{}/**"))
    assert ada.status == 400 and "STRIPE_KEY is missing" in ada.page, "nobody takes the agent's value unasked"
    ada.submit(at, ("answer", "approve"), ("s.1", "on"), ("u.STRIPE_KEY", "on"), ("w.1.1", "path=/bot{}/**"))
    assert "Approved" in ada.page and json.loads(s.cli("credential", "show", "bot", "--json").stdout)["rows"][0]["place"] == ["path=/bot{}/**"], ada.page
    # what whoever runs the box has opened, or shut, is not put away here
    s.cli("domain", "add", "default", "open.test", "--method", "POST", "--path", "/in")
    fourth = own(s, "POST", "/v1/proposals", {"services": [{"name": "open", "host": "open.test", "auth": {"type": "passthrough"}}]})[1]["id"]
    at = f"/approvals/p/{fourth}"
    assert "takes the place of what is open there now: POST below /in" in ada.go(base + at).page
    ada.submit(at, ("answer", "approve"), ("s.1", "on"))
    assert ada.status == 400 and "something is open at open.test already" in ada.page, ada.page
    assert [d["methods"] for d in json.loads(s.cli("bundle", "show", "default", "--json").stdout)["domains"] if d["host"] == "open.test"] == [["POST"]]


def test_chromium(t):
    """in Chromium without script, 360 px wide, light and dark: signed in by a link in a message, a held request and a proposal answered by clicks alone; axe-core finds nothing on any page"""
    if "asan" in str(t.binary):
        t.skip("the sanitized build goes the same ways in the other tests of this file")
    if not shutil.which("chromium") or not (NPM / "playwright-core").exists() or not (NPM / "axe-core").exists():
        t.skip("chromium, playwright-core or axe-core is not installed")
    s, base, people = world(t, {"ada": ["--approve"]})
    s.cli("set", "approval-wait", "90s")
    asked = Asked(s, target="/%3Cx-canary%3E/a-rather-long-path/that-has-to-be-broken/somewhere-on-a-narrow-page?with=a+query")
    q = opened(s)[0]
    ask = {"services": [{**ASK["services"][0], "host": "new.test"}, {"name": "wide", "host": "*.github.io", "auth": {"type": "passthrough"}}, BOT], "credentials": ASK["credentials"], "user_message": "I need invoices."}
    p = own(s, "POST", "/v1/proposals", ask)[1]
    phone = {"width": 360}
    steps = [{"go": f"{base}/approvals/q/{q['id']}", "look": phone, "shot": "sign-in", "axe": True}, {"fill": {"user": "ada", "password": PASSWORD}, "click": "button.go", "wait": 1500, "shot": "question", "axe": True},
             {"click": "a[href='/approvals']", "look": {**phone, "dark": True}, "shot": "list", "axe": True}, {"click": f"a[href='/approvals/p/{p['id']}']", "look": {**phone, "dark": True}, "shot": "proposal", "axe": True},
             {"click": "button.go", "look": phone, "shot": "missing", "axe": True}, {"fill": {"k.STRIPE_KEY": SECRET, "w.3.1": "path=/bot{}/**"}, "click": "button.go", "look": {"width": 1280}, "shot": "approved", "axe": True},
             {"go": f"{base}/approvals/q/{q['id']}"}, {"click": "button[value=once]", "look": phone, "shot": "answered", "axe": True}, {"go": f"{base}/approvals/q/{q['id']}", "shot": "gone", "axe": True}]
    r = subprocess.run([NODE, HERE / "door_person.mjs", NPM, shutil.which("chromium"), s.dir, "MAP nowhere 127.0.0.1", json.dumps(steps)], capture_output=True, text=True, timeout=120 * sallyport.SLOW)
    assert r.returncode == 0, (r.stdout[-2000:], r.stderr[-3000:])
    seen = [json.loads(line) for line in r.stdout.splitlines()]
    for name in (os.environ.get("SHOTS") or "").split():
        shutil.copytree(s.dir, name, dirs_exist_ok=True, ignore=lambda d, names: [n for n in names if not n.endswith(".png")])
    assert [x["title"] for x in seen] == ["Sign in", "May this go out?", "Approvals", "Proposal of a", "Proposal of a", "Approvals", "May this go out?", "Approvals", "Nothing to answer"], seen
    assert not [x["url"] for x in seen if x["wide"]], [(x["title"], x["url"]) for x in seen if x["wide"]]
    assert not [f for x in seen for f in x.get("axe") or []], [(x["title"], x["axe"]) for x in seen if x.get("axe")]
    assert not [x for y in seen for x in y["said"] if "ContentSecurityPolicy" in x], seen
    assert asked.status() == 200 and json.loads(s.cli("credential", "show", "stripe", "--json").stdout)["hosts"] == ["new.test"]
