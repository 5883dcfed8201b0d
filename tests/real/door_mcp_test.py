"""MCP through the door: what lists show and what may be called by scope, sessions and events of one connection alone, the mirror in
the head, and servers that answer what no client should get. [R4 R6 R7]"""
import http.client
import http.server
import json
import threading

import sallyport
from authorization_test import Box, Sdk, Browser
from servers import free_port

INIT = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}
ANY = "application/json, text/event-stream"


def key(box, name, *scopes, role="admin"):
    args = [a for s in scopes for a in ("--scope", s)]
    got = box.s.cli("key", "add", name, "--tenant", "acme", "--role", role, *args).stdout.strip()
    box.s.canaries.append(got)
    return got


def post(box, token, message, **head):
    status, fields, text = box.ask("POST", "/mcp/tools", json.dumps(message) if not isinstance(message, str) else message, Content_Type="application/json",
                                   Accept=ANY, Authorization=f"Bearer {token}", **head)
    return status, fields, text


def data(text):
    """The JSON texts of an answer, a body or a stream of events."""
    return [json.loads(l[6:]) for l in text.splitlines() if l.startswith("data: ") and l[6:]] if not text.startswith(("{", "[")) else [json.loads(text)]


class Scripted:
    """An MCP server that answers what it is told to: (status, fields, body)."""

    def __init__(self, t, port):
        self.answer, self.got = (200, {"Content-Type": "application/json"}, "{}"), []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.got.append((self.command, dict((k.lower(), v) for k, v in self.headers.items()), body))
                status, fields, text = outer.answer
                raw = text if isinstance(text, bytes) else text.encode()
                self.send_response(status)
                for k, v in fields.items():
                    self.send_header(k, v)
                if fields.get("Transfer-Encoding") == "chunked":
                    self.end_headers()
                    for i in range(0, len(raw), 1000):
                        piece = raw[i:i + 1000]
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.write(b"0\r\n\r\n")
                    return
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            do_GET = do_DELETE = do_POST
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def scripted(t):
    box = Box(t, server=False)
    return box, Scripted(t, box.up)


def tools(*names):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": n, "inputSchema": {"type": "object"}} for n in names]}})


LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def test_lists(t):
    """the SDK's server behind the door: lists show what may be called, calls are judged, in events and by the SDK's client [R4]"""
    box = Box(t)
    reader, executor, all_ = key(box, "reader", "tools:read"), key(box, "executor", "tools:execute"), key(box, "all")

    def session(token):
        status, fields, text = post(box, token, INIT)
        assert status == 200, text
        post(box, token, {"jsonrpc": "2.0", "method": "notifications/initialized"}, Mcp_Session_Id=fields["mcp-session-id"])
        return fields["mcp-session-id"]
    for token, want in ((reader, {"get_page"}), (executor, {"get_page", "set_page"}), (all_, {"get_page", "set_page", "create_page"})):
        at = session(token)
        status, fields, text = post(box, token, LIST, Mcp_Session_Id=at)
        assert status == 200 and fields["content-type"].startswith("text/event-stream"), (status, fields, text)
        assert {x["name"] for x in data(text)[0]["result"]["tools"]} == want, text
        for name in ("get_page", "set_page", "create_page"):
            status, fields, text = post(box, token, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": name, "arguments": {}}}, Mcp_Session_Id=at)
            assert status == (200 if name in want else 403), (name, status, text)
            assert name in want or 'error="insufficient_scope"' in fields["www-authenticate"], fields
    # a rule of the bundle must allow a tool, too: here it allows less than the scopes, and never more
    bundle = json.loads(box.s.cli("tenant", "list", "--json").stdout)[0]["bundles"][0]
    box.s.cli("rule", "add", "few", "--type", "mcp_tools", "--bundle", bundle, "deny=set_*", "allow=*_page")
    for token, want in ((reader, {"get_page"}), (executor, {"get_page"}), (all_, {"get_page", "create_page"})):
        at = session(token)
        status, fields, text = post(box, token, LIST, Mcp_Session_Id=at)
        assert status == 200 and {x["name"] for x in data(text)[0]["result"]["tools"]} == want, text
        status, fields, text = post(box, token, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "set_page", "arguments": {}}}, Mcp_Session_Id=at)
        assert status == 403, text
    box.s.cli("rule", "remove", "few")
    records = [json.loads(l) for l in box.s.cli("log", "--json").stdout.splitlines()]
    made = [r for r in records if r.get("mcp_name") == "create_page"]
    assert {r["reason"] for r in made if r["decision"] == "deny"} == {"insufficient_scope"}, made
    assert all(r["agent"] == "acme" and r["gateway"] == "tools" and r["mcp_method"] == "tools/call" and r["oauth_client"].startswith("key ") for r in made), made
    sdk = Sdk(box)
    person = Browser(box.base).go(sdk.read()["open"]).sign_in()
    got = person.approve("tools:read")
    assert sdk.do(code=got["code"]) == {"connected": True}
    kept = sdk.do(tokens=True)["tokens"]
    box.s.canaries += [v for k, v in kept.items() if k.endswith("_token")]
    assert sdk.do(list=True)["tools"] == ["get_page"]
    assert sdk.do(call="get_page") == {"text": "did get_page"}
    more = sdk.do(call="set_page")      # the SDK's client asks for what it lacks
    assert "tools%3Aexecute" in more["open"], more


def test_sessions(t):
    """a session's and an event's id open for their connection alone; any other gets 404, and the server never sees the sealed one [R7]"""
    box, up = scripted(t)
    one, two = key(box, "one"), key(box, "two")
    up.answer = (200, {"Content-Type": "text/event-stream", "Mcp-Session-Id": "server-session-1"}, "id: event-77\ndata: {}\n\nid: event-78\ndata:\n\n")
    status, fields, text = post(box, one, INIT)
    sealed = fields["mcp-session-id"]
    ids = [l[4:] for l in text.splitlines() if l.startswith("id: ")]
    assert status == 200 and "server-session-1" not in str(fields) and "event-7" not in text and len(ids) == 2, (fields, text)
    assert post(box, one, LIST, Mcp_Session_Id=sealed)[0] == 200 and up.got[-1][1]["mcp-session-id"] == "server-session-1"
    got = len(up.got)
    for token, session in ((two, sealed), (one, "server-session-1"), (one, sealed[:-1]), (one, sealed + "A"), (one, ids[0]), (two, "x" * 4000), (one, "")):
        for method in ("POST", "GET", "DELETE"):
            status, _, text = box.ask(method, "/mcp/tools", json.dumps(LIST) if method == "POST" else None, Content_Type="application/json", Accept=ANY,
                                      Authorization=f"Bearer {token}", Mcp_Session_Id=session)
            assert status == 404, (session, method, status, text)
    for token, event, want in ((one, ids[0], 200), (two, ids[0], 404), (one, "event-77", 404), (one, sealed, 404)):
        status, _, _ = box.ask("GET", "/mcp/tools", None, Accept=ANY, Authorization=f"Bearer {token}", Mcp_Session_Id=sealed if token == one else "", Last_Event_Id=event)
        assert status == want, (event, status)
    assert [g[1].get("last-event-id") for g in up.got[got:]] == ["event-77"]
    # A server that makes one variable of both spellings (RFC 3875 4.1.18) would take it for the session's id.
    up.answer[1]["Mcp_Session_Id"] = "server-session-1"
    c = http.client.HTTPConnection("127.0.0.1", box.port, timeout=30 * sallyport.SLOW)
    head = {"Content-Type": "application/json", "Accept": ANY, "Authorization": f"Bearer {two}", "traceparent": "00-1-2-03", "X-Other": "x"}
    for name in ("Mcp_Session_Id", "Mcp-Session_Id", "Last_Event_Id", "Content_Type", "User_Agent"):
        c.request("POST", "/mcp/tools", json.dumps(LIST), {**head, name: "server-session-1"})
        r = c.getresponse()
        assert r.status == 200 and "server-session-1" not in r.read().decode() + str(r.getheaders()), (name, r.getheaders())
        assert "server-session-1" not in str(up.got[-1]) and up.got[-1][1]["traceparent"] == "00-1-2-03" and "x-other" not in up.got[-1][1], (name, up.got[-1])
    call = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "get_page", "arguments": {"user_id": 7}}}
    c.request("POST", "/mcp/tools", json.dumps(call), {**head, "Mcp-Param-user_id": "7"})     # a parameter's name is the tool's
    r = c.getresponse()
    assert (r.status, len(r.read()) > 0) == (200, True) and up.got[-1][1].get("mcp-param-user_id") == "7", up.got[-1]
    c.close()
    box.s.stop()
    box.s.serve("--gateway", f"127.0.0.1:{box.port}")
    assert post(box, one, LIST, Mcp_Session_Id=sealed)[0] == 200, "a session outlives a restart"


def test_one_connection(t):
    """requests on one kept connection: each is judged by itself, whoever asks, with sessions and lists [R4 R7]"""
    box, up = scripted(t)
    keys = {name: key(box, name, scope) for name, scope in (("reads", "tools:read"), ("runs", "tools:execute"), ("writes", "entities:write"))}
    may = {"reads": {"get_page"}, "runs": {"get_page", "run"}, "writes": {"create_page"}}
    up.answer = (200, {"Content-Type": "application/json", "Mcp-Session-Id": "s-1"}, tools("get_page", "run", "create_page"))
    c = http.client.HTTPConnection("127.0.0.1", box.port, timeout=30 * sallyport.SLOW)
    session, sock = {}, None

    def ask(who, message):
        head = {"Content-Type": "application/json", "Accept": ANY, "Authorization": f"Bearer {keys[who]}"}
        if who in session:
            head["Mcp-Session-Id"] = session[who]
        c.request("POST", "/mcp/tools", json.dumps(message), head)
        r = c.getresponse()
        return r.status, r.getheader("Mcp-Session-Id"), r.read().decode()
    for turn in range(4):
        for who in keys:
            status, session[who], text = ask(who, LIST) if who == "writes" and turn == 0 else ask(who, {**LIST, "method": "ping"})
            assert status == (403 if who == "writes" and turn == 0 else 200), (who, turn, status, text)
            if status == 403:
                del session[who]
                continue
            assert {x["name"] for x in json.loads(text)["result"]["tools"]} == may[who], (who, text)
            for name in ("get_page", "run", "create_page"):
                got = len(up.got)
                status = ask(who, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name}})[0]
                assert status == (200 if name in may[who] else 403) and len(up.got) - got == (status == 200), (who, name, status)
            assert sock in (None, c.sock), "the connection was not kept"
            sock = c.sock
    other = dict(session)
    session["reads"] = other["runs"]
    assert ask("reads", {**LIST, "method": "ping"})[0] == 404
    assert {g[1]["authorization"] for g in up.got} == {"Bearer canary-upstream-1"} and {g[1].get("mcp-session-id", "s-1") for g in up.got} == {"s-1"}
    c.close()


def test_mirror(t):
    """what the head mirrors is the body's, or the request goes nowhere [R6]"""
    box, up = scripted(t)
    token = key(box, "k", "tools:read", "tools:execute")
    call = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "get_page", "arguments": {"region": "us"}}}
    new = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "get_page"}
    assert post(box, token, call, **new, Mcp_Param_Region="us")[0] == 200
    assert up.got[-1][1]["mcp-name"] == "get_page" and up.got[-1][1]["mcp-param-region"] == "us"
    got = len(up.got)
    for wrong in ({"Mcp_Name": "create_page"}, {"Mcp_Method": "tools/list"}, {"Mcp_Param_Region": "eu"}, {"Mcp_Param_Other": "x"}, {"Mcp_Name": "=?base64?Y3JlYXRlX3BhZ2U=?="}):
        status, _, text = post(box, token, call, **{**new, **wrong})
        assert status == 400 and json.loads(text)["error"]["code"] == -32020 and json.loads(text)["id"] == 5, (wrong, status, text)
    for body in ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_page","name":"create_page"}}',
                 '{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"tools/list","params":{"name":"create_page"}}',
                 json.dumps([call, {**call, "params": {"name": "create_page"}}]), "[]", "", "{", '{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"create_page"}}'):
        assert post(box, token, body)[0] in (400, 403), body
    assert len(up.got) == got


def test_answers(t):
    """a list of 10,000 tools, lists in pieces, events, codings, markup, and answers that cannot be judged"""
    box, up = scripted(t)
    token = key(box, "k", "tools:execute")
    json_ = {"Content-Type": "application/json; charset=utf-8"}
    many = [f"{k}_{i}" for i in range(3334) for k in ("get", "create", "run")]
    for more in ({}, {"Transfer-Encoding": "chunked"}):
        up.answer = (200, {**json_, **more}, tools(*many))
        status, _, text = post(box, token, LIST)
        assert status == 200 and [x["name"] for x in json.loads(text)["result"]["tools"]] == [n for n in many if not n.startswith("create")], status
        up.answer = (200, {"Content-Type": "text/event-stream", **more}, ": hi\n\nevent: message\ndata: " + tools(*many) + "\n\n")
        status, _, text = post(box, token, LIST)
        assert status == 200 and [x["name"] for x in data(text)[0]["result"]["tools"]] == [n for n in many if not n.startswith("create")], status
    hidden = [
        '{"result":{"tools":[{"name":"create_x"}],"tools":[{"name":"create_x"}]}}', '{"result":{"tool\\u0073":[{"n\\u0061me":"create_x"}]}}',
        '{"Result":{"Tools":[{"Name":"create_x"}]}}', '[{"result":{"tools":[{"name":"create_x"}]}}]', '{"result":{"tools":[{"name":"run","name":"create_x"}]}}']
    for body in hidden:
        for kind, text in (("application/json", body), ("text/event-stream", f"data:{body}\r\n\r\n"), ("text/event-stream", f"\ufeffdata: {body}\n\n")):
            up.answer = (200, {"Content-Type": kind}, text)
            status, _, text = post(box, token, LIST)
            assert status == 200 and "create_x" not in text, (body, text)
    page = "<html><script>alert(1)</script>"
    for answer in ((200, {"Content-Type": "text/html"}, page), (200, json_, page), (200, json_, tools("create_x") + "x"), (200, {}, tools("create_x")),
                   (200, {**json_, "Content-Encoding": "gzip"}, tools("create_x")), (200, {"Content-Type": "text/plain"}, tools("create_x")),
                   (200, json_, "[" + " " * (5 << 20) + "]"), (200, {**json_, "Transfer-Encoding": "chunked"}, "[" + " " * (5 << 20) + "]"),
                   (200, json_, b'{"result":{"tools":[{"name":"run\xff"}]}}'), (401, json_, "{}")):
        up.answer = answer
        status, _, text = post(box, token, LIST)
        assert status == 502 and "create_x" not in text and "script" not in text and json.loads(text)["request"], (answer[:2], status, text[:200])
    for answer in ((202, {"Content-Type": "text/plain"}, "Accepted"), (404, {"Content-Type": "text/html"}, page), (500, json_, '{"error":"x"}'), (405, {}, "")):
        up.answer = answer
        assert post(box, token, LIST)[0] == answer[0], answer
    up.answer = (200, json_, '{"result":{"tools":[],"cacheScope":"public","ttlMs":60000}}')
    assert json.loads(post(box, token, LIST)[2])["result"]["cacheScope"] == "private"
    up.answer = (200, {"Content-Type": "text/event-stream"}, "data: " + "x" * 100 + "\n\n")
    try:
        assert "xxx" not in post(box, token, LIST)[2]
    except (OSError, http.client.HTTPException):
        pass                        # the connection is cut
    assert up.got[-1][1]["accept-encoding"] == "identity"
