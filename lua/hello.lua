--- The ClientHello of a tunnel that is to be TLS with the host that its CONNECT named (RFC 8446 4.1.2, RFC 6066 3).
-- Only its outer name can be read: with Encrypted Client Hello that is the one that counts. A client that sends no name is
-- let through to an address alone, which no name may hold; an old one that sends none to a name needs `--tunnel=raw`.
local M = {}

local MORE, PASS, REFUSE = 1, 2, 3     -- proxy.c's enum hello
local HANDSHAKE, CLIENT_HELLO, SERVER_NAME, HOST_NAME = 22, 1, 0, 0
local MAX = 32768                      -- of a hello; with post-quantum keys and ECH they have 2 or 3 KiB

-- The handshake message at the beginning of the records, as far as it came: text, whole | nil: they are no such records
local function message(bytes)
  local parts, have, at, want = {}, 0, 1, 4
  while at <= #bytes do
    if bytes:byte(at) ~= HANDSHAKE or at < #bytes and bytes:byte(at + 1) ~= 3 then return nil end
    if at + 4 > #bytes then break end
    local n = (">I2"):unpack(bytes, at + 3)
    if n == 0 or n > 16384 then return nil end
    parts[#parts + 1] = bytes:sub(at + 5, at + 4 + n)
    have, at = have + #parts[#parts], at + 5 + n
    if have >= 4 then
      parts = { table.concat(parts) }
      want = 4 + (">I3"):unpack(parts[1], 2)
      if have >= want then break end
    end
  end
  return table.concat(parts):sub(1, want), have >= 4 and have >= want
end

-- The name, "" for none; raises where the hello is malformed: an unpack beyond the end does.
local function name_of(hello)
  local at, name = 4 + 34 + 1, ""
  for _, length in ipairs { ">s1", ">s2", ">s1" } do at = select(2, length:unpack(hello, at)) end   -- session, suites, compression
  if at > #hello then return name end
  local extensions, stop = (">s2"):unpack(hello, at)
  assert(stop == #hello + 1)
  at = 1
  local seen = false
  while at <= #extensions do
    local kind, data
    kind, data, at = (">I2s2"):unpack(extensions, at)
    if kind == SERVER_NAME then
      local names, after = (">s2"):unpack(data)
      local of, text, last = (">Bs2"):unpack(names)
      assert(not seen and after == #data + 1 and last == #names + 1 and of == HOST_NAME and text ~= "")
      seen, name = true, text
    end
  end
  return name
end

--- More is to come, it does not, or it names the canonical host that is the second answer ("": nobody): of a connection
-- whose host is not known yet.
local function named(name)
  if name == "" then return PASS, name end
  name = require("http").canonical_host(name)
  return name and PASS or REFUSE, name
end

--- C asks: the answer of M.judge as one text, a digit and then the name, if there is one.
function M.asked(host, _, bytes)
  local is, name = M.judge(bytes, host)
  return is .. (name or "")
end

--- More is to come; it names `host` (canonical), or needs not; it does not, or it is no TLS.
function M.judge(bytes, host)
  local text, whole = message(bytes)
  if not text or text ~= "" and text:byte() ~= CLIENT_HELLO or #bytes > MAX then return REFUSE end
  if not whole then return MORE end
  local ok, name = pcall(name_of, text)
  if not ok then return REFUSE end
  if host == "" then return named(name) end
  if name == "" then
    local _, is_address = require("http").canonical_host(host)
    return is_address and PASS or REFUSE
  end
  return name:lower() == host and PASS or REFUSE
end

return M
