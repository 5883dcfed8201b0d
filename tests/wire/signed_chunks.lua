--- Chunk-signed bodies on the wire: AWS's documented example comes out with AWS's signatures, whatever the client's
-- were. The seed is that of the example, which the test binary's own filters begin from.
local function source(name, filter, body)
  return ([[
return {
  kind = "type", api = 1, name = "%s", title = "A test's own",
  fields = { { name = "token", secret = true, required = true } },
  %s
  apply = function(req, cred) req:filter('%s') end,
}
]]):format(name, body or "", filter)
end

local ZEROS = ("0"):rep(64)
local function chunk(data, sig) return ("%x;chunk-signature=%s\r\n%s\r\n"):format(#data, sig or ZEROS, data) end
local function last(sig) return "0;chunk-signature=" .. (sig or ZEROS) .. "\r\n" end
local function trailers(line, sig) return line .. "x-amz-trailer-signature:" .. (sig or ZEROS) .. "\r\n\r\n" end
local a64, a1 = ("a"):rep(65536), ("a"):rep(1024)
local CRC = "x-amz-checksum-crc32c:sOO8/Q==\r\n"

local plain = chunk(a64) .. chunk(a1) .. last() .. "\r\n"
local plain_signed = chunk(a64, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648")
  .. chunk(a1, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497")
  .. last "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9" .. "\r\n"
local function trailing(line)
  return chunk(a64) .. chunk(a1) .. last() .. trailers(line),
    chunk(a64, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2")
    .. chunk(a1, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7")
    .. last "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"
    .. trailers(line, "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435")
end
local trailed, trailed_signed = trailing(CRC)
local minio, minio_signed = trailing("x-amz-checksum-crc32c:sOO8/Q==\n\r\n")

local function put(host, body, fields)
  return "PUT /x HTTP/1.1\r\nHost: " .. host .. "\r\nx-amz-decoded-content-length: 66560\r\n"
    .. (fields or "Content-Length: " .. #body .. "\r\n") .. "\r\n" .. body
end
local function http_chunks(body, size)
  local out = {}
  for i = 1, #body, size do
    local piece = body:sub(i, i + size - 1)
    out[#out + 1] = ("%x\r\n%s\r\n"):format(#piece, piece)
  end
  return table.concat(out) .. "0\r\n\r\n"
end
local CHUNKED = "Transfer-Encoding: chunked\r\n"
local cases = {}
local function case(name, host, send, expect, more)
  local c = { name = name, host = host, send = send, expect = expect }
  for k, v in pairs(more or {}) do c[k] = v end
  cases[#cases + 1] = c
end
local function taken(body, framing)
  return { status = 200, closed = false,
    upstream = { header = { ["x-amz-decoded-content-length"] = "66560", [framing or "content-length"] = framing and "chunked" or tostring(#body) },
                 body = body } }
end
local refused = { status = 400, error = "bad_request", closed = true }

case("AWS's example is signed as AWS signs it", "plain.test", put("plain.test", plain), taken(plain_signed))
case("with a trailer", "trailer.test", put("trailer.test", trailed), taken(trailed_signed))
case("with a trailer as minio-go ends it", "trailer.test", put("trailer.test", minio), taken(minio_signed))
case("inside HTTP's own chunks, cut anywhere", "plain.test", put("plain.test", http_chunks(plain, 4999), CHUNKED),
  taken(plain_signed, "transfer-encoding"))
case("byte by byte at its seams", "trailer.test",
  { put("trailer.test", "", "Content-Length: " .. #trailed .. "\r\n") .. trailed:sub(1, 60), { bytewise = trailed:sub(61, 100), every = 0.001 },
    trailed:sub(101, -301), { bytewise = trailed:sub(-300), every = 0.001 } }, taken(trailed_signed))
case("two in one connection begin the chain anew", "plain.test", put("plain.test", plain) .. put("plain.test", plain),
  { statuses = { 200, 200 }, upstream = { requests = 2, body = plain_signed } })

-- A policy that has read the body whole: it goes out of memory, through the same filter.
case("read whole, it is signed as it goes out", "whole.test", put("whole.test", plain) .. put("whole.test", plain),
  { statuses = { 200, 200 }, closed = false, upstream = { requests = 2, header = { ["content-length"] = tostring(#plain) }, body = plain_signed } })
case("and where it came in HTTP's chunks", "whole.test", put("whole.test", http_chunks(plain, 4999), CHUNKED),
  { status = 200, closed = false, upstream = { header = { ["content-length"] = tostring(#plain) }, no_header = "transfer-encoding", body = plain_signed } })
case("read whole, a body that ends too early is refused", "whole.test", put("whole.test", chunk(a64)), refused)
case("read whole, bytes behind the last chunk are, too", "whole.test", put("whole.test", last() .. "\r\nGET / HTTP/1.1\r\n\r\n"), refused)
case("read whole, a chunk over 1 MiB ends the request alone", "whole.test",
  put("whole.test", "100001;chunk-signature=" .. ZEROS .. "\r\n" .. a64) .. put("whole.test", plain),
  { statuses = { 413, 200 }, closed = false, upstream = { body = plain_signed } })

case("a chunk over 1 MiB says what to set", "plain.test", put("plain.test", "100001;chunk-signature=" .. ZEROS .. "\r\n" .. a64, "Content-Length: 1048900\r\n"),
  { status = 413, error = "body_too_large", body_has = "chunk size", closed = true })
case("no signature", "plain.test", put("plain.test", "5\r\nhello\r\n0\r\n\r\n"), refused)
case("another extension", "plain.test", put("plain.test", "5;a=b;chunk-signature=" .. ZEROS .. "\r\nhello\r\n" .. last() .. "\r\n"), refused)
case("bytes behind the last chunk", "plain.test", put("plain.test", last() .. "\r\nGET / HTTP/1.1\r\n\r\n"), refused)
case("a body that ends too early", "plain.test", put("plain.test", chunk "hello"), refused)
case("a trailer that was not announced", "plain.test", put("plain.test", last() .. trailers(CRC)), refused)
case("no trailer where one was announced", "trailer.test", put("trailer.test", last() .. "\r\n"), refused)
case("a client that hangs up within a chunk", "plain.test", { put("plain.test", "", "Content-Length: 70000\r\n") .. plain:sub(1, 30000), 0.1, { reset = true } },
  { no_answer = true })

return {
  shared = {
    hosts = { "plain.test", "trailer.test", "whole.test" },
    policies = { { name = "plain", source = source("plain", "test_sigv4") }, { name = "trailer", source = source("trailer", "test_sigv4_trailer") },
      { name = "whole", source = source("whole", "test_sigv4", "body = { max = 100000 },") } },
    credentials = {
      { name = "plain", type = "plain", host = "plain.test", secrets = { token = "canary-plain" } },
      { name = "trailer", type = "trailer", host = "trailer.test", secrets = { token = "canary-trailer" } },
      { name = "whole", type = "whole", host = "whole.test", secrets = { token = "canary-whole" } },
    },
  },
  cases = cases,
}
