--- What certificates say, for listings alone: they were checked in C when they were saved (tls.identity).
local dates = require "dates"
local host = require "host"
local secret = require "secret"
local M = {}

local MOST = 64              -- certificates that are listed
local VALUE_MAX = 128        -- letters shown of one part of a name

-- The last byte of 2.5.4.x (X.520) -> its short name; others are left out.
local parts = { [3] = "CN", [6] = "C", [7] = "L", [8] = "ST", [10] = "O", [11] = "OU" }

local function malformed() error({ malformed = true }, 0) end

-- One DER element of s at `at`: tag, its content, where the next one begins, and its whole text.
local function element(s, at)
  local tag, size = s:byte(at, at + 1)
  local from = at + 2
  if not size then malformed() end
  if size > 127 then
    local n = size & 127
    if n < 1 or n > 3 or #s < from + n - 1 then malformed() end
    size, from = (">I" .. n):unpack(s, from)
  end
  if from + size - 1 > #s then malformed() end
  return tag, s:sub(from, from + size - 1), from + size, s:sub(at, from + size - 1)
end

-- for tag, content, whole in elements(content)
local function elements(s)
  local at = 1
  return function()
    if at > #s then return nil end
    local tag, content, after, whole = element(s, at)
    at = after
    return tag, content, whole
  end
end

-- A name as people write it: "CN=x, O=y".
local function name(dn)
  local out = {}
  for _, set in elements(dn) do
    for _, pair in elements(set) do
      local _, id, at = element(pair, 1)
      local _, value = element(pair, at)
      local short = #id == 3 and id:sub(1, 2) == "\x55\x04" and parts[id:byte(3)]
      if short then out[#out + 1] = short .. "=" .. value:sub(1, VALUE_MAX):gsub("[^ -~]", "?") end
    end
  end
  return table.concat(out, ", ")
end

-- Unix seconds of a UTCTime or GeneralizedTime (RFC 5280 4.1.2.5).
local function seconds(tag, text)
  local y, mo, d, h, mi, s = text:match(tag == 23 and "^(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)Z$"
    or "^(%d%d%d%d)(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)Z$")
  if not y then malformed() end
  if tag == 23 then y = tonumber(y) + (tonumber(y) < 50 and 2000 or 1900) end
  return dates.seconds(y, mo, d, h, mi, s) or malformed()
end

-- RFC 5280 4.1: the certificate, its first part without the optional version.
local function read(der)
  local _, cert = element(der, 1)
  local _, tbs = element(cert, 1)
  local fields = {}
  for tag, content, whole in elements(tbs) do
    if tag ~= 0xa0 then fields[#fields + 1] = { tag = tag, content = content, whole = whole } end
  end
  if #fields < 6 then malformed() end
  local times = {}
  for tag, text in elements(fields[4].content) do times[#times + 1] = seconds(tag, text) end
  if #times ~= 2 then malformed() end
  return { issuer = name(fields[3].content), subject = name(fields[5].content), not_before = times[1], not_after = times[2],
    sha256 = host.sha256_hex(der), key_sha256 = host.sha256_hex(fields[6].whole) }
end

--- { { subject, issuer, not_before, not_after, sha256, key_sha256 } … } | nil, "malformed"
function M.list(pem)
  local out = {}
  for body in pem:gmatch("%-%-%-%-%-BEGIN CERTIFICATE%-%-%-%-%-([%w+/=%s]*)%-%-%-%-%-END CERTIFICATE") do
    local der = secret.decode("base64", (body:gsub("%s", "")))
    local ok, cert = pcall(read, der or "")
    if not ok and type(cert) ~= "table" then error(cert, 0) end
    if not ok then return nil, "malformed" end
    out[#out + 1] = cert
    if #out == MOST then break end
  end
  return out
end

return M
