"""Messages to a webhook over real HTTPS: signed, tried again, bounded; nothing secret and nobody's words in them."""
import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import threading
import time

import sallyport
from admin_test import Admin
from api_test import Api
from approval_test import OK, Asked, opened
from proposal_test import ASK, own
from real import wait

SECRET = "canary-messages-0123456789"
HOST = "other.test"


class Hook(http.server.ThreadingHTTPServer):
    """An HTTPS server that keeps what it gets; `fails`: answers with these statuses first."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Take)
        self.got, self.fails, self.slow = [], [], 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sallyport.certs() / "ok.pem", sallyport.certs() / "ok.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    # An authorization server whose tokens last an hour and come without a refresh token (RFC 8628, RFC 6749 5.1).
    account = {"/device": {"device_code": "canary-device", "user_code": "U", "verification_uri": "https://id.test/d", "interval": 1, "expires_in": 600},
               "/token": {"access_token": "canary-brief-token", "token_type": "Bearer", "expires_in": 3600}}

    class Take(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path in Hook.account:
                answer = json.dumps(Hook.account[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                return
            status = self.server.fails.pop(0) if self.server.fails else 204
            self.server.got.append((status, self.path, dict(self.headers.items()), body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    def handle_error(self, *_):
        pass

    def taken(self, event=None):
        """What was taken, each message once: one whose answer came late comes again, under the id that it had."""
        out = {}
        for status, path, head, body in list(self.got):
            if status == 204 and (event is None or json.loads(body)["event"] == event):
                out.setdefault(head["Sallyport-Message"], (path, head, body))
        return list(out.values())


def world(t, hook, workers=2, **more):
    s, up = t.proxy(workers=workers, serve=False, upstream=OK, credentials=[{"name": "api", "host": "api.test", "secrets": {"token": SECRET}}])
    s.policy("asks", """return { kind = "rule", api = 1, name = "asks", title = "t", on_request = function(req, ctx)
      if req.method ~= "GET" then return ask("reason <!channel> " .. req.path) end
    end }""")
    s.cli("rule", "add", "mind", "--type", "asks")
    s.cli("set", "admin-url", "https://box.lan:7443")
    s.cli("set", "connect-to", f"api.test:443:127.0.0.1:{up.port}", f"{HOST}:443:127.0.0.1:{hook.server_port}")
    key = json.loads(s.cli("set", "webhook", f"https://{HOST}/services/canary-hook-path?k=canary-hook-query", "--json").stdout)["webhook"]["secret"]
    s.canaries += [SECRET, "canary-hook-path", "canary-hook-query", key]
    s.serve("--upstream-ca", sallyport.certs() / "root.pem")
    return s, up, key


def is_ours(secret, header, body):
    t, v1 = (part.split("=")[1] for part in header.split(","))
    wanted = hmac.new(secret.encode(), t.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted, v1) and abs(time.time() - int(t)) < 300


def test_events(t):
    """proposals, held requests, credentials that fail, tokens that end and that nothing renews, refusals in a burst: once each, at once, signed, in the three formats; no path, reason, word or secret in any"""
    hook = Hook()
    s, up, key = world(t, hook)
    assert "canary" not in s.cli("set").stdout + s.cli("set", "webhook", "--json").stdout
    again = s.cli("set", "webhook", f"https://{HOST}/services/canary-hook-path?k=canary-hook-query", "--json").stdout
    assert "secret" not in json.loads(again)["webhook"], "the secret stays, and is shown once"
    made = own(s, "POST", "/v1/proposals", {**ASK, "user_message": "<!channel> *hello* canary-words", "message": "canary-words"})[1]
    wait(lambda: hook.taken("proposal"), 10, "the message of a proposal")
    path, head, body = hook.taken("proposal")[0]
    m = json.loads(body)
    assert path == "/services/canary-hook-path?k=canary-hook-query" and is_ours(key, head["Sallyport-Signature"], body) and not is_ours(key, head["Sallyport-Signature"], body + b" ")
    assert m["agent"] == "a" and m["hosts"] == ["api.test"] and m["id"] == made["id"] and head["Content-Type"] == "application/json" and "canary" not in body.decode(), m
    asked = Asked(s, target="/canary-words/%3C!here%3E")
    q = opened(s)[0]
    wait(lambda: hook.taken("approval"), 10, "the message of a held request")
    m = json.loads(hook.taken("approval")[0][2])
    assert (m["id"], m["method"], m["host"], m["rule"], m["credential"]) == (q["id"], "POST", "api.test", "mind", "api") and "canary" not in str(m) and "reason" not in str(m), m
    s.cli("approval", "deny", q["id"])
    assert asked.status() == 403
    for _ in range(25):
        s.request(host="no.test", wire=None)
    wait(lambda: hook.taken("refusals"), 15, "the message of a burst")
    m = json.loads(hook.taken("refusals")[0][2])
    assert m["agent"] == "a" and m["count"] >= 20, m
    s.cli("set", "upstream-ca", sallyport.certs() / "root.pem")
    s.cli("credential", "add", "hourly", "--type", "oauth_authorization_code", "--host", "hourly.test", f"token_url=https://{HOST}/token", f"authorization_url=https://{HOST}/a", f"device_authorization_url=https://{HOST}/device", "client_id=c")
    s.canaries += ["canary-device", "canary-brief-token"]
    s.cli("connect", "hourly", "--device")
    s.set_clock(2800)       # three quarters of its hour, and nothing will renew it
    s.cli("credential", "add", "drive", "--type", "oauth_authorization_code", "--host", "drive.test", "token_url=https://id.test/token", "authorization_url=https://id.test/a", "client_id=c")
    s.cli("agent", "add", "brief", "--ttl", "6d")
    folder = s.dir / "soon"
    folder.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "key", "-out", folder / "cert", "-days", "5", "-subj", "/CN=box"],
                   check=True, capture_output=True)
    s.cli("credential", "add", "certain", "--type", "bearer", "--host", "certain.test", f"token=@{s.secret_file(SECRET)}", f"client_cert=@{folder / 'cert'}", f"client_key=@{folder / 'key'}")
    # Before it was connected, hourly may have been told of as well: whoever looks at credentials each minute may have come by in between.
    def told():
        return {(m["credential"], m["why"].split(" at ")[0].split(" on ")[0]): m["why"] for m in (json.loads(b) for _, _, b in hook.taken("credential"))}
    names = {("credential drive", "not connected: sallyport connect drive"), ("credential hourly", "its token ends"), ("credential certain", "client_cert expires"), ("agent brief", "it ends")}
    wait(lambda: names <= set(told()), 75, "messages of a credential that cannot be used, and of three things that end soon")
    between = {("credential hourly", "not connected: sallyport connect hourly")}
    assert set(told()) - between == names and len(hook.taken("credential")) == len(told()), told()
    assert all(json.loads(b)["message_id"] == h["Sallyport-Message"] for _, h, b in hook.taken())
    told = {name: why for (name, _), why in told().items() if why != "not connected: sallyport connect hourly"}
    assert told["credential certain"].startswith("client_cert expires on ") and told["agent brief"].startswith("it ends at "), told
    assert told["credential hourly"].startswith("its token ends at ") and told["credential hourly"].endswith(", and nothing renews it: sallyport connect hourly"), told
    def ids(): return {head["Sallyport-Message"] for _, _, head, _ in list(hook.got)}
    before = ids()
    s.cli("set", "webhook-format", "slack")
    own(s, "POST", "/v1/proposals", ASK)
    wait(lambda: ids() - before, 10, "Slack's message")
    slack = json.loads(next(body for _, _, head, body in hook.got if head["Sallyport-Message"] not in before))
    assert slack["mrkdwn"] is False and slack["link_names"] is False and "api.test" in slack["text"] and set(slack) == {"text", "mrkdwn", "link_names", "parse", "unfurl_links", "unfurl_media", "blocks"}, slack
    assert slack["blocks"] == [{"type": "section", "text": {"type": "plain_text", "text": slack["text"], "emoji": False}}], slack
    script = s.dir / "slack.lua"
    script.write_text('print((require("webhook").bodies.slack { text = "a <b> & c", url = "https://box.test/x?a&b" }))')
    slack = json.loads(s.cli("lua", script).stdout)
    assert slack["text"] == "a &lt;b&gt; &amp; c\n<https://box.test/x?a&amp;b>" and [b["text"] for b in slack["blocks"]] == [
        {"type": "plain_text", "text": "a &lt;b&gt; &amp; c", "emoji": False}, {"type": "mrkdwn", "text": "<https://box.test/x?a&amp;b>", "verbatim": True}], slack
    before = ids()
    s.cli("set", "webhook-format", "ntfy")
    own(s, "POST", "/v1/proposals", ASK)
    wait(lambda: ids() - before, 10, "ntfy's message")
    head, body = next((head, body) for _, _, head, body in hook.got if head["Sallyport-Message"] not in before)
    assert head["Title"] == "Sallyport: proposal" and body.decode().startswith("Proposal ") and body.decode().endswith(": the agent a asks for api.test") and head["Content-Type"].startswith("text/plain"), (head, body)
    time.sleep(2)
    assert len(ids() - before) == 1, "each is told once"
    s.cli("set", "webhook", "--default")
    own(s, "POST", "/v1/proposals", ASK)
    time.sleep(2)
    assert len(ids() - before) == 1


def test_shares(t):
    """no agent's messages push out another's, nor what is told of it and of credentials; the id of a long message is not cut off"""
    s, _ = t.proxy(workers=1, serve=False)
    script = s.dir / "shares.lua"
    script.write_text(r"""
      local webhook, store, host, on = require "webhook", require "store", require "host", { webhook = true }
      host.spawn = function() end
      local long = {}
      for i = 1, 10 do long[i] = { host = ("x"):rep(60) .. i .. ".example" } end
      for i = 1, 40 do webhook.proposal(on, ("%08x"):format(i), "a", long) end
      for i = 1, 200 do webhook.question(on, { agent = "b" .. i // 10, question = ("%08x"):format(i), method = "GET", host = "h", rule = "r" }) end
      local n = {}
      for _, row in ipairs(store.each("lease", "whq/", nil, 999)) do
        local m = row.record.message
        n[m.agent] = (n[m.agent] or 0) + 1
        n.all = (n.all or 0) + 1
        assert(m.text:find(m.id, 1, true) and #m.text <= 300, m.text)
      end
      print(n.a, n.b3, n.all)
    """)
    s.canaries.append(SECRET)
    assert s.cli("lua", "--store", str(script)).stdout.split() == ["25", "10", "100"]


def test_again(t):
    """a server that fails or is not there is tried again, past a restart; one that refuses is not; requests do not wait for it; what waits is bounded"""
    if "asan" in str(t.binary):
        t.skip("it waits for retries, and runs on the plain build")
    hook = Hook()
    s, up, key = world(t, hook, workers=1)
    hook.fails = [500, 429]
    own(s, "POST", "/v1/proposals", ASK)
    wait(lambda: hook.taken("proposal"), 60, "the third try")
    assert [x[0] for x in hook.got] == [500, 429, 204] and len({x[3] for x in hook.got}) == 1 and len({x[2]["Sallyport-Message"] for x in hook.got}) == 1
    assert len({x[2]["Sallyport-Signature"] for x in hook.got}) == 3, "each try is signed anew"
    hook.fails = [400]
    own(s, "POST", "/v1/proposals", ASK)
    wait(lambda: len(hook.got) == 4, 10, "the refused one")
    wait(lambda: "gave_up=yes" in s.log(), 10, "its end")
    hook.fails = [503] * 200
    began = time.monotonic()
    for _ in range(17):
        assert own(s, "POST", "/v1/proposals", ASK)[0] == 201
    assert time.monotonic() - began < 15 * sallyport.SLOW
    before = len(hook.got)
    s.stop()
    hook.fails = []
    s.serve("--upstream-ca", sallyport.certs() / "root.pem")
    wait(lambda: len(hook.taken("proposal")) >= 10, 60, "what waited comes after a restart")
    assert "canary" not in s.log()


def test_set(t):
    """a webhook is set, changed, tried and removed by command, page and API alike: what stands behind its host and its secret are never shown, the secret is asked for again where the address changes, and each change is one record"""
    hook = Hook()
    s, _ = t.proxy(workers=1, serve=False)
    s.cli("set", "connect-to", f"{HOST}:443:127.0.0.1:{hook.server_port}", f"second.test:443:127.0.0.1:{hook.server_port}")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem")
    desk = Admin(t, s).sign_in()
    api = Api(t, s, "read", "write")
    url, other, key, key2 = "canary-hook-one", "canary-hook-two", "canary-hook-key-1", "canary-hook-key-2"
    s.canaries += [url, other, key, key2]

    def changes(): return [r for r in map(json.loads, s.cli("log", "--json", "--kind", "change").stdout.splitlines()) if any("webhook" in c["record"] for c in r["changes"])]

    assert api.ask("GET", "/webhook", want=404) and api.ask("POST", "/webhook/test", want=422)["message"] == "there is no webhook"
    form = lambda: next(f for f in desk.page.forms if f["action"].endswith("/messages"))
    desk.get("settings")
    desk.click("Who is told what needs a person")
    for bad in ({"url": "http://hook.test/x"}, {"url": "https://u:p@hook.test/"}, {"url": f"https://{HOST}/", "address": "10.0.0.0/99"}, {"url": f"https://{HOST}/", "e__proposal": None},
                {"url": f"https://{HOST}/", "format": "<b>"}, {"url": "--default"}):
        boxes = {} if "e__proposal" in bad else {"e__proposal": "on"}
        mine = {**form(), "fields": {k: v for k, v in form()["fields"].items() if not k.startswith("e.")}}
        desk.submit(mine, **{"format": "ntfy", **boxes, **{k: v for k, v in bad.items() if v is not None}})
        assert desk.status == 400 and not changes(), (bad, desk.page.text)
    desk.get("messages")
    desk.submit({**form(), "fields": {**form()["fields"], "e.refusals": ""}}, url=f"https://{HOST}/{url}", secret=key, format="json")
    assert desk.status == 200 and f"sallyport webhook set https://{HOST}" in desk.page.text and key not in desk.html, desk.page.text
    assert len(changes()) == 1 and changes()[0]["door"] == "page", changes()
    desk.get("messages")
    assert f"{HOST} is told" in desk.page.text.replace("https://", "") and url not in desk.html and key not in desk.html
    desk.click("Send a test message")
    desk.submit()
    (path, headers, body), = hook.taken("test")
    assert path == "/" + url and is_ours(key, headers["Sallyport-Signature"], body) and "test message" in json.loads(body)["text"], (path, body)
    # elsewhere, and to another place behind the host, with the secret alone
    for where in ({"url": "https://second.test/" + other}, {"url": f"https://{HOST}/" + other}, {"target": "/" + other}, {"address": "127.0.0.0/8"}):
        desk.get("messages")
        desk.submit(form(), **where)
        assert desk.status == 400 and "is asked for again where their address changes" in desk.page.text and other not in desk.html, (where, desk.page.text)
        body = {"secrets": {"target": where["target"]}} if "target" in where else where
        assert api.ask("PATCH", "/webhook", body, want=403)["error"] == "secret_needed", where
    assert len(changes()) == 1
    assert api.ask("GET", "/webhook")["url"] == f"https://{HOST}"
    got = api.ask("PATCH", "/webhook", {"url": "https://second.test/" + other, "secrets": {"secret": key2}, "format": "slack", "events": ["proposal"]})
    assert got["url"] == "https://second.test" and (got["format"], got["events"]) == ("slack", ["proposal"]) and "secret" not in got, got
    assert len(changes()) == 2 and changes()[-1]["door"] == "api", changes()
    assert api.ask("PATCH", "/webhook", {"format": "json"})["events"] == ["proposal"]
    assert api.ask("POST", "/webhook/test") == {"sent": True, "url": "https://second.test", "notes": ["The message was taken: it is signed, says that it is a test, and was sent once."]}
    path, headers, body = hook.taken("test")[-1]
    assert path == "/" + other and is_ours(key2, headers["Sallyport-Signature"], body) and not is_ours(key, headers["Sallyport-Signature"], body)
    # what it is not told of waits nowhere
    for _ in range(25):
        s.request(host="no.test", wire=None)
    own(s, "POST", "/v1/proposals", ASK)
    wait(lambda: hook.taken("proposal"), 10, "what it is told of")
    assert not hook.taken("refusals")
    hook.fails = [500]
    assert "status 500" in api.ask("POST", "/webhook/test", want=422)["message"]
    assert "canary" not in s.cli("webhook", "show").stdout + s.cli("set").stdout
    s.cli("webhook", "set", f"https://{HOST}/{url}")        # the command line changes it without
    api.ask("GET", "/webhook")
    tag = api.headers["ETag"]
    for name, value in (("webhook-events", "approval"), ("webhook-format", "slack"), ("webhook-format", "--default")):
        s.cli("set", name, value)
        assert api.ask("PATCH", "/webhook", {"format": "ntfy"}, want=412, If_Match=tag)["error"] == "changed_meanwhile", name
        assert api.headers["ETag"] != tag
        tag = api.headers["ETag"]
    assert "is empty" in api.ask("PATCH", "/webhook", {"events": []}, want=400)["message"]
    api.ask("PATCH", "/webhook", {"format": "ntfy"}, If_Match=tag)
    assert api.ask("DELETE", "/webhook", want=412, If_Match=tag)["error"] == "changed_meanwhile"
    api.ask("DELETE", "/webhook", If_Match=api.headers["ETag"])
    assert api.ask("DELETE", "/webhook", want=404) and s.cli("webhook", "show", check=False).returncode == 1


def test_guard(t):
    """an address that the guard refuses, a stranger's certificate, plain http and a user in the address are no webhook; one in the operator's network is, where they name it"""
    hook = Hook()
    s, _ = t.proxy(workers=1, serve=False)
    for bad in ("http://hook.test/x", "https://u:p@hook.test/x", "https://hook.test/x#y", "ftp://x", "hook.test", "https://hook .test/"):
        assert s.cli("set", "webhook", bad, check=False).returncode == 2, bad
    s.cli("set", "webhook", f"https://127.0.0.1:{hook.server_port}/x")
    s.serve("--upstream-ca", sallyport.certs() / "root.pem")
    own(s, "POST", "/v1/proposals", ASK)
    wait(lambda: "ev=webhook event=proposal err=\"address_blocked\"" in s.log(), 10, "the guard's word")
    assert not hook.got
