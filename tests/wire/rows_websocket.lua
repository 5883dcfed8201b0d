--- Rows in a WebSocket: whole text messages of the client's, masked afresh where something was replaced; all else as it came.
local function upgrade(host, more)
  return "GET /ws HTTP/1.1\r\nHost: " .. host .. "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" .. (more or "") .. "\r\n"
end
local switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

-- A client's frame (RFC 6455 section 5.2). The mask is zero where none is given: then it can be read as it is.
local function frame(first, text, mask)
  mask = mask or "\0\0\0\0"
  local n = #text
  local head = n < 126 and string.pack("BB", first, 128 | n) or n < 65536 and string.pack(">BBI2", first, 254, n)
    or string.pack(">BBI8", first, 255, n)
  local out = {}
  for i = 1, n do out[i] = string.char(text:byte(i) ~ mask:byte((i - 1) % 4 + 1)) end
  return head .. mask .. table.concat(out)
end
local TEXT, MORE, END, BINARY, PING, CLOSE = 0x81, 0x01, 0x80, 0x82, 0x89, 0x88

-- The upstream sends back what it read, as no server may: masked. scrub=head lets that pass. What was replaced has a mask that
-- nobody knows, so the length tells.
local function case(name, send, has, never, more)
  local c = { name = name, host = "ws.test", send = { upgrade("ws.test"), { ["until"] = "101" }, table.unpack(send) },
              upstream = { reply = { { steps = { switch, { relay = true } } } } }, expect = { raw_has = has, raw_not = never } }
  for k, v in pairs(more or {}) do c[k] = v end
  return c
end

local marker = frame(BINARY, "the end")
return {
  shared = {
    hosts = { "ws.test", "no.test" },
    credentials = {
      { name = "ws", type = "substitute", host = "ws.test", secrets = { value = "canary-\"websocket" }, fields = { scrub = "head" }, substitute = "value:ws=/d/token:__TOKEN__" },
      { name = "no", type = "substitute", host = "no.test", secrets = { value = "canary-none-here" }, fields = { scrub = "head" }, substitute = "value:header=X-Key:__TOKEN__" },
    },
  },
  cases = {
    case("the member that the row names is replaced, and escaped", { frame(TEXT, '{"d":{"token":"__TOK\\u0045N__"}}', "abcd"), marker, { ["until"] = marker } },
      { "\x81\xa4", marker }, "TOK"),
    case("another member is not: a chat would send it back", { frame(TEXT, '{"d":{"text":"__TOKEN__"},"token":"__TOKEN__"}'), marker, { ["until"] = marker } },
      frame(TEXT, '{"d":{"text":"__TOKEN__"},"token":"__TOKEN__"}') .. marker),
    case("nor one that is there twice", { frame(TEXT, '{"d":{"token":"__TOKEN__","token":""}}'), marker, { ["until"] = marker } },
      frame(TEXT, '{"d":{"token":"__TOKEN__","token":""}}') .. marker),
    case("text that is no JSON goes as it came", { frame(TEXT, "login __TOKEN__"), marker, { ["until"] = marker } }, frame(TEXT, "login __TOKEN__") .. marker),
    case("without a placeholder it goes as it came", { frame(TEXT, "hello"), marker, { ["until"] = marker } }, frame(TEXT, "hello") .. marker),
    case("fragments are put together", { frame(MORE, '{"d":{"token":"__TO'), 0.1, frame(PING, "p"), frame(0, "KEN"), frame(END, '__"}}'), marker, { ["until"] = marker } },
      { frame(PING, "p"), "\x81\xa4", marker }, { "__TO", "KEN" }),
    case("fragments without one keep their borders", { frame(MORE, "he"), frame(0, ""), frame(END, "llo"), marker, { ["until"] = marker } },
      frame(MORE, "he") .. frame(0, "") .. frame(END, "llo") .. marker),
    case("binary messages are left alone", { frame(BINARY, "__TOKEN__"), frame(0x02, "__TOK"), frame(END, "EN__"), { ["until"] = frame(END, "EN__") } },
      frame(BINARY, "__TOKEN__") .. frame(0x02, "__TOK") .. frame(END, "EN__")),
    case("byte by byte", { { bytewise = frame(TEXT, '{"d":{"token":"__TOKEN__"}}', "wxyz") .. marker, every = 0.002 }, { ["until"] = marker } }, { "\x81\xa4", marker }, "__TOKEN__"),
    case("more than is held passes as it is", { frame(TEXT, "__TOKEN__" .. ("x"):rep(70000)), marker, { ["until"] = marker } },
      { "\x81\xff", "__TOKEN__xxx", marker }),
    case("a message that grows past it passes too", { frame(MORE, '{"d":{"token":"__TOKEN__' .. ("x"):rep(30000)), frame(0, ("y"):rep(9000)), frame(END, '__TOKEN__"}}'), marker, { ["until"] = marker } },
      { "__TOKEN__xxx", "yyy", frame(END, '__TOKEN__"}}') .. marker }),
    { name = "no compression is offered where a row looks", host = "ws.test", send = { upgrade("ws.test", "Sec-WebSocket-Extensions: permessage-deflate\r\n"), { ["until"] = "101" } },
      upstream = { reply = { { steps = { switch } } } }, expect = { raw_has = "101", upstream = { no_header = "sec-websocket-extensions" } } },
    { name = "and it is where none does, and no answer is searched", host = "no.test", send = { upgrade("no.test", "Sec-WebSocket-Extensions: permessage-deflate\r\n"), { ["until"] = "101" }, frame(TEXT, "__TOKEN__"), { ["until"] = "__TOKEN__" } },
      upstream = { reply = { { steps = { switch, { relay = true } } } } },
      expect = { raw_has = frame(TEXT, "__TOKEN__"), upstream = { header = { ["sec-websocket-extensions"] = "permessage-deflate" } } } },
  },
}
