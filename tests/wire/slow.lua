--- Peers that are slow or gone: everybody else is served, and nobody takes a part for the whole.
local get = "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"
local post = "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000\r\n\r\n"
local cases = {
  { name = "a head in single bytes", send = { { bytewise = get, every = 0.02 } }, expect = { status = 200, upstream = { requests = 1 } } },
  { name = "a CONNECT in single bytes", via = "proxy", send = { { bytewise = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n${AUTH}\r\n", every = 0.005 } }, expect = { raw_has = "200" } },
  { name = "a body in single bytes", send = { "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 20\r\n\r\n", { bytewise = "01234567890123456789", every = 0.02 } },
    expect = { status = 200, upstream = { body = "01234567890123456789" } } },
  { name = "an answer in single bytes", send = get, upstream = { reply = { { steps = { { bytewise = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nslow!", every = 0.02 } } } } },
    expect = { status = 200, body = "slow!" } },
  { name = "one byte a second", send = get, upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", { bytewise = "abc", every = 1 } } } } },
    expect = { status = 200, body = "abc", after = 1.9 } },
  { name = "others are served while one is slow", client = {
      { send = { { bytewise = get, every = 0.03 } }, expect = { status = 200, after = 1 } },
      { times = 4, send = get, expect = { status = 200, within = 2 } } }, expect = { status = 200 } },
  { name = "a client that does not read is not buffered without end", upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n", { ["repeat"] = ("x"):rep(65536), times = 1024 } } } } },
    send = { get, 1, { close = true } }, expect = { log = { status = 200, path = "/x" } } },
  { name = "the client has gone before its head was whole", send = { "GET /x HT", { close = true } }, expect = { upstream = { requests = 0 } } },
  { name = "the client has gone before its body was whole", send = { post .. "half", 0.3, { close = true } }, wait = 0.5,
    expect = { upstream = { requests = 0, cut = 1 } } },
  { name = "the client resets in its body", send = { post .. "half", 0.3, { reset = true } },
    expect = { upstream = { requests = 0, cut = 1 }, log = { method = "POST", error = "client_closed", up = 4, down = 0 } } },
  { name = "the client has gone in a chunked body", send = { "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0.3, { close = "ragged" } },
    expect = { upstream = { requests = 0, cut = 1 } } },
  { name = "the client has gone before the answer", send = { get, 0.2, { reset = true } }, upstream = { delay = 0.6 }, wait = 0.8, expect = { upstream = { requests = 1 } } },
  { name = "a half-closed client gets its answer", send = { get, { half_close = true } }, upstream = { delay = 0.3 }, expect = {} },
  { name = "a client that said close_notify gets its answer", send = { get, { close_notify = true } }, upstream = { delay = 0.5 }, expect = { status = 200, closed = true } },
  { name = "a body, then close_notify", send = { "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello", { close_notify = true } }, upstream = { delay = 0.3 },
    expect = { status = 200, closed = true, upstream = { body = "hello" } } },
  { name = "two requests, then close_notify", send = { get .. get, { close_notify = true } }, upstream = { delay = 0.2 }, expect = { statuses = { 200, 200 }, closed = true } },
  { name = "close_notify, and a long answer", send = { get, { close_notify = true } }, expect = { status = 200, body_size = 1000000, closed = true },
    upstream = { delay = 0.2, reply = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" .. ("0123456789"):rep(100000) } },
  { name = "close_notify in the middle of a body", send = { post .. "half", 0.3, { close_notify = true } },
    expect = { upstream = { requests = 0, cut = 1 }, log = { method = "POST", error = "client_closed" } } },
  { name = "close_notify, then gone: nobody waits for the answer", send = { get, 0.2, { close_notify = true }, { close = "ragged" } }, upstream = { delay = 1.5 }, wait = 0.3,
    expect = { log = { path = "/x", error = "client_closed" } } },
  { name = "upstream answers late", send = get, upstream = { delay = 1.5 }, expect = { status = 200, after = 1.4 } },
  { name = "upstream refuses connections", host = "refused.test", send = "GET / HTTP/1.1\r\nHost: refused.test\r\n\r\n",
    expect = { status = 502, error = "upstream_unreachable", log = { host = "refused.test", decision = "allow", status = 502, error = "upstream_unreachable" } } },
  { name = "upstream closes its idle connection: the next request is served", workers = 1, send = { get, { answers = 1 }, 0.6, get },
    upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0.2, { close = true } } } } },
    expect = { statuses = { 200, 200 }, upstream = { requests = 2, connections = 2 } } },
  { name = "upstream closes a kept connection on the next request: a GET is sent once more",
    send = { get, { answers = 1 }, get },
    upstream = { reply = { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", { steps = { { reset = true } } }, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" } },
    expect = { statuses = { 200, 200 }, upstream = { requests = 3 } } },
  { name = "upstream closes a kept connection on a POST: it is not sent again",
    send = { get, { answers = 1 }, "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\nab" },
    upstream = { reply = { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", { steps = { { reset = true } } }, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" } },
    expect = { statuses = { 200, 502 }, error = "upstream_unreachable", upstream = { requests = 2 } } },
  { name = "an idle client is closed past the head's time, with the fake clock still", send = { 0.1, get }, expect = { status = 200 } },
}
-- A client that leaves at every stage of a request.
for i, n in ipairs { 1, 5, 20, 60, 100 } do
  local text = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nX: " .. ("a"):rep(60) .. "\r\n\r\n"
  cases[#cases + 1] = { name = "a client that leaves " .. n .. " bytes into CONNECT", via = "proxy", send = { text:sub(1, n), 0.05, i % 2 == 0 and { reset = true } or { close = true } }, expect = { upstream = "nothing" } }
end
return {
  shared = {
    hosts = { "api.test" },
    credentials = { { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-slow" } },
                    { name = "refused", type = "bearer", host = "refused.test", secrets = { token = "canary-refused" } } },
    servers = { refused = { host = "refused.test", refuse = true } },
  },
  cases = cases,
}
