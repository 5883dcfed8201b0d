--- SOCKS5's request (RFC 1928 4), whole, as the head of a CONNECT; or a reply's code (6), one byte. C has taken the messages
-- before it (proxy.c, section door), and sends the reply. A name that is none (255 bytes, a NUL) is a failure.
local M = {}

local CONNECT, IPV4, NAME, IPV6 = 1, 1, 3, 4
local FAILURE, NO_SUCH_COMMAND, NO_SUCH_ADDRESS = "\1", "\7", "\8"

function M.request(_, _, message)
  local version, command, reserved, kind = message:byte(1, 4)
  local host
  if command ~= CONNECT then return NO_SUCH_COMMAND end
  if kind == IPV4 then
    host = ("%d.%d.%d.%d"):format(message:byte(5, 8))
  elseif kind == IPV6 then
    host = ("%x:%x:%x:%x:%x:%x:%x:%x"):format((">I2"):rep(8):unpack(message, 5))
  elseif kind == NAME then
    host = message:sub(6, -3)
  else
    return NO_SUCH_ADDRESS
  end
  host = require("http").canonical_host(host)
  if version ~= 5 or reserved ~= 0 or not host then return FAILURE end
  if host:find(":", 1, true) then host = "[" .. host .. "]" end
  return ("CONNECT %s:%d HTTP/1.0\r\n\r\n"):format(host, (">I2"):unpack(message, #message - 1))
end

return M
