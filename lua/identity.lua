--- What a credential's own TLS is made of (tls.identity): its certificate and key, and what it trusts.
local tls = require "tls"
local M = {}

local PINS = "pins:"   -- as proxy.c's IDENT_PINS: SHA-256 of what is trusted as itself follows, 32 bytes each

-- Pins: "sha256:HEX", several with spaces or commas between, colons between bytes as openssl prints them. nil: malformed.
local function pins(text)
  local list = {}
  for word in text:gmatch("[^ ,\t\r\n]+") do
    local hex = (word:match("^[Ss][Hh][Aa]256:(.*)$") or ""):gsub(":*(%x%x):*", "%1")
    if not hex:find("^" .. ("%x"):rep(64) .. "$") then return nil end
    list[#list + 1] = hex:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
  end
  return list[1] and PINS .. table.concat(list)
end

--- As tls.identity, but that ca may also be the pins of certificates or of their keys.
function M.new(cert, key, ca, legacy)
  if ca and not ca:find("-----BEGIN ", 1, true) then
    if #ca > 65536 then return nil, "ca", "too_large" end
    ca = pins(ca)
    if not ca then return nil, "ca", "malformed_pin" end
  end
  return tls.identity(cert, key, ca, legacy)
end

return M
