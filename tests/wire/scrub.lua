--- The way back: an answer does not repeat what was attached to its request (`credential add --help`, scrub=).
-- Hits are counted for each agent and credential, ten a minute, so the cases spread over several credentials.
local SECRET = "canary-scrub-0123456789"
-- {"seen":"Bearer SECRET",…} and a text without it, by gzip; {"seen":"SECRET"} by deflate (RFC 1950)
local GZIP_HIT = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x4e\x4d\xcd\x53\xb2\x52\x72\x4a\x4d\x2c\x4a\x2d\x52\x48\x4e\xcc\x4b\x2c\xaa\xd4\x2d\x4e\x2e\x2a\x4d\xd2\x35\x30\x34\x32\x36\x31\x35\x33\xb7\xb0\x54\xd2\x51\xca\xcd\x2f\x4a\x05\xaa\xab\x20\x12\x28\xd5\x02\x00\x46\x34\x59\x47\x5b\x00\x00\x00"
local GZIP_CLEAN = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x4e\x4d\xcd\x53\xb2\x52\xca\xcb\x2f\xc9\xc8\xcc\x4b\x57\xc8\x4f\x53\xc8\x2c\x51\xaa\xad\x1e\x15\x1f\x16\xe2\x00\xe2\x13\xc3\x59\xe0\x01\x00\x00"
local DEFLATE_HIT = "\x78\x9c\xab\x56\x2a\x4e\x4d\xcd\x53\xb2\x52\x4a\x4e\xcc\x4b\x2c\xaa\xd4\x2d\x4e\x2e\x2a\x4d\xd2\x35\x30\x34\x32\x36\x31\x35\x33\xb7\xb0\x54\xaa\x05\x00\xc4\x44\x0a\x6a"

-- "see canary-scrub-01" and, under a file's name, "23456789 end", and without one "x3456789 end", each stored in a member of gzip
local GZIP_ONE = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x13\x00\xec\xffsee canary-scrub-01\xec\xcfq\x88\x13\x00\x00\x00"
local GZIP_TWO = "\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xffa name\x00\x01\x0c\x00\xf3\xff23456789 end\xba?\x00\x02\x0c\x00\x00\x00"
local GZIP_OTHER = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x0c\x00\xf3\xffx3456789 end+`T\xd8\x0c\x00\x00\x00"

local credentials, hosts = {}, { "head.test", "off.test", "all.test", "short.test", "limit.test", "talk.test" }
for i = 1, 8 do
  hosts[#hosts + 1] = ("h%d.test"):format(i)
  credentials[i] = { name = "k" .. i, type = "bearer", host = hosts[#hosts], env = "KEY_" .. i, secrets = { token = SECRET } }
end
for _, mode in ipairs { "head", "off", "all" } do
  credentials[#credentials + 1] = { name = mode, type = "bearer", host = mode .. ".test", secrets = { token = SECRET }, fields = { scrub = mode } }
end
credentials[#credentials + 1] = { name = "short", type = "bearer", host = "short.test", env = "SHORT", secrets = { token = "canary-12byt" } }
hosts[#hosts + 1] = "named.test"
credentials[#credentials + 1] = { name = "named", type = "api_key", host = "named.test", env = "NAMED",
  secrets = { key = "canary-first-0123", ["headers.X-Other"] = "Token token=canary-named-0123456789" } }
credentials[#credentials + 1] = { name = "talk", type = "bearer", host = "talk.test", env = "TALK", secrets = { token = SECRET } }
credentials[#credentials + 1] = { name = "limit", type = "bearer", host = "limit.test", env = "LIMIT", secrets = { token = SECRET } }

local turn = 0
-- An answer to a GET. Each case takes the next credential.
local function case(name, fields, body, expect, more)
  turn = turn % 8 + 1
  local host = more and more.host or hosts[6 + turn]
  local c = { name = name, host = host, send = "GET / HTTP/1.1\r\nHost: " .. host .. "\r\n" .. (more and more.ask or "") .. "\r\n",
    upstream = { reply = { { steps = type(body) == "table" and body or
      { "HTTP/1.1 " .. (more and more.status or "200 OK") .. "\r\n" .. fields .. "Content-Length: " .. #body .. "\r\n\r\n" .. body } } } },
    expect = expect }
  return c
end
local JSON, ANY = "Content-Type: application/json\r\n", "Content-Type: application/octet-stream\r\n"

local function chunks(...)
  local out = { "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" }
  for _, part in ipairs { ... } do
    out[#out + 1] = type(part) == "number" and part or ("%x\r\n%s\r\n"):format(#part, part)
  end
  out[#out + 1] = "0\r\n\r\n"
  return out
end

local function hex(s) return (s:gsub(".", function(c) return ("%02X"):format(c:byte()) end)) end

-- A server's frames (RFC 6455 5.2) behind its 101.
local switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
local function frame(first, text) return string.char(first, #text) .. text end
local function websocket(name, steps, expect, host)
  turn = turn % 8 + 1
  host = host or hosts[6 + turn]
  return { name = name, host = host, send = { "GET /ws HTTP/1.1\r\nHost: " .. host .. "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
      .. "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", { ["until"] = expect.log and expect.log.error and "101 Sw" or "END" } },
    upstream = { reply = { { steps = { switch, table.unpack(steps) } } } }, expect = expect }
end

local cases = {
    case("a body of known length gets the placeholder, and its length is right", JSON, '{"token":"' .. SECRET .. '"}',
      { status = 200, raw_has = { "Content-Length: 50\r\n", '{"token":"sp_ph_' }, body_size = 50, log = { scrubbed = 1 } }),
    case("each time that it stands there", JSON, ('"%s",'):format(SECRET):rep(3), { status = 200, raw_has = { '"sp_ph_', ',"sp_ph_' }, body_size = 123, log = { scrubbed = 3 } }),
    case("in hexadecimal, of which as much is overwritten", "Content-Type: text/plain\r\n", "<" .. hex(SECRET) .. ">",
      { status = 200, body_not = hex(SECRET):sub(9, 40), body_size = 48 }),
    case("in Base64 behind a user's name", "Content-Type: text/html\r\n", "Basic eDpjYW5hcnktc2NydWItMDEyMzQ1Njc4OQ==",
      { status = 200, body_not = "jYW5hcnktc2NydWItMDEyMzQ1Njc4O", body_size = 42 }),
    case("escaped as JSON may be", JSON, '"can\\u0061ry-scrub-\\u0030123456789"', { status = 200, body_has = '"sp_ph_', body_size = 40 }),
    case("percent-encoded in a form", "Content-Type: application/x-www-form-urlencoded\r\n", "k=canary%2Dscrub%2d0123456789&x=1", { status = 200, body_has = "k=sp_ph_", body_size = 44 }),
    case("in HTML's references", "Content-Type: text/html\r\n", "<p>canary&#45;scrub&#x2d;0123456789</p>", { status = 200, body_has = "<p>sp_ph_", body_size = 45 }),
    case("in references without their semicolons, which browsers read", "Content-Type: text/html\r\n", "<p>canary&#45scrub&#45&#48;12345678&#57",
      { status = 200, body_has = "<p>sp_ph_", body_not = "canary" }),
    case("in any type of up to 1 MiB", ANY, "\0\1" .. SECRET .. "\255", { status = 200, body_not = SECRET }),
    case("not in a longer one that is no text", ANY, ("x"):rep(1 << 20) .. SECRET, { status = 200, body_has = "x" .. SECRET }),
    case("but with scrub=all", ANY, ("x"):rep(1 << 20) .. SECRET, { status = 200, body_size = (1 << 20) + #SECRET, body_not = SECRET:sub(1, 12) }, { host = "all.test" }),
    case("in a body of unknown length, over the border of chunks", "", chunks("data: canary-sc", "rub-01234", "56789\n\n"), { status = 200, body_size = 31, body_not = "y-scrub-0" }),
    case("a beginning goes on after 200 ms, and the rest is overwritten", "", chunks("data: canary-scrub-", 0.6, "0123456789\n\n"), { status = 200, body_has = "data: canary-scrub-", body_not = "0123456789", body_size = 31 }),
    case("a beginning of under 8 bytes is not held", "", chunks("data: canary-", 0.6, "birds\n\n"), { status = 200, body = "data: canary-birds\n\n" }),
    case("until the close too", "", { "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nsee " .. SECRET, { close = true } }, { status = 200, body_has = "see ", body_not = SECRET:sub(1, 12) }),
    case("gzip that has it ends within the answer", JSON .. "Content-Encoding: gzip\r\n", GZIP_HIT, { raw_not = GZIP_HIT, truncated = true, log = { error = "scrub_hit" } }),
    case("deflate that has it as well", JSON .. "Content-Encoding: deflate\r\n", DEFLATE_HIT, { raw_not = DEFLATE_HIT, truncated = true, log = { error = "scrub_hit" } }),
    case("gzip without it goes on byte for byte", JSON .. "Content-Encoding: gzip\r\n", GZIP_CLEAN, { raw_has = GZIP_CLEAN, status = 200 }),
    case("a coding that cannot be read here goes on", JSON .. "Content-Encoding: br\r\n", "\11\2\128canary-scrub-0", { raw_has = "\11\2\128canary-scrub-0", status = 200 }),
    case("but not with the secret as it is, which brotli may store", JSON .. "Content-Encoding: br\r\n", "\11\2\128" .. SECRET, { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }),
    case("nor where the coding's name is none", JSON .. "Content-Encoding: utf-8\r\n", SECRET, { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }),
    case("bytes behind the end of gzip are searched as they are", JSON .. "Content-Encoding: gzip\r\n", GZIP_CLEAN .. "\0\0" .. SECRET, { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }),
    case("and go on where it is not there", JSON .. "Content-Encoding: x-gzip, identity\r\n", GZIP_CLEAN .. ("\0"):rep(512) .. "no member", { raw_has = GZIP_CLEAN .. ("\0"):rep(512) .. "no member", status = 200 }),
    case("a second member of gzip is decoded", JSON .. "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", GZIP_CLEAN .. GZIP_HIT, { raw_not = GZIP_HIT, truncated = true, log = { error = "scrub_hit" } }),
    case("two codings are refused", JSON .. "Content-Encoding: gzip, gzip\r\n", GZIP_CLEAN, { status = 502, error = "scrub_hit", raw_not = GZIP_CLEAN }),
    case("in two fields as well", JSON .. "Content-Encoding: br\r\nContent-Encoding: gzip\r\n", GZIP_CLEAN, { status = 502, error = "scrub_hit", raw_not = GZIP_CLEAN }),
    case("over the border of two members of gzip", JSON .. "Content-Encoding: gzip\r\n", GZIP_ONE .. GZIP_TWO, { raw_not = "23456789", truncated = true, log = { error = "scrub_hit" } }),
    case("members without it go on", JSON .. "Content-Encoding: gzip\r\n", GZIP_ONE .. GZIP_OTHER, { status = 200, raw_has = GZIP_ONE .. GZIP_OTHER }),
    case("a call's answers come in no coding of its messages", "Content-Type: application/grpc\r\n", "\0", { status = 200, upstream = { no_header = "grpc-accept-encoding" } },
      { ask = "Content-Type: application/grpc\r\nGrpc-Accept-Encoding: gzip\r\n" }),
    case("what an upload left over is none", JSON .. "Content-Encoding: aws-chunked,gzip\r\n", GZIP_HIT, { raw_not = GZIP_HIT, truncated = true, log = { error = "scrub_hit" } }),
    case("what says gzip and is not ends the answer", JSON .. "Content-Encoding: gzip\r\n", "no gzip at all: " .. SECRET, { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }),
    case("a range with it ends within the answer", JSON .. "Content-Range: bytes 0-22/100\r\n", SECRET, { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }, { status = "206 Partial Content" }),
    case("a range without it goes on", JSON .. "Content-Range: bytes 0-3/100\r\n", "rang", { status = 206, body = "rang" }, { status = "206 Partial Content" }),
    case("an answer with a digest and with it ends", JSON .. "Content-MD5: x\r\n", SECRET, { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }),
    case("an answer with a checksum of S3's goes on where it has none", JSON .. "x-amz-checksum-crc32: AAAAAA==\r\n", "fine", { status = 200, body = "fine" }),
    case("trailers may have it neither", "", { "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Seen: " .. SECRET .. "\r\n\r\n" }, { status = 200, body = "ok", raw_not = SECRET }),
    case("scrub=head: heads alone", JSON .. "X-Seen: " .. SECRET .. "\r\n", SECRET, { status = 200, body = SECRET, raw_not = "X-Seen: canary" }, { host = "head.test" }),
    case("scrub=off: heads too, and no body", JSON .. "X-Seen: " .. SECRET .. "\r\n", SECRET, { status = 200, body = SECRET, raw_not = "X-Seen: canary" }, { host = "off.test" }),
    case("under 16 bytes: heads alone", JSON .. "X-Seen: canary-12byt\r\n", "a canary-12byt", { status = 200, body = "a canary-12byt", raw_not = "X-Seen: canary" }, { host = "short.test" }),
    case("a key that stands behind a name in its field: by itself, too", JSON .. "X-Seen: canary-named-0123456789\r\n", '["canary-named-0123456789","canary-first-0123"]', { status = 200, raw_not = "canary" },
      { host = "named.test" }),
    case("what can be searched is asked for, as far as it was offered", JSON, "{}", { status = 200, upstream = { header = { ["accept-encoding"] = "gzip;q=0.5,deflate" } } },
      { ask = "Accept-Encoding: br;q=1, gzip;q=0.5, zstd, deflate\r\n" }),
    case("identity where nothing else is left", JSON, "{}", { status = 200, upstream = { header = { ["accept-encoding"] = "identity" } } }, { ask = "Accept-Encoding: br, *\r\n" }),
    case("what can be read whole stays as it came, for it may be signed", JSON, "{}", { status = 200, upstream = { header = { ["accept-encoding"] = "gzip, deflate;q=0.5 ,identity;q=0" } } },
      { ask = "Accept-Encoding: gzip, deflate;q=0.5 ,identity;q=0\r\n" }),
    case("what stands before the first that cannot stays too", JSON, "{}", { status = 200, upstream = { header = { ["accept-encoding"] = "gzip, deflate,identity" } } },
      { ask = "Accept-Encoding: gzip, deflate , br, identity, zstd\r\n" }),
    case("and all where no body is searched", JSON, "{}", { status = 200, upstream = { header = { ["accept-encoding"] = "br, gzip" } } }, { ask = "Accept-Encoding: br, gzip\r\n", host = "head.test" }),
    websocket("a text message is searched over its frames, and a ping goes between", { frame(0x01, "see canary-scr"), frame(0x89, "ping"), frame(0x80, "ub-0123456789 END") },
      { raw_not = "ub-01234", raw_has = { frame(0x89, "ping"), " END" }, upstream = { no_header = "sec-websocket-extensions" }, log = { scrubbed = 1 } }),
    websocket("other messages are not", { frame(0x82, SECRET), frame(0x81, "canary-birds END") }, { raw_has = { frame(0x82, SECRET), frame(0x81, "canary-birds END") } }),
    websocket("but with scrub=all", { frame(0x02, "see canary-scr"), frame(0x80, "ub-0123456789"), frame(0x81, "END") }, { raw_not = "ub-01234", raw_has = frame(0x81, "END"), log = { scrubbed = 1 } }, "all.test"),
    websocket("the reason of a close is text, too", { frame(0x01, "a text that never"), frame(0x88, "\3\xf0the key " .. SECRET .. " is bad END") },
      { raw_not = SECRET, raw_has = { frame(0x01, "a text that never") .. "\x88\x2c\3\xf0the key ", " is bad END" }, log = { scrubbed = 1 } }),
    websocket("with scrub=all pings and pongs are, too, each by itself, wherever they come", { frame(0x02, "see canary-scr"), frame(0x8a, "pong " .. SECRET), frame(0x80, "ub-0123456789"),
      frame(0x89, "canary-sc"), 0.1, "\x89", 0.1, "\x1bkey canary-scrub-01", 0.1, "23456789" .. frame(0x81, "END") },
      { raw_not = { "ub-01234", "canary-scrub", "23456789" }, raw_has = { "\x02\x0esee __SALLYPOR", "\x8a\x1cpong __SALLYPORT", frame(0x89, "canary-sc") .. "\x89\x1bkey __SALLYPORT", frame(0x81, "END") }, log = { scrubbed = 3 } }, "all.test"),
    websocket("else they are not: a server gets back what it sent in one", { frame(0x89, SECRET) .. frame(0x81, "END") }, { raw_has = frame(0x89, SECRET) .. frame(0x81, "END") }),
    websocket("text with an RSV bit, which no extension of ours explains, ends the connection", { frame(0x81, "first"), 0.3, frame(0xc1, SECRET) },
      { raw_has = frame(0x81, "first"), raw_not = SECRET, closed = true, log = { error = "scrub_hit" } }),
    websocket("so does a masked one", { "\x81\x97\0\0\0\0" .. SECRET }, { raw_not = SECRET, closed = true, log = { error = "scrub_hit" } }),
    websocket("and the rest of a text", { frame(0x01, "see"), frame(0xa0, SECRET) }, { raw_not = SECRET, closed = true, log = { error = "scrub_hit" } }),
    websocket("and a ping, with scrub=all", { "\x89\x97\0\0\0\0" .. SECRET }, { raw_not = SECRET, closed = true, log = { error = "scrub_hit" } }, "all.test"),
    websocket("what is not searched may have either", { frame(0xc2, SECRET) .. "\x8a\x81\0\0\0\0p" .. frame(0x81, "END") },
      { raw_has = frame(0xc2, SECRET) .. "\x8a\x81\0\0\0\0p" .. frame(0x81, "END") }),
    websocket("a WebSocket is one request of the limit, whatever it repeats", { frame(0x81, SECRET):rep(12) .. frame(0x81, " END") },
      { raw_not = SECRET, raw_has = frame(0x81, " END"), log = { scrubbed = 12 } }, "talk.test"),
    { name = "one that counts", host = "talk.test", send = ("GET / HTTP/1.1\r\nHost: talk.test\r\n\r\n"):rep(10),
      upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\r\n" .. SECRET } } } },
      expect = { statuses = { 200, 200, 200, 200, 200, 200, 200, 200, 200, 502 }, raw_not = SECRET, log = { error = "scrub_limit", status = 502 } } },
    { name = "ten answers a minute may repeat it, then they are kept back", host = "limit.test", send = ("GET / HTTP/1.1\r\nHost: limit.test\r\n\r\n"):rep(12),
      upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\r\n" .. SECRET } } } },
      expect = { statuses = { 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 502, 502 }, raw_not = SECRET, log = { error = "scrub_limit" } } },
    { name = "a head counts as a body does", host = "limit.test", send = "GET / HTTP/1.1\r\nHost: limit.test\r\n\r\n",
      upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nX-Seen: " .. SECRET .. "\r\nContent-Length: 0\r\n\r\n" } } } }, expect = { status = 502, error = "scrub_limit", raw_not = SECRET } },
    { name = "another agent's are answered", token = "b", host = "limit.test", send = "GET / HTTP/1.1\r\nHost: limit.test\r\n\r\n",
      upstream = { reply = { { steps = { "HTTP/1.1 200 OK\r\nX-Seen: " .. SECRET .. "\r\nContent-Length: 0\r\n\r\n" } } } }, expect = { status = 200, raw_not = SECRET, log = { agent = "b" } } },
    { name = "and what does not repeat it is answered", host = "limit.test", send = "GET / HTTP/1.1\r\nHost: limit.test\r\n\r\n",
      upstream = { reply = { { status = 200, body = "fine" } } }, expect = { status = 200, body = "fine" } },
}

-- Every field that speaks of the bytes of a body, with a tag beside it: what has no secret goes on byte for byte, what has one ends.
for _, field in ipairs { "Content-MD5: x", "Digest: SHA-256=x", "Content-Digest: sha-256=:x:", "Repr-Digest: sha-256=:x:", "x-amz-checksum-sha256: x",
  "X-Amz-Checksum-CRC64NVME: x", "x-goog-hash: crc32c=x", "x-ms-blob-content-md5: x", "x-ms-content-crc64: x", "Docker-Content-Digest: sha256:x",
  'Signature-Input: sig=("@status")\r\nSignature: sig=:x:' } do
  local head = ("HTTP/1.1 200 OK\r\nETag: \"e-1\"\r\n%s\r\nContent-Type: text/plain\r\n"):format(field)
  if field ~= "x-ms-content-crc64: x" then
    cases[#cases + 1] = case("a hit ends the answer: " .. field, 'ETag: "e-1"\r\n' .. field .. "\r\nContent-Type: text/plain\r\n", SECRET,
      { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } })
  end
  cases[#cases + 1] = case("as it came: " .. field, nil, { head .. "Content-Length: 9\r\n\r\ncanary-sc" }, { status = 200, raw_has = { head, "\r\n\r\ncanary-sc" } })
end
local TAGGED = 'ETag: "strong"\r\nLast-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\nContent-Encoding: gzip\r\nContent-MD5: x\r\n'
table.move({
  case("HEAD: what would come is told as it is", nil, { "HTTP/1.1 200 OK\r\n" .. TAGGED .. "Content-Length: 12345\r\n\r\n" },
    { status = 200, raw_has = { TAGGED, "Content-Length: 12345\r\n" } }),
  case("304: its tag and length too", nil, { "HTTP/1.1 304 Not Modified\r\n" .. TAGGED .. "Content-Length: 12345\r\n\r\n" },
    { status = 304, raw_has = { TAGGED, "Content-Length: 12345\r\n" } }),
  case("a file of gzip that is stored, as S3 gives it, is no coding", 'ETag: "strong"\r\nx-amz-checksum-crc32: AAAAAA==\r\nContent-Type: application/gzip\r\n', GZIP_CLEAN,
    { status = 200, raw_has = { 'ETag: "strong"\r\nx-amz-checksum-crc32: AAAAAA==\r\n', GZIP_CLEAN } }),
  case("gzip that is coded and tagged", TAGGED, GZIP_CLEAN, { status = 200, raw_has = { TAGGED, GZIP_CLEAN } }),
  -- RFC 1952 2.3.1: FNAME and FCOMMENT stand there as they are
  case("gzip whose header has it as a file's name", JSON .. "Content-Encoding: gzip\r\n", "\x1f\x8b\x08\x08\0\0\0\0\0\x03" .. SECRET .. "\0" .. GZIP_CLEAN:sub(11),
    { raw_not = SECRET, truncated = true, log = { error = "scrub_hit" } }),
  case("as a comment in its second member, byte by byte", nil, { "HTTP/1.1 200 OK\r\n" .. JSON .. "Content-Encoding: gzip\r\n\r\n" .. GZIP_CLEAN
    .. "\x1f\x8b\x08\x10\0\0\0\0\0\x03", { bytewise = SECRET }, "\0" .. GZIP_CLEAN:sub(11), { close = true } },
    { raw_not = SECRET, log = { error = "scrub_hit" } }),
  case("another name is none", JSON .. "Content-Encoding: gzip\r\n", "\x1f\x8b\x08\x08\0\0\0\0\0\x03canary-notes.json\0" .. GZIP_CLEAN:sub(11),
    { status = 200, raw_has = "canary-notes.json\0" .. GZIP_CLEAN:sub(11) }),
}, 1, 7, #cases + 1, cases)
cases[#cases - 6].send = cases[#cases - 6].send:gsub("^GET", "HEAD")

return { shared = { hosts = hosts, credentials = credentials, agents = { { name = "a" }, { name = "b" } } }, cases = cases }
