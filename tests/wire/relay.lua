--- What passes through unharmed, and what is taken off on the way.
local get = "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"
local ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
local megabyte = ("0123456789abcdef"):rep(65536)

-- reply: one answer as text, or the steps of one.
local function answer(name, reply, expect, send)
  return { name = name, send = send or get, upstream = { reply = type(reply) == "table" and { { steps = reply } } or reply }, expect = expect }
end

local cases = {
  answer("a plain answer, connection kept", ok, { status = 200, body = "ok", closed = false }),
  answer("upstream's own error passes as it is", "HTTP/1.1 418 Teapot\r\nContent-Length: 4\r\nX-Y: z\r\n\r\nshrt",
    { status = 418, body = "shrt", headers = { ["x-y"] = "z" }, no_headers = "x-sallyport-error" }),
  answer("HEAD has a length and no body", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
    { status = 200, headers = { ["content-length"] = "500" }, closed = false }, "HEAD /x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
  { name = "HEAD, then GET on the same connection", upstream = { reply = { "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", ok } },
    send = { "HEAD /x HTTP/1.1\r\nHost: api.test\r\n\r\n", { answers = 1 }, get },
    expect = { statuses = { 200, 200 }, body = "ok", upstream = { requests = 2 } } },
  answer("204 has no body", "HTTP/1.1 204 No Content\r\n\r\n", { status = 204, closed = false, no_headers = { "transfer-encoding", "content-length" } }),
  answer("304 with a length has no body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n",
    { status = 304, headers = { etag = '"x"' }, closed = false }),
  answer("a chunked answer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n",
    { status = 200, body = "abcde", closed = false }),
  answer("a chunked answer in single bytes", { { bytewise = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\n", every = 0.002 } },
    { status = 200, body = "abc0123456789", closed = false }),
  answer("trailers pass, but framing and authentication names", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nAuthorization: x\r\n\r\n",
    { status = 200, body = "a", raw_has = "X-Sum: 7", raw_not = { "Content-Length: 9", "Authorization: x" } }),
  answer("an answer that ends with its connection", { "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", { close = true } },
    { status = 200, body = "until the end" }),
  answer("an answer of HTTP/1.0", { "HTTP/1.0 200 OK\r\n\r\nold", { close = true } }, { status = 200, body = "old" }),
  answer("interim answers pass", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" .. ok,
    { status = 200, interim = { 103, 102 } }),
  answer("Set-Cookie stays as often as it came", "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
    { status = 200, headers = { ["set-cookie"] = { "a=1", "b=2" } } }),
  answer("Alt-Svc, X-Sallyport-… and hop-by-hop fields of answers go",
    "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nX-Sallyport-Error: forged\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
    { status = 200, no_headers = { "alt-svc", "x-sallyport-error", "x-hop", "proxy-authenticate", "via" } }),
  answer("a body of 1 MiB", "HTTP/1.1 200 OK\r\nContent-Length: " .. #megabyte .. "\r\n\r\n" .. megabyte, { status = 200, body_size = #megabyte }),
  answer("an event stream arrives event by event",
    { "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n", 1.5, "9\r\ndata: 2\n\n\r\n0\r\n\r\n" },
    { status = 200, body = "data: 1\n\ndata: 2\n\n", after = 1.4 }, { get, { ["until"] = "data: 1", timeout = 1 }, { ["until"] = "data: 2" } }),
  { name = "an upload with a length", send = "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello",
    expect = { status = 200, upstream = { body = "hello", header = { ["content-length"] = "5" } } } },
  { name = "a chunked upload stays chunked", send = "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    expect = { status = 200, upstream = { body = "hello!", header = { ["transfer-encoding"] = "chunked" }, no_header = "content-length" } } },
  { name = "a chunked upload in single bytes", send = { { bytewise = "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n", every = 0.002 } },
    expect = { status = 200, upstream = { body = "hello" } } },
  { name = "trailers of a request lose framing and authentication names", send = "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\nAuthorization: mine\r\nHost: evil.test\r\nTransfer-Encoding: x\r\n\r\n",
    expect = { status = 200, upstream = { body = "a" } } },
  { name = "an upload of 4 MiB", send = { "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4194304\r\n\r\n", { ["repeat"] = ("x"):rep(65536), times = 64 } },
    upstream = { reply = ok }, expect = { status = 200, upstream = { body_size = 4194304 } } },
  { name = "pipelined requests are answered in order", send = "GET /1 HTTP/1.1\r\nHost: api.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: api.test\r\n\r\nGET /3 HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { statuses = { 200, 200, 200 }, body_has = "/3", upstream = { lines = { "GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "GET /3 HTTP/1.1" } } } },
  { name = "Connection: close is obeyed", send = "GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
    expect = { status = 200, closed = true, upstream = { requests = 1 } } },
  { name = "HTTP/1.0 is answered and closed", send = "GET /x HTTP/1.0\r\nHost: api.test\r\n\r\n", expect = { status = 200, closed = true } },
  { name = "HTTP/1.0 gets no chunks", send = "GET /x HTTP/1.0\r\nHost: api.test\r\n\r\n",
    upstream = { reply = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" },
    expect = { status = 200, closed = true, no_headers = "transfer-encoding", body = "abc" } },
  { name = "Expect: 100-continue is passed on and answered", send = { "POST /x HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", { ["until"] = "100 Continue" }, "hello" },
    expect = { status = 200, interim = { 100 }, upstream = { body = "hello" } } },
  { name = "a final answer in place of 100 needs no body", send = "POST /x HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    upstream = { read = "head", reply = { { steps = { "HTTP/1.1 417 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", { close = true } } } } },
    expect = { status = 417 } },
  { name = "an answer before the upload has ended arrives", send = { "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 10000000\r\n\r\n", "begin" },
    upstream = { read = "head", reply = { { steps = { "HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno" } } } },
    expect = { status = 401, body = "no" } },
  { name = "hop-by-hop fields of requests go",
    send = "GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nX-Sallyport-Test: 1\r\nX-Stays: 1\r\nX-Stays: 2\r\n\r\n",
    expect = { status = 200, upstream = { header = { ["x-stays"] = { "1", "2" } },
      no_header = { "x-hop", "keep-alive", "te", "proxy-connection", "proxy-authorization", "x-sallyport-test", "via", "x-forwarded-for", "forwarded" } } } },
  { name = "an upgrade to h2c is not passed on",
    send = "GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    expect = { status = 200, upstream = { no_header = { "upgrade", "http2-settings" } } } },
  { name = "OPTIONS * passes", send = "OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n", expect = { status = 200, upstream = { line = "OPTIONS * HTTP/1.1" } } },
  { name = "an absolute target of the tunnel's own host becomes a path", send = "GET https://api.test/a?b=c HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = 200, upstream = { line = "GET /a?b=c HTTP/1.1" } } },
  { name = "path and query go as they came", send = "GET /a%2fb/../c//d;x?q=%zz&r=a+b HTTP/1.1\r\nHost: api.test\r\n\r\n",
    expect = { status = 200, upstream = { line = "GET /a%2fb/../c//d;x?q=%zz&r=a+b HTTP/1.1" } } },
  { name = "upstream connections are kept and used again",
    send = { get, { answers = 1 }, get, { answers = 2 }, get }, expect = { statuses = { 200, 200, 200 }, upstream = { requests = 3 } } },
  { name = "the log has the request", send = "GET /logged?secret=canary-query HTTP/1.1\r\nHost: api.test\r\nX: canary-header\r\n\r\n",
    canaries = { "canary-query", "canary-header" },
    expect = { status = 200, log = { agent = "a", credential = "api", decision = "allow", method = "GET", host = "api.test", path = "/logged", status = 200 } } },
  { name = "a path in the log is escaped", send = "GET /l%0aog\"x HTTP/1.1\r\nHost: api.test\r\n\r\n", expect = { status = 200, log = { path = "/l%0aog\"x" } } },
}

-- An upstream that breaks the rules: a client must never take half an answer for a whole one.
local function broken(name, reply, expect)
  cases[#cases + 1] = { name = "upstream sends " .. name, send = get, upstream = { reply = { { steps = reply } } }, expect = expect }
end
local bad = { status = 502, error = "upstream_unreachable" }
broken("no HTTP", { "SSH-2.0-x\r\n\r\n" }, { status = 502 })
broken("a bare LF", { "HTTP/1.1 200 OK\nContent-Length: 0\n\n" }, { status = 502 })
broken("a folded field", { "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 0\r\n\r\n" }, { status = 502 })
broken("a space before the colon", { "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n" }, { status = 502 })
broken("NUL in a field", { "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n" }, { status = 502 })
broken("two lengths", { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc" }, { status = 502 })
broken("a length with chunked", { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" }, { status = 502 })
broken("a length of 0x2", { "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab" }, { status = 502 })
broken("HTTP/2.0", { "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n" }, { status = 502 })
broken("a status of 99", { "HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n" }, { status = 502 })
broken("a head without end", { { ["repeat"] = "HTTP/1.1 200 OK\r\nX: " .. ("a"):rep(1000), times = 100 } }, { status = 502 })
broken("101 that nobody asked for", { "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" }, { status = 502 })
local function says(text) return { status = 502, error = "upstream_unreachable", body_has = "api.test " .. text } end
local many = {}
for i = 1, 101 do many[i] = ("X-%d: 1\r\n"):format(i) end
broken("101 fields", { "HTTP/1.1 200 OK\r\n" .. table.concat(many) .. "Content-Length: 0\r\n\r\n" }, says "sent an answer with more than 100 header fields")
broken("a field of 70 KiB", { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " .. ("a"):rep(70000) .. "\r\n\r\n" }, says "sent an answer with a head of more than 64 KiB")
broken("a field of 200 KiB", { "HTTP/1.1 200 OK\r\nX: " .. ("a"):rep(200000) .. "\r\n\r\n" }, says "sent an answer with a head of more than 64 KiB")
broken("two lengths, and is told which line", { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n" }, says "sent an answer with two Content-Length fields (line 3)")
broken("a field without a name", { "HTTP/1.1 200 OK\r\nX: 1\r\n: 2\r\n\r\n" }, says "sent an answer with a malformed header field (line 3)")
broken("a status line of letters", { "HTTP/1.1 OK\r\n\r\n" }, says "sent an answer with a malformed status line")
for name, text in pairs { ["TLS"] = "\22\3\3\0\5", ["a page without a head"] = "<html>", ["SSH"] = "SSH-2.0-x\r\n", ["HTTP/2"] = "\0\0\18\4\0\0\0\0\0", ["one byte"] = "h" } do
  broken(name .. ", and stays open", { text, 30 }, { status = 502, error = "upstream_unreachable", body_has = "speaks something else than HTTP/1.1 on this port", within = 10 })
end
cases[#cases + 1] = answer("a status line without its last space gets one", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", { status = 200, body = "ok", raw_has = "HTTP/1.1 200 \r\n" })
broken("nothing and closes", { { close = true } }, bad)
broken("nothing and resets", { { reset = true } }, bad)
broken("half a head and closes", { "HTTP/1.1 200 OK\r\nConte", { close = true } }, { status = 502 })
broken("half a body and closes", { "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", { close = true } },
  { status = 200, truncated = true, closed = true })
broken("half a body and resets", { "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", 0.2, { reset = true } },
  { status = 200, truncated = true, closed = true })
broken("half a chunked body and closes", { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", { close = true } },
  { status = 200, truncated = true, closed = true })
broken("chunks without the last one", { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", { close = true } },
  { status = 200, truncated = true, closed = true })
broken("a chunk size of 0x3", { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nhel\r\n0\r\n\r\n" },
  { raw_not = "hel", closed = true })
broken("a body to the end, cut without close_notify", { "HTTP/1.1 200 OK\r\n\r\nhalf", { close = "ragged" } },
  { status = 200, truncated = true, closed = true })
cases[#cases + 1] = { name = "bytes after a whole answer are thrown away, with the connection",
  workers = 1, send = { get, { answers = 1 }, 0.3, get }, upstream = { reply = { ok .. "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", ok } },
  expect = { statuses = { 200, 200 }, body = "ok", raw_not = "forged", upstream = { requests = 2, connections = 2 } } }

return {
  shared = { credential = { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-relay" } } },
  cases = cases,
}
