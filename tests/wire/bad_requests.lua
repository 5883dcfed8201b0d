--- Malformed and smuggled requests: the exact status, the connection closed, nothing sent upstream.
-- Each is sent inside a tunnel and on the proxy port in absolute form. RFC 9112 and 9110 sections beside each.
local big = ("a"):rep(70000)
local fields = {}
for i = 1, 101 do fields[i] = ("x-%d: 1\r\n"):format(i) end

local list = {
  -- name, request with $T for the target and $H for the fields that every request has, status, error
  { "a bare LF ends no line (9112 2.2)", "GET $T HTTP/1.1\n$H\r\n" },
  { "a bare LF ends no field (9112 2.2)", "GET $T HTTP/1.1\r\n$Hx: 1\ny: 2\r\n\r\n" },
  { "a bare LF ends no head (9112 2.2)", "GET $T HTTP/1.1\r\n$Hx: 1\n\n" },
  { "a bare CR in a value (9112 2.2)", "GET $T HTTP/1.1\r\n$Hx: 1\ry: 2\r\n\r\n" },
  { "a bare CR in the request line (9112 2.2)", "GET $T\r HTTP/1.1\r\n$H\r\n" },
  { "a folded field (9112 5.2)", "GET $T HTTP/1.1\r\n$Hx: 1\r\n  2\r\n\r\n" },
  { "a first field that is folded (9112 2.2)", "GET $T HTTP/1.1\r\n x: 1\r\n$H\r\n" },
  { "a space before the colon (9112 5.1)", "GET $T HTTP/1.1\r\n$Hx : 1\r\n\r\n" },
  { "a space before the colon of Content-Length", "POST $T HTTP/1.1\r\n$HContent-Length : 3\r\n\r\nabc" },
  { "NUL in a value", "GET $T HTTP/1.1\r\n$Hx: a\0b\r\n\r\n" },
  { "NUL in a name", "GET $T HTTP/1.1\r\n$Hx\0: b\r\n\r\n" },
  { "NUL in the target", "GET $T\0 HTTP/1.1\r\n$H\r\n" },
  { "a control byte in the target", "GET $T\1 HTTP/1.1\r\n$H\r\n" },
  { "a control byte in a value", "GET $T HTTP/1.1\r\n$Hx: a\1b\r\n\r\n" },
  { "a field without a colon", "GET $T HTTP/1.1\r\n$Hnonsense\r\n\r\n" },
  { "a field with an empty name", "GET $T HTTP/1.1\r\n$H: x\r\n\r\n" },
  { "a name that is no token", "GET $T HTTP/1.1\r\n$Hx(y): 1\r\n\r\n" },
  { "two spaces in the request line", "GET  $T HTTP/1.1\r\n$H\r\n" },
  { "a tab in the request line", "GET\t$T HTTP/1.1\r\n$H\r\n" },
  { "a method that is no token", "GE(T $T HTTP/1.1\r\n$H\r\n" },
  { "no version", "GET $T\r\n$H\r\n" },
  { "two equal lengths (9112 6.3)", "POST $T HTTP/1.1\r\n$HContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc" },
  { "two lengths that differ (9112 6.3)", "POST $T HTTP/1.1\r\n$HContent-Length: 3\r\nContent-Length: 30\r\n\r\nabc" },
  { "a list of lengths (9112 6.3)", "POST $T HTTP/1.1\r\n$HContent-Length: 3, 3\r\n\r\nabc" },
  { "a length with chunked (9112 6.1)", "POST $T HTTP/1.1\r\n$HContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
  { "chunked with a length (9112 6.1)", "POST $T HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" },
  { "a length of +5", "POST $T HTTP/1.1\r\n$HContent-Length: +5\r\n\r\nabcde" },
  { "a length of -1", "POST $T HTTP/1.1\r\n$HContent-Length: -1\r\n\r\n" },
  { "a length of 0x5", "POST $T HTTP/1.1\r\n$HContent-Length: 0x5\r\n\r\nabcde" },
  { "a length of 5 and a letter", "POST $T HTTP/1.1\r\n$HContent-Length: 5a\r\n\r\nabcde" },
  { "an empty length", "POST $T HTTP/1.1\r\n$HContent-Length: \r\n\r\n" },
  { "a length beyond 64 bits", "POST $T HTTP/1.1\r\n$HContent-Length: 18446744073709551621\r\n\r\nabcde" },
  { "chunked that is not last (9112 6.1)", "POST $T HTTP/1.1\r\n$HTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n" },
  { "chunked twice (9112 6.1)", "POST $T HTTP/1.1\r\n$HTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
  { "a coding that looks like chunked", "POST $T HTTP/1.1\r\n$HTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" },
  { "a quoted coding", "POST $T HTTP/1.1\r\n$HTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" },
  { "a vertical tab before chunked", "POST $T HTTP/1.1\r\n$HTransfer-Encoding: \11chunked\r\n\r\n0\r\n\r\n" },
  { "chunked in HTTP/1.0 (9112 6.1)", "POST $T HTTP/1.0\r\n$HTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
  { "HTTP/2.0", "GET $T HTTP/2.0\r\n$H\r\n", "505" },
  { "HTTP/0.9", "GET $T HTTP/0.9\r\n$H\r\n", "505" },
  { "HTTP/1.2", "GET $T HTTP/1.2\r\n$H\r\n", "505" },
  { "HTTP/1..", "GET $T HTTP/1..\r\n$H\r\n", "505" },
  { "HTTP/1.10", "GET $T HTTP/1.10\r\n$H\r\n", "505" },
  { "http in lower case", "GET $T http/1.1\r\n$H\r\n" },
  { "two Host fields (9112 3.2)", "GET $T HTTP/1.1\r\n$HHost: api.test\r\n\r\n" },
  { "an over-long head", "GET $T HTTP/1.1\r\n$Hx: " .. big .. "\r\n\r\n", "431", "head_too_large" },
  { "an over-long target", "GET $T" .. big .. " HTTP/1.1\r\n$H\r\n", "431", "head_too_large" },
  { "an over-long head that never ends", "GET $T HTTP/1.1\r\n$Hx: " .. big, "431", "head_too_large" },
  { "more than 100 fields", "GET $T HTTP/1.1\r\n$H" .. table.concat(fields) .. "\r\n", "431", "head_too_large" },
  { "a fragment in the target", "GET $T#frag HTTP/1.1\r\n$H\r\n" },
  { "TRACE", "TRACE $T HTTP/1.1\r\n$H\r\n", "405", "trace" },
}

local cases = {}
local function add(name, via, target, host, row)
  local send = row[2]:gsub("%$T", { ["$T"] = target }):gsub("%$H", { ["$H"] = host })
  cases[#cases + 1] = {
    name = name .. row[1], via = via, send = send,
    expect = { status = tonumber(row[3] or "400"), error = row[4] or "bad_request",
               closed = row[4] ~= "trace" and true or nil, upstream = "nothing" },
  }
end
for _, row in ipairs(list) do
  add("in a tunnel, ", "tunnel", "/", "Host: api.test\r\n", row)
  add("on the port, ", "proxy", "http://api.test/", "Host: api.test\r\n${AUTH}", row)
end

local function one(name, via, send, expect)
  expect.upstream = expect.upstream or "nothing"
  cases[#cases + 1] = { name = name, via = via, send = send, expect = expect }
end

one("an absolute wss target", "proxy", "GET wss://api.test/ HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
    { status = 400, error = "bad_request", closed = true })
one("an absolute ftp target", "proxy", "GET ftp://api.test/ HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
    { status = 400, error = "bad_request", closed = true })
one("an absolute target with userinfo", "proxy", "GET http://u:p@api.test/ HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
    { status = 400, error = "bad_request", closed = true })
one("an absolute target without a host", "proxy", "GET http:///x HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
    { status = 400, error = "bad_request", closed = true })
one("an absolute target with two Hosts", "proxy", "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nHost: api.test\r\n${AUTH}\r\n",
    { status = 400, error = "bad_request", closed = true })
one("an asterisk target that is not OPTIONS", "tunnel", "GET * HTTP/1.1\r\nHost: api.test\r\n\r\n",
    { status = 400, error = "bad_request", closed = true })
one("a target without its slash", "tunnel", "GET path HTTP/1.1\r\nHost: api.test\r\n\r\n",
    { status = 400, error = "bad_request", closed = true })
one("HTTP/1.1 without Host (9112 3.2)", "tunnel", "GET / HTTP/1.1\r\n\r\n",
    { status = 400, error = "bad_request", closed = true })
one("Host that is not the tunnel's", "tunnel", "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
    { status = 421, error = "misdirected" })
one("Host with another port than the tunnel's", "tunnel", "GET / HTTP/1.1\r\nHost: api.test:8443\r\n\r\n",
    { status = 421, error = "misdirected" })
one("Host with userinfo", "tunnel", "GET / HTTP/1.1\r\nHost: x@api.test\r\n\r\n",
    { status = 400, error = "bad_request", closed = true })
one("an absolute target that is not the tunnel's", "tunnel", "GET https://other.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
    { status = 421, error = "misdirected" })
one("an absolute target of the tunnel with another Host", "tunnel",
    "GET https://api.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n", { status = 421, error = "misdirected" })
one("CONNECT inside a tunnel", "tunnel", "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n",
    { raw_has = "HTTP/1.1 4", closed = true })
one("origin-form for a host that is not ours", "proxy", "GET / HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n",
    { raw_has = "HTTP/1.1 4" })
one("a TLS ClientHello on the proxy port", "proxy", "\22\3\1\0\200\1\0\0\196\3\3" .. ("\7"):rep(190), { closed = true })
one("nothing but line ends", "proxy", ("\r\n"):rep(5000), { closed = true })
one("garbage in place of a request", "tunnel", ("\255\254\253"):rep(100) .. "\r\n\r\n", { raw_has = "HTTP/1.1 400", closed = true })

-- Requests that are sound up to their body: what came before has been sent upstream, the fault must not be.
local chunked = "POST /up HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n"
for _, row in ipairs {
  { "a chunk size of +3", "+3\r\nabc\r\n0\r\n\r\n" },
  { "a chunk size of 0x3", "0x3\r\nabc\r\n0\r\n\r\n" },
  { "a chunk size of -1", "-1\r\nabc\r\n0\r\n\r\n" },
  { "an empty chunk size", "\r\nabc\r\n0\r\n\r\n" },
  { "a chunk size with a space before it", " 3\r\nabc\r\n0\r\n\r\n" },
  { "a chunk size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n" },
  { "a chunk size ended by a bare LF", "3\nabc\r\n0\r\n\r\n" },
  { "a chunk ended by a bare LF", "3\r\nabc\n0\r\n\r\n" },
  { "a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n" },
  { "a chunk extension with a bare LF", "3;x\ny\r\nabc\r\n0\r\n\r\n" },
  { "a chunk extension with NUL", "3;x=\0\r\nabc\r\n0\r\n\r\n" },
  { "an empty chunk extension", "3;\r\nabc\r\n0\r\n\r\n" },
  { "a chunk extension without a name", "3;=x\r\nabc\r\n0\r\n\r\n" },
  { "a chunk extension whose quote is not closed", "3;x=\"y\r\nabc\r\n0\r\n\r\n" },
  { "a chunk extension that is no token", "3;x=\200\r\nabc\r\n0\r\n\r\n" },
  { "a chunk extension of 70,000 bytes", "3;" .. big .. "\r\nabc\r\n0\r\n\r\n" },
  { "a trailer with a bare LF", "3\r\nabc\r\n0\r\nx: 1\ny: 2\r\n\r\n" },
  { "a folded trailer", "3\r\nabc\r\n0\r\nx: 1\r\n y\r\n\r\n" },
  { "trailers of 70,000 bytes", "3\r\nabc\r\n0\r\nx: " .. big .. "\r\n\r\n" },
} do
  -- whether an answer still gets through depends on how far the request is upstream; the end of the connection does not
  cases[#cases + 1] = {
    name = "in a body, " .. row[1], send = { chunked, row[2] .. "GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n" },
    expect = { closed = true, raw_not = "HTTP/1.1 200", upstream = { requests = 0 } },
  }
end

-- What is wrong is said, by the field, the line or the limit.
for _, row in ipairs {
  { "two lengths", "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "two Content-Length fields (line 4)" },
  { "both framings", "POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "both Content-Length and Transfer-Encoding" },
  { "a field", "GET / HTTP/1.1\r\nHost: api.test\r\nX: 1\r\nno colon\r\n\r\n", "a malformed header field (line 4)" },
  { "the first line", "GET nowhere HTTP/1.1\r\nHost: api.test\r\n\r\n", "a malformed request line" },
  { "no Host", "GET / HTTP/1.1\r\n\r\n", "no Host field" },
  { "the version", "GET / HTTP/3.0\r\nHost: api.test\r\n\r\n", "another version than HTTP/1.1", 505 },
  { "the fields", "GET / HTTP/1.1\r\nHost: api.test\r\n" .. table.concat(fields) .. "\r\n", "more than 100 header fields", 431 },
  { "the head", "GET / HTTP/1.1\r\nHost: api.test\r\nX: " .. big .. "\r\n\r\n", "a head of more than 64 KiB", 431 },
} do
  cases[#cases + 1] = { name = "the message names it: " .. row[1], send = row[2],
    expect = { status = row[4] or 400, body_has = row[3], closed = true, upstream = "nothing" } }
end

cases[#cases + 1] = {
  name = "a second request in a body stays a body",
  send = "POST /up HTTP/1.1\r\nHost: api.test\r\nContent-Length: 43\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\nxx",
  expect = { status = 200, upstream = { requests = 1, line = "POST /up HTTP/1.1", body_size = 43 } },
}
cases[#cases].send = cases[#cases].send:gsub("43", tostring(#"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\nxx"))
cases[#cases].expect.upstream.body_size = #"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\nxx"
cases[#cases + 1] = {
  name = "a GET with a body keeps it",
  send = "GET /up HTTP/1.1\r\nHost: api.test\r\nContent-Length: 3\r\n\r\nabc",
  expect = { status = 200, upstream = { requests = 1, body = "abc" } },
}
cases[#cases + 1] = {
  name = "lengths hidden by Connection are still framing",
  send = "POST /up HTTP/1.1\r\nHost: api.test\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc",
  expect = { status = 200, upstream = { requests = 1, body = "abc", header = { ["content-length"] = "3" } } },
}
cases[#cases + 1] = {
  name = "Host hidden by Connection still goes",
  send = "GET /up HTTP/1.1\r\nHost: api.test\r\nConnection: host, authorization\r\n\r\n",
  expect = { status = 200, upstream = { requests = 1, header = { host = "api.test", authorization = "Bearer canary-bad-1" } } },
}

return {
  shared = {
    credential = { name = "api", type = "bearer", host = "api.test", port = { 443, 80 }, plain_http = true,
                   secrets = { token = "canary-bad-1" } },
    domains = { { host = "other.test" } },
    servers = { plain = { host = "api.test", plain = true }, other = { host = "other.test" } },
  },
  cases = cases,
}
