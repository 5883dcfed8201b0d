--- The machine, as workers and commands see it: host.core (proxy.c), and for commands what cli.machine makes of system calls.
local M = require "host.core"
if M.become then      -- workers do not have it
  setmetatable(M, { __index = function(_, name) return require("cli.machine")[name] end })
end

--- random_token(prefix) -> token, hash: the prefix and 256 random bits in base64url; the token's SHA-256 in hex.
function M.random_token(prefix)
  local token = prefix .. require("secret.core").base64url(M.random(32))
  return token, M.sha256_hex(token)
end

return M
